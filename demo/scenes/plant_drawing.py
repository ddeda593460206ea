"""Drawing one grown plant with a pen: leaves by their distance, stems, fruits, flowers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from demo.scenes import leaf_geometry as foliage
from demo.scenes.greenhouse import Pen, ink
from demo.scenes.leaf_geometry import Floats, Sun, View
from demo.scenes.plants import Plant

RIPE = ((196, 44, 30), (222, 130, 30), (70, 120, 40), (214, 188, 50))
PETALS = (
    (226, 60, 80),
    (240, 190, 40),
    (236, 232, 226),
    (190, 90, 190),
    (240, 130, 50),
    (120, 90, 200),
)
MARGIN = 0.68
"""Where on a variegated leaf, from the midrib to the edge, the green ends and the cream begins."""

Ink = tuple[int, int, int]


def draw(
    plant: Plant, pen: Pen, view: View, sun: Sun, steps: int, rng: np.random.Generator
) -> None:
    """Draw a plant back to front: far leaves, stems, near leaves, fruits, flowers.

    Args:
        plant: What to draw.
        pen: Draws in RGBA mode on an RGB picture.
        view: The camera.
        sun: The light.
        steps: Pieces along a leaf; more for a plant that is near.
        rng: For small differences in colour and form.
    """
    shapes, depth = _shapes(plant, view, sun, steps, rng)
    order = np.argsort(depth)
    behind = int((depth < -0.02).sum())
    for leaf in order[:behind]:
        _draw_leaf(shapes[leaf], pen)
    _draw_stems(plant, pen, view)
    for leaf in order[behind:]:
        _draw_leaf(shapes[leaf], pen)
    _draw_fruits(plant, pen, view, rng)
    _draw_flowers(plant, pen, view, rng)


@dataclass(frozen=True)
class _Shape:
    """One leaf as flat coloured pieces; every list of points is x, y, x, y, … in pixels.

    Attributes:
        shadow: What lies under it.
        pieces: Quadrilaterals from midrib to edge.
        inks: Their colours.
        heart: The green middle of a variegated leaf, or nothing.
        veins: Midrib and side veins; few on a narrow leaf.
        heart_ink: The colour of the heart.
        vein_ink: The colour of the veins.
        line: Thickness of a vein.
    """

    shadow: list[float]
    pieces: list[list[float]]
    inks: list[Ink]
    heart: list[float]
    veins: list[list[float]]
    heart_ink: Ink
    vein_ink: Ink
    line: int


def _draw_leaf(shape: _Shape, pen: Pen) -> None:
    pen.polygon(shape.shadow, fill=(12, 20, 12, 70))
    for piece, colour in zip(shape.pieces, shape.inks, strict=True):
        pen.polygon(piece, fill=colour)
    if shape.heart:
        pen.polygon(shape.heart, fill=shape.heart_ink)
    for vein in shape.veins:
        pen.line(vein, fill=shape.vein_ink, width=shape.line)


def _shapes(
    plant: Plant, view: View, sun: Sun, steps: int, rng: np.random.Generator
) -> tuple[list[_Shape], Floats]:
    """All leaves as shapes, and how near ``(n,)`` each is to the camera."""
    rib, edges, normals = foliage.blades(plant.leaves, plant.species.profile(steps))
    colours, hearts = _colours(plant, rib, normals, sun, view, rng)
    flat_rib, flat_edges = view.project(rib), view.project(edges)
    inner = flat_rib[:, None] + (flat_edges - flat_rib[:, None]) * MARGIN
    drop = view.scale * np.array([0.006, 0.012])
    columns = (
        _lists(_around(flat_edges) + drop),
        _quads(flat_rib, flat_edges),
        _inks(colours),
        _lists(_around(inner)) if plant.leaves.mottle.any() else [[]] * len(rib),
        _veins(plant, flat_rib, flat_edges),
        _inks(hearts),
        _inks(colours.mean((1, 2)) * 1.12 + 10),
        [max(1, round(view.scale / 180))] * len(rib),
    )
    return [_Shape(*row) for row in zip(*columns, strict=True)], rib[:, steps // 2, 1]


def _colours(
    plant: Plant, rib: Floats, normals: Floats, sun: Sun, view: View, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Lit RGB of every piece ``(n, 2, steps, 3)``, and of the hearts ``(n, 3)``."""
    light, shine = foliage.shades(normals, sun, view.toward(), plant.condition.gloss)
    inner = _inner(rib)[:, None, None]
    lit = foliage.paint(plant.leaves, light.shape[-1], rng) * (light * inner * 1.3)[..., None]
    dry = np.clip(plant.leaves.decay * 1.2, 0, 0.9)
    hearts = foliage.blend(plant.leaves.tint, foliage.STRAW, dry)
    hearts = hearts * (light * inner).mean((1, 2))[:, None] * 1.25
    return lit + (shine * inner * 150)[..., None], hearts


def _inner(rib: Floats) -> Floats:
    """How much light ``(n,)`` gets through to each leaf: less deep inside and low down."""
    middle = rib[:, rib.shape[1] // 2]
    out = np.hypot(middle[:, 0], middle[:, 1]) * 1.2 + np.maximum(middle[:, 2], 0) * 0.6
    return np.asarray(np.clip(0.5 + out * 0.75, 0.5, 1.05))


def _lists(outlines: Floats) -> list[list[float]]:
    """Outlines ``(n, k, 2)`` as x, y, x, y, …"""
    flat: list[list[float]] = outlines.reshape(len(outlines), -1).tolist()
    return flat


def _around(edges: Floats) -> Floats:
    """Outlines ``(n, 2 k, 2)`` up one edge of a leaf and down the other, of ``(n, 2, k, 2)``."""
    return np.concatenate([edges[:, 0], edges[:, 1, ::-1]], 1)


def _quads(rib: Floats, edges: Floats) -> list[list[list[float]]]:
    """The pieces between the midrib and both edges."""
    ribs = np.stack([rib, rib], 1)
    corners = (ribs[:, :, :-1], edges[:, :, :-1], edges[:, :, 1:], ribs[:, :, 1:])
    flat: list[list[list[float]]] = np.stack(corners, 3).reshape(len(rib), -1, 8).tolist()
    return flat


def _veins(plant: Plant, rib: Floats, edges: Floats) -> list[list[list[float]]]:
    """The midrib and, on a broad leaf, pairs of side veins."""
    ribs = [[line] for line in _lists(rib)]
    if plant.species.slim < 0.18 or plant.species.leaflets or rib.shape[1] < 8:
        return ribs
    start = np.arange(rib.shape[1] // 3, rib.shape[1] - 2, 2)
    tips = edges[:, :, start + 1] * 0.85 + rib[:, None, start + 1] * 0.15
    roots = np.broadcast_to(rib[:, None, start], tips.shape)
    pairs = np.stack([roots, tips], 3).reshape(len(rib), -1, 4).tolist()
    return [one + two for one, two in zip(ribs, pairs, strict=True)]


def _inks(colours: Floats) -> list[Any]:
    """RGB ``(n, …, 3)`` as one colour, or one list of colours, for each leaf."""
    whole = np.clip(colours, 0, 255).astype(int)
    if whole.ndim == 2:
        return [tuple(row) for row in whole.tolist()]
    return [[tuple(row) for row in leaf] for leaf in whole.reshape(len(whole), -1, 3).tolist()]


def _draw_stems(plant: Plant, pen: Pen, view: View) -> None:
    thick = max(1, round(view.scale * 0.016))
    colour = plant.leaves.tint.mean(0) * 0.8 + np.array([20, 12, 4])
    for path in _lists(view.project(plant.stems)):
        pen.line(path, fill=ink(colour, 0.6), width=thick)
        pen.line(path, fill=ink(colour), width=max(1, thick // 2))


def _draw_fruits(plant: Plant, pen: Pen, view: View, rng: np.random.Generator) -> None:
    colour = np.array(RIPE[int(rng.integers(len(RIPE)))], float)
    for x, y in view.project(plant.fruits).tolist():
        size = view.scale * rng.uniform(0.025, 0.05)
        _ball(pen, x, y + size * 2, size, colour)


def _ball(pen: Pen, x: float, y: float, size: float, colour: Floats) -> None:
    """A round fruit, lit from the upper left."""
    for shrink, light in ((1.0, 0.55), (0.85, 0.85), (0.6, 1.0)):
        left, up = x - size * (1 - shrink) * 0.4, y - size * (1 - shrink) * 0.5
        _disc(pen, left, up, size * shrink, colour * light)
    _disc(pen, x - size * 0.35, y - size * 0.4, size * 0.18, np.array([250.0, 244.0, 232.0]))


def _draw_flowers(plant: Plant, pen: Pen, view: View, rng: np.random.Generator) -> None:
    fresh = np.array(PETALS[int(rng.integers(len(PETALS)))], float)
    withered = plant.condition.limp * rng.uniform(0.2, 0.9)
    colour = foliage.blend(fresh, foliage.BROWN, np.array(withered * 0.6))
    full = view.scale * (1 - 0.4 * withered)
    for x, y in view.project(plant.tips).tolist():
        _flower(pen, x, y, full * rng.uniform(0.045, 0.075), colour, rng)


def _flower(
    pen: Pen, x: float, y: float, size: float, colour: Floats, rng: np.random.Generator
) -> None:
    petals = int(rng.integers(5, 9))
    for turn in rng.uniform(0, 6.28) + np.arange(petals) * 2 * np.pi / petals:
        across, down = size * 0.6 * np.cos(turn), size * 0.5 * np.sin(turn)
        _disc(pen, x + across, y + down, size * 0.45, colour * rng.uniform(0.72, 1.0))
    _disc(pen, x, y, size * 0.28, np.array([206.0, 160.0, 50.0]))


def _disc(pen: Pen, x: float, y: float, size: float, colour: Floats) -> None:
    pen.ellipse((x - size, y - size, x + size, y + size), fill=ink(colour))
