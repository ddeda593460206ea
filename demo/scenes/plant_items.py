"""Leaves, flowers, stalks and round bodies seen flat, as items of a picture of fruits."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from demo.scenes.fruit_scene import Item, Outline
from demo.scenes.greenhouse import Pen, Pixels, ink
from demo.scenes.leaf_geometry import Floats, Sun, unit

CREST = 0.8
"""Where a leaf is widest: the lower, the nearer to its stalk."""

SHADE = np.array([0.02, 0.06])
"""Where a leaf's shadow falls, by its length."""

ARCH = np.array([[n / 6, 0.15 * math.sin(math.pi * n / 6)] for n in range(7)])
"""Places along a stalk and how far each lies above the straight line, by its length."""


def sun(rng: np.random.Generator) -> Sun:
    """Daylight from above, more or less from one side; y points to the camera."""
    direction = np.array([rng.normal(0, 0.6), rng.uniform(0.5, 1.0), rng.uniform(0.3, 0.9)])
    return Sun(unit(direction), rng.uniform(0.35, 0.6))


def turned(points: Floats, at: Floats, angle: float, size: float, squash: float = 1.0) -> Floats:
    """Points ``(..., 2)`` squashed along y, turned, scaled and moved to a place."""
    cos, sin = math.cos(angle) * size, math.sin(angle) * size
    return np.asarray(points @ np.array([[cos, sin], [-sin * squash, cos * squash]]) + at)


def flat(points: Floats) -> Outline:
    """Points ``(n, 2)`` as x, y, x, y, …"""
    numbers: Outline = points.ravel().tolist()
    return numbers


@cache
def _blade(slim: float, teeth: int) -> tuple[Floats, int]:
    """A leaf one long, along x, as points ``(n, 2)``, and how many points there are on an edge.

    The points are those of the midrib and of one edge from stalk to tip, then of the other edge
    and of the midrib back to the stalk, then a stroke through all side veins.
    """
    along = np.linspace(0, 1, 4 * teeth + 1)
    half = slim * np.sin(np.pi * along**CREST) ** 0.75
    half = half * (1 - 0.022 * teeth * (np.arange(len(along)) % 2))
    rib, left, right = (np.stack([along, side * half], -1) for side in (0.0, 1.0, -1.0))
    start = np.arange(2, len(along) - 4, 3)
    tips = [edge[start + 2] * 0.88 + rib[start + 2] * 0.12 for edge in (left, right)]
    strokes = np.stack([rib[start], tips[0], rib[start], tips[1], rib[start]], 1).reshape(-1, 2)
    return np.concatenate([rib, left, right[::-1], rib[::-1], strokes]), len(along)


def leaf(
    at: Floats,
    length: float,
    angle: float,
    colour: Floats,
    light: Sun,
    rng: np.random.Generator,
    slim: float,
    teeth: int,
) -> Item:
    """A leaf, folded along its midrib.

    Args:
        at: ``(2,)`` where it starts.
        length: How long it is.
        angle: The way it points.
        colour: ``(3,)`` RGB.
        light: The light.
        rng: For its bend and its tilt.
        slim: Half its width by its length.
        teeth: Half the number of teeth on either side.
    """
    blade, edge = _blade(slim, teeth)
    bent = blade.copy()
    bent[:, 1] += rng.normal(0, 0.12) * bent[:, 0] ** 2
    placed = turned(bent, at, angle, length, rng.uniform(0.55, 1.0))
    path, step = flat(placed), 2 * edge
    rib, left, right, back = (path[n : n + step] for n in range(0, 4 * step, step))
    veins = path[4 * step :]
    under = flat(placed[edge : 3 * edge] + length * SHADE)
    across = -math.sin(angle) * light.direction[0] - math.cos(angle) * light.direction[2]
    tone, fold = rng.uniform(0.85, 1.1), 0.3 * (1 - light.ambient) * float(across)
    one, other = ink(colour, tone * (1 + fold)), ink(colour, tone * (1 - fold))
    vein, thick = ink(colour * 1.1 + 14, tone), 2 if length > 50 else 1

    def paint(picture: Image.Image, pen: Pen) -> None:
        ImageDraw.Draw(picture, "RGBA").polygon(under, fill=(10, 16, 8, 80))
        pen.polygon(left + back, fill=one)
        pen.polygon(right + rib, fill=other)
        pen.line(veins, fill=vein)
        pen.line(rib, fill=vein, width=thick)

    return Item((left + right,), paint)


def stalk(start: Floats, end: Floats, colour: Floats, thick: int) -> Item:
    """A thin stalk or a branch that arches between two places; too thin to hide anything."""
    path = start + (end - start) * ARCH[:, :1]
    path[:, 1] -= math.dist(start, end) * ARCH[:, 1]

    def paint(_: Image.Image, pen: Pen) -> None:
        pen.line(flat(path), fill=ink(colour, 0.6), width=thick + 2)
        pen.line(flat(path - 0.5), fill=ink(colour), width=thick)

    return Item((), paint)


def flower(at: Floats, size: float, colour: Floats, petals: int, rng: np.random.Generator) -> Item:
    """A flower with round petals and a yellow middle; its size is from side to side."""
    turn, squash = rng.uniform(0, 6.28), rng.uniform(0.6, 1.0)
    ring = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    petal = np.stack([0.3 + 0.2 * np.cos(ring), 0.19 * np.sin(ring)], -1)
    heart = turned(0.13 * np.stack([np.cos(ring), np.sin(ring)], -1), at, 0.0, size, squash)
    angles = turn + np.arange(petals) * 2 * np.pi / petals
    spread = [turned(petal, np.zeros(2), float(angle), 1.0) for angle in angles]
    outlines = tuple(flat(turned(points, at, 0.0, size, squash)) for points in spread)
    lights = rng.uniform(0.8, 1.02, petals).tolist()

    def paint(_: Image.Image, pen: Pen) -> None:
        for outline, light in zip(outlines, lights, strict=True):
            pen.polygon(outline, fill=ink(colour, light), outline=ink(colour, light * 0.8))
        pen.polygon(flat(heart), fill=(222, 178, 52))

    return Item(outlines, paint)


def shade(outline: Floats, middle: Floats, reach: float, colours: Floats, sun: Sun) -> Image.Image:
    """A round body lit by the sun, as an RGBA patch as large as its outline needs.

    Args:
        outline: ``(n, 2)`` in pixels from the patch's upper left corner.
        middle: ``(2,)`` of the body.
        reach: Its half width.
        colours: ``(rows, columns, 3)`` unlit RGB.
        sun: The light.
    """
    rows, columns = colours.shape[:2]
    u = ((np.arange(columns, dtype=np.float32) - middle[0]) / reach)[None]
    v = ((np.arange(rows, dtype=np.float32) - middle[1]) / reach)[:, None]
    deep = np.sqrt(np.clip(1.1 - u * u - v * v, 0.05, 1))
    x, y, z = (float(part) for part in sun.direction)
    facing = np.clip(u * x + deep * y - v * z, 0, 1)
    light = (sun.ambient + (1.08 - sun.ambient) * facing) * (0.72 + 0.28 * deep)
    shine = 130 * facing**22
    lit = np.clip(colours * light[..., None] + shine[..., None], 0, 255).astype(np.uint8)
    patch = Image.fromarray(lit)
    mask = Image.new("L", patch.size)
    ImageDraw.Draw(mask).polygon(flat(outline), fill=255)
    patch.putalpha(mask)
    return patch


def grid(rows: int, columns: int, origin: Floats, angle: float) -> tuple[Pixels, Pixels]:
    """How far each pixel of a patch lies along and across an axis through a place, in pixels."""
    x = np.arange(columns, dtype=np.float32)[None] - np.float32(origin[0])
    y = np.arange(rows, dtype=np.float32)[:, None] - np.float32(origin[1])
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin
