"""Pens, colours and light that all scenes share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import ImageDraw

from backend.arrays import Doubles

Pen = ImageDraw.ImageDraw
Rgb = tuple[int, int, int]
Outline = list[float]
"""A polygon as x, y, x, y, … in pixels of the large drawing."""


def sample_colour(rng: np.random.Generator, colours: tuple[tuple[int, int, int], ...]) -> Doubles:
    """Sample one of the colours, slightly lighter or darker: ``(3,)``, 0 to 255."""
    colour = np.array(colours[int(rng.integers(len(colours)))], float)
    return np.clip(colour * rng.uniform(0.8, 1.15) + rng.normal(0, 6, 3), 0, 255)


def to_rgb(colour: Doubles, brightness: float = 1.0) -> tuple[int, int, int]:
    """Return a colour as integers."""
    red, green, blue = (min(max(int(channel * brightness), 0), 255) for channel in colour.tolist())
    return red, green, blue


@dataclass(frozen=True)
class Sunlight:
    """Direction to the sun as a unit vector ``(3,)``, and the share of ambient light, 0 to 1."""

    direction: Doubles
    ambient: float


def normalize_vectors(vectors: Doubles) -> Doubles:
    """Scale vectors ``(..., 3)`` to unit length."""
    lengths = np.sqrt((vectors * vectors).sum(-1, keepdims=True))
    return np.asarray(vectors / np.maximum(lengths, 1e-9))


def blend_colours(
    colours: Doubles, target: tuple[float, float, float], fraction: Doubles
) -> Doubles:
    """Mix RGB ``(..., 3)`` with another colour by a fraction ``(...)``, 0 to 1."""
    return np.asarray(colours + (np.asarray(target) - colours) * fraction[..., None])


def transform_points(
    points: Doubles, position: Doubles, angle: float, size: float, y_scale: float = 1.0
) -> Doubles:
    """Squash points ``(..., 2)`` along y, then rotate, scale and move them."""
    cos, sin = math.cos(angle) * size, math.sin(angle) * size
    return np.asarray(points @ np.array([[cos, sin], [-sin * y_scale, cos * y_scale]]) + position)


def flatten_points(points: Doubles) -> Outline:
    """Return points ``(n, 2)`` as x, y, x, y, …"""
    coordinates: Outline = points.ravel().tolist()
    return coordinates


def draw_ellipse(
    pen: Pen, x: float, y: float, half_width: float, half_height: float, fill: tuple[int, ...]
) -> None:
    """Fill an ellipse around a center."""
    pen.ellipse((x - half_width, y - half_height, x + half_width, y + half_height), fill=fill)
