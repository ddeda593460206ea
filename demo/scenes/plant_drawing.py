"""Draw a plant: leaves sorted by distance, stems, fruits, flowers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.arrays import Doubles
from demo.scenes import leaf_geometry as foliage
from demo.scenes.drawing import Pen, Rgb, Sunlight, blend_colours, draw_ellipse, to_rgb
from demo.scenes.leaf_geometry import CameraView
from demo.scenes.plants import Plant

FRUIT_COLOURS = ((196, 44, 30), (222, 130, 30), (70, 120, 40), (214, 188, 50))
PETAL_COLOURS = (
    (226, 60, 80),
    (240, 190, 40),
    (236, 232, 226),
    (190, 90, 190),
    (240, 130, 50),
    (120, 90, 200),
)
VARIEGATED_MARGIN_SHARE = 0.68
"""Position of the border between green and cream, from the midrib (0) to the edge (1)."""


def draw_plant(
    plant: Plant, pen: Pen, view: CameraView, sun: Sunlight, steps: int, rng: np.random.Generator
) -> None:
    """Draw a plant back to front: far leaves, stems, near leaves, fruits, flowers.

    The pen draws in RGBA mode on an RGB image. A leaf has ``steps`` pieces along its length.
    """
    shapes, depth = _make_leaf_shapes(plant, view, sun, steps, rng)
    order = np.argsort(depth)
    far_leaf_count = int((depth < -0.02).sum())
    for leaf in order[:far_leaf_count]:
        _draw_leaf(shapes[leaf], pen)
    _draw_stems(plant, pen, view)
    for leaf in order[far_leaf_count:]:
        _draw_leaf(shapes[leaf], pen)
    _draw_fruits(plant, pen, view, rng)
    _draw_flowers(plant, pen, view, rng)


@dataclass(frozen=True)
class _LeafShape:
    """One leaf as flat coloured pieces; lists of points are x, y, x, y, … in pixels.

    ``quads`` reach from the midrib to an edge; ``centre`` is the green part of a variegated leaf.
    """

    shadow: list[float]
    quads: list[list[float]]
    quad_colours: list[Rgb]
    centre: list[float]
    veins: list[list[float]]
    centre_colour: Rgb
    vein_colour: Rgb
    vein_width: int


def _draw_leaf(shape: _LeafShape, pen: Pen) -> None:
    pen.polygon(shape.shadow, fill=(12, 20, 12, 70))
    for piece, colour in zip(shape.quads, shape.quad_colours, strict=True):
        pen.polygon(piece, fill=colour)
    if shape.centre:
        pen.polygon(shape.centre, fill=shape.centre_colour)
    for vein in shape.veins:
        pen.line(vein, fill=shape.vein_colour, width=shape.vein_width)


def _make_leaf_shapes(
    plant: Plant, view: CameraView, sun: Sunlight, steps: int, rng: np.random.Generator
) -> tuple[list[_LeafShape], Doubles]:
    """Return the shapes of all leaves, and their positions ``(n,)`` towards the camera."""
    midribs, edges, normals = foliage.compute_leaf_surfaces(
        plant.leaves, plant.species.half_width_profile(steps)
    )
    colours, centre_colours = _leaf_colours(plant, midribs, normals, sun, view, rng)
    projected_midribs, projected_edges = view.project(midribs), view.project(edges)
    inner_edges = (
        projected_midribs[:, None]
        + (projected_edges - projected_midribs[:, None]) * VARIEGATED_MARGIN_SHARE
    )
    shadow_offset = view.scale * np.array([0.006, 0.012])
    columns = (
        _point_lists(_leaf_outlines(projected_edges) + shadow_offset),
        _leaf_quads(projected_midribs, projected_edges),
        _rgb_lists(colours),
        _point_lists(_leaf_outlines(inner_edges))
        if plant.leaves.variegation.any()
        else [[]] * len(midribs),
        _leaf_veins(plant, projected_midribs, projected_edges),
        _rgb_lists(centre_colours),
        _rgb_lists(colours.mean((1, 2)) * 1.12 + 10),
        [max(1, round(view.scale / 180))] * len(midribs),
    )
    return [_LeafShape(*row) for row in zip(*columns, strict=True)], midribs[:, steps // 2, 1]


def _leaf_colours(
    plant: Plant,
    midribs: Doubles,
    normals: Doubles,
    sun: Sunlight,
    view: CameraView,
    rng: np.random.Generator,
) -> tuple[Doubles, Doubles]:
    """Compute the lit RGB of all pieces ``(n, 2, steps, 3)`` and of the centres ``(n, 3)``."""
    light, specular = foliage.compute_lighting(
        normals, sun, view.camera_direction(), plant.condition.gloss
    )
    occlusion = _ambient_occlusion(midribs)[:, None, None]
    lit_colours = (
        foliage.colour_leaves(plant.leaves, light.shape[-1], rng)
        * (light * occlusion * 1.3)[..., None]
    )
    dryness = np.clip(plant.leaves.decay * 1.2, 0, 0.9)
    centre_colours = blend_colours(plant.leaves.colour, foliage.STRAW_RGB, dryness)
    centre_colours = centre_colours * (light * occlusion).mean((1, 2))[:, None] * 1.25
    return lit_colours + (specular * occlusion * 150)[..., None], centre_colours


def _ambient_occlusion(midribs: Doubles) -> Doubles:
    """Compute the light ``(n,)`` that reaches each leaf: less inside the plant and low down."""
    centres = midribs[:, midribs.shape[1] // 2]
    outwardness = np.hypot(centres[:, 0], centres[:, 1]) * 1.2 + np.maximum(centres[:, 2], 0) * 0.6
    return np.asarray(np.clip(0.5 + outwardness * 0.75, 0.5, 1.05))


def _point_lists(outlines: Doubles) -> list[list[float]]:
    """Return outlines ``(n, k, 2)`` as lists x, y, x, y, …"""
    point_lists: list[list[float]] = outlines.reshape(len(outlines), -1).tolist()
    return point_lists


def _leaf_outlines(edges: Doubles) -> Doubles:
    """Join both edges ``(n, 2, k, 2)`` to outlines ``(n, 2 k, 2)``."""
    return np.concatenate([edges[:, 0], edges[:, 1, ::-1]], 1)


def _leaf_quads(midribs: Doubles, edges: Doubles) -> list[list[list[float]]]:
    """Return the pieces between the midrib and both edges."""
    ribs = np.stack([midribs, midribs], 1)
    corners = (ribs[:, :, :-1], edges[:, :, :-1], edges[:, :, 1:], ribs[:, :, 1:])
    quads: list[list[list[float]]] = np.stack(corners, 3).reshape(len(midribs), -1, 8).tolist()
    return quads


def _leaf_veins(plant: Plant, midribs: Doubles, edges: Doubles) -> list[list[list[float]]]:
    """Return the midrib and, on broad leaves, pairs of side veins."""
    midrib_lines = [[line] for line in _point_lists(midribs)]
    if plant.species.half_width_ratio < 0.18 or plant.species.leaflet_pairs or midribs.shape[1] < 8:
        return midrib_lines
    start = np.arange(midribs.shape[1] // 3, midribs.shape[1] - 2, 2)
    tips = edges[:, :, start + 1] * 0.85 + midribs[:, None, start + 1] * 0.15
    roots = np.broadcast_to(midribs[:, None, start], tips.shape)
    side_vein_lists = np.stack([roots, tips], 3).reshape(len(midribs), -1, 4).tolist()
    return [
        midrib_line + side_veins
        for midrib_line, side_veins in zip(midrib_lines, side_vein_lists, strict=True)
    ]


def _rgb_lists(colours: Doubles) -> list[Any]:
    """Return RGB ``(n, …, 3)`` as one colour or list of colours for each leaf."""
    rgb = np.clip(colours, 0, 255).astype(int)
    if rgb.ndim == 2:
        return [tuple(row) for row in rgb.tolist()]
    return [[tuple(row) for row in leaf] for leaf in rgb.reshape(len(rgb), -1, 3).tolist()]


def _draw_stems(plant: Plant, pen: Pen, view: CameraView) -> None:
    line_width = max(1, round(view.scale * 0.016))
    colour = plant.leaves.colour.mean(0) * 0.8 + np.array([20, 12, 4])
    for path in _point_lists(view.project(plant.stems)):
        pen.line(path, fill=to_rgb(colour, 0.6), width=line_width)
        pen.line(path, fill=to_rgb(colour), width=max(1, line_width // 2))


def _draw_fruits(plant: Plant, pen: Pen, view: CameraView, rng: np.random.Generator) -> None:
    colour = np.array(FRUIT_COLOURS[int(rng.integers(len(FRUIT_COLOURS)))], float)
    for x, y in view.project(plant.fruit_positions).tolist():
        size = view.scale * rng.uniform(0.025, 0.05)
        _draw_ball(pen, x, y + size * 2, size, colour)


def _draw_ball(pen: Pen, x: float, y: float, size: float, colour: Doubles) -> None:
    """Draw a round fruit, lit from the upper left."""
    for radius_ratio, brightness in ((1.0, 0.55), (0.85, 0.85), (0.6, 1.0)):
        left, top = x - size * (1 - radius_ratio) * 0.4, y - size * (1 - radius_ratio) * 0.5
        _draw_disc(pen, left, top, size * radius_ratio, colour * brightness)
    _draw_disc(pen, x - size * 0.35, y - size * 0.4, size * 0.18, np.array([250.0, 244.0, 232.0]))


def _draw_flowers(plant: Plant, pen: Pen, view: CameraView, rng: np.random.Generator) -> None:
    petal_colour = np.array(PETAL_COLOURS[int(rng.integers(len(PETAL_COLOURS)))], float)
    wilt_share = plant.condition.droop * rng.uniform(0.2, 0.9)
    colour = blend_colours(petal_colour, foliage.BROWN_RGB, np.array(wilt_share * 0.6))
    full_size = view.scale * (1 - 0.4 * wilt_share)
    for x, y in view.project(plant.flower_positions).tolist():
        _draw_flower(pen, x, y, full_size * rng.uniform(0.045, 0.075), colour, rng)


def _draw_flower(
    pen: Pen, x: float, y: float, size: float, colour: Doubles, rng: np.random.Generator
) -> None:
    petals = int(rng.integers(5, 9))
    for petal_angle in rng.uniform(0, 6.28) + np.arange(petals) * 2 * np.pi / petals:
        petal_x, petal_y = size * 0.6 * np.cos(petal_angle), size * 0.5 * np.sin(petal_angle)
        _draw_disc(pen, x + petal_x, y + petal_y, size * 0.45, colour * rng.uniform(0.72, 1.0))
    _draw_disc(pen, x, y, size * 0.28, np.array([206.0, 160.0, 50.0]))


def _draw_disc(pen: Pen, x: float, y: float, size: float, colour: Doubles) -> None:
    draw_ellipse(pen, x, y, size, size, to_rgb(colour))
