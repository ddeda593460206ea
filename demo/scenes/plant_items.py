"""Make leaves, flowers, stalks and round fruits as items of a scene."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from backend.arrays import Doubles, Floats
from demo.scenes.drawing import (
    Pen,
    Sunlight,
    flatten_points,
    normalize_vectors,
    to_rgb,
    transform_points,
)
from demo.scenes.fruit_scene import SceneItem

LEAF_WIDTH_EXPONENT = 0.8
"""Exponent of the position along a leaf; lower values move the widest part to the stalk."""

LEAF_SHADOW_OFFSET = np.array([0.02, 0.06])
"""Offset of the shadow of a leaf, in leaf lengths."""

STALK_ARCH_POINTS = np.array([[n / 6, 0.15 * math.sin(math.pi * n / 6)] for n in range(7)])
"""Positions along a stalk and their height above the straight line, in stalk lengths."""


def sample_sunlight(rng: np.random.Generator) -> Sunlight:
    """Sample daylight from above; y points to the camera."""
    direction = np.array([rng.normal(0, 0.6), rng.uniform(0.5, 1.0), rng.uniform(0.3, 0.9)])
    return Sunlight(normalize_vectors(direction), rng.uniform(0.35, 0.6))


@cache
def _leaf_outline(half_width_ratio: float, teeth: int) -> tuple[Doubles, int]:
    """Return the points ``(n, 2)`` of a leaf of length 1 along x, and the points per edge.

    The order is midrib, one edge, the other edge reversed, midrib reversed, side veins.
    """
    positions = np.linspace(0, 1, 4 * teeth + 1)
    half_widths = half_width_ratio * np.sin(np.pi * positions**LEAF_WIDTH_EXPONENT) ** 0.75
    half_widths = half_widths * (1 - 0.022 * teeth * (np.arange(len(positions)) % 2))
    midrib, left, right = (
        np.stack([positions, side * half_widths], -1) for side in (0.0, 1.0, -1.0)
    )
    start = np.arange(2, len(positions) - 4, 3)
    tips = [edge[start + 2] * 0.88 + midrib[start + 2] * 0.12 for edge in (left, right)]
    strokes = np.stack([midrib[start], tips[0], midrib[start], tips[1], midrib[start]], 1).reshape(
        -1, 2
    )
    return np.concatenate([midrib, left, right[::-1], midrib[::-1], strokes]), len(positions)


def make_leaf(
    position: Doubles,
    length: float,
    angle: float,
    colour: Doubles,
    light: Sunlight,
    rng: np.random.Generator,
    half_width_ratio: float,
    teeth: int,
) -> SceneItem:
    """Make a leaf that is folded along its midrib.

    Args:
        position: ``(2,)`` its base.
        length: length in pixels.
        angle: direction in radians.
        colour: ``(3,)`` RGB.
        light: the sunlight.
        rng: samples its bend and tilt.
        half_width_ratio: half width divided by length.
        teeth: half the number of teeth on each side.
    """
    blade, points_per_edge = _leaf_outline(half_width_ratio, teeth)
    bent_outline = blade.copy()
    bent_outline[:, 1] += rng.normal(0, 0.12) * bent_outline[:, 0] ** 2
    placed_outline = transform_points(bent_outline, position, angle, length, rng.uniform(0.55, 1.0))
    coordinates, edge_length = flatten_points(placed_outline), 2 * points_per_edge
    midrib, left, right, back = (
        coordinates[n : n + edge_length] for n in range(0, 4 * edge_length, edge_length)
    )
    veins = coordinates[4 * edge_length :]
    shadow_outline = flatten_points(
        placed_outline[points_per_edge : 3 * points_per_edge] + length * LEAF_SHADOW_OFFSET
    )
    light_across = -math.sin(angle) * light.direction[0] - math.cos(angle) * light.direction[2]
    brightness, fold = rng.uniform(0.85, 1.1), 0.3 * (1 - light.ambient) * float(light_across)
    left_colour = to_rgb(colour, brightness * (1 + fold))
    right_colour = to_rgb(colour, brightness * (1 - fold))
    vein_colour, midrib_width = to_rgb(colour * 1.1 + 14, brightness), 2 if length > 50 else 1

    def paint(image: Image.Image, pen: Pen) -> None:
        ImageDraw.Draw(image, "RGBA").polygon(shadow_outline, fill=(10, 16, 8, 80))
        pen.polygon(left + back, fill=left_colour)
        pen.polygon(right + midrib, fill=right_colour)
        pen.line(veins, fill=vein_colour)
        pen.line(midrib, fill=vein_colour, width=midrib_width)

    return SceneItem((left + right,), paint)


def make_stalk(start: Doubles, end: Doubles, colour: Doubles, line_width: int) -> SceneItem:
    """Make an arched stalk or branch, which is too thin to hide anything."""
    path = start + (end - start) * STALK_ARCH_POINTS[:, :1]
    path[:, 1] -= math.dist(start, end) * STALK_ARCH_POINTS[:, 1]

    def paint(_: Image.Image, pen: Pen) -> None:
        pen.line(flatten_points(path), fill=to_rgb(colour, 0.6), width=line_width + 2)
        pen.line(flatten_points(path - 0.5), fill=to_rgb(colour), width=line_width)

    return SceneItem((), paint)


def make_flower(
    position: Doubles, size: float, colour: Doubles, petals: int, rng: np.random.Generator
) -> SceneItem:
    """Make a flower with round petals and a yellow center; ``size`` is its width."""
    first_angle, y_scale = rng.uniform(0, 6.28), rng.uniform(0.6, 1.0)
    ring = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    petal = np.stack([0.3 + 0.2 * np.cos(ring), 0.19 * np.sin(ring)], -1)
    centre = transform_points(
        0.13 * np.stack([np.cos(ring), np.sin(ring)], -1), position, 0.0, size, y_scale
    )
    angles = first_angle + np.arange(petals) * 2 * np.pi / petals
    petals_outlines = [transform_points(petal, np.zeros(2), float(angle), 1.0) for angle in angles]
    outlines = tuple(
        flatten_points(transform_points(points, position, 0.0, size, y_scale))
        for points in petals_outlines
    )
    brightnesses = rng.uniform(0.8, 1.02, petals).tolist()

    def paint(_: Image.Image, pen: Pen) -> None:
        for outline, light in zip(outlines, brightnesses, strict=True):
            pen.polygon(outline, fill=to_rgb(colour, light), outline=to_rgb(colour, light * 0.8))
        pen.polygon(flatten_points(centre), fill=(222, 178, 52))

    return SceneItem(outlines, paint)


def shade_sphere(
    outline: Doubles, middle: Doubles, radius: float, colours: Doubles, sun: Sunlight
) -> Image.Image:
    """Draw a round body in sunlight, as an RGBA patch of the size of its outline.

    Args:
        outline: ``(n, 2)`` in pixels from the patch's upper left corner.
        middle: ``(2,)`` center of the body.
        radius: half width of the body.
        colours: ``(rows, columns, 3)`` unlit RGB.
        sun: the sunlight.
    """
    rows, columns = colours.shape[:2]
    u = ((np.arange(columns, dtype=np.float32) - middle[0]) / radius)[None]
    v = ((np.arange(rows, dtype=np.float32) - middle[1]) / radius)[:, None]
    depth = np.sqrt(np.clip(1.1 - u * u - v * v, 0.05, 1))
    x, y, z = (float(part) for part in sun.direction)
    facing = np.clip(u * x + depth * y - v * z, 0, 1)
    light = (sun.ambient + (1.08 - sun.ambient) * facing) * (0.72 + 0.28 * depth)
    shine = 130 * facing**22
    lit_pixels = np.clip(colours * light[..., None] + shine[..., None], 0, 255).astype(np.uint8)
    patch = Image.fromarray(lit_pixels)
    mask = Image.new("L", patch.size)
    ImageDraw.Draw(mask).polygon(flatten_points(outline), fill=255)
    patch.putalpha(mask)
    return patch


def axis_coordinates(
    rows: int, columns: int, axis_origin: Doubles, angle: float
) -> tuple[Floats, Floats]:
    """Return the coordinates of each pixel along and across an axis, in pixels."""
    x = np.arange(columns, dtype=np.float32)[None] - np.float32(axis_origin[0])
    y = np.arange(rows, dtype=np.float32)[:, None] - np.float32(axis_origin[1])
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin
