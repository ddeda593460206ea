"""Draw strawberry beds: ripe berries among unripe ones, flowers and red leaves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
from PIL import Image, ImageFilter

from backend.arrays import Doubles
from demo.scenes import greenhouse, plant_items
from demo.scenes.drawing import (
    Pen,
    Sunlight,
    blend_colours,
    flatten_points,
    to_rgb,
    transform_points,
)
from demo.scenes.fruit_scene import (
    CANVAS_HEIGHT,
    CANVAS_WIDTH,
    SCENE_HEIGHT,
    SCENE_WIDTH,
    FruitScene,
    SceneItem,
    draw_fruit_scene,
    drop_hidden_fruits,
)
from demo.scenes.greenhouse import SceneFrame

STRAWBERRY_LABEL = "strawberry"
EMPTY_SCENE_SHARE = 0.1
"""Share of the images without a ripe berry."""

MAX_BERRIES = 8
MIN_BERRY_LENGTH, MAX_BERRY_LENGTH = 0.055, 0.13
"""Length of a berry as a share of the width of the image."""

RIPE_COLOURS = np.array([[222, 58, 40], [206, 32, 34], [150, 14, 26]], float)
UNRIPE_COLOURS = np.array([[128, 160, 66], [172, 190, 104], [222, 220, 172]], float)
SHOULDER_COLOUR = (232, 196, 150)
GREEN_LEAF_COLOURS = np.array([[40, 84, 34], [62, 112, 44], [92, 142, 60]], float)
RED_LEAF_COLOURS = np.array([[150, 44, 34], [176, 84, 40], [128, 32, 42]], float)
"""Leaves that have turned red."""

PETAL_COLOURS = np.array([[240, 238, 228], [244, 232, 232], [206, 44, 60], [226, 70, 96]], float)


def strawberry_scenes(count: int, seed: int) -> Iterator[FruitScene]:
    """Draw the first scenes of a seed, with 0 to 8 ripe strawberries each."""
    for index in range(count):
        rng = np.random.default_rng([seed, index, 2])
        ripe_count = (
            0 if rng.random() < EMPTY_SCENE_SHARE else int(rng.integers(1, MAX_BERRIES + 1))
        )
        light = plant_items.sample_sunlight(rng)
        yield draw_fruit_scene(
            f"strawberries-{index:04d}",
            partial(_make_bed, ripe_count, light, rng),
            min(ripe_count, 1),
            partial(_draw_background, rng),
            rng,
        )


def _draw_background(rng: np.random.Generator) -> Image.Image:
    """Draw soil, mulch or matting seen from above."""
    image = Image.new("RGB", (SCENE_WIDTH, SCENE_HEIGHT))
    greenhouse.draw_bench(image, SceneFrame(SCENE_WIDTH, SCENE_HEIGHT, 0, 1.2), rng)
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.BoxBlur(rng.uniform(0.5, 1.2)))
    dark = Image.new("RGB", image.size, (26, 22, 16))
    image = Image.blend(image, dark, rng.uniform(0.05, 0.45))
    return image.resize((CANVAS_WIDTH, CANVAS_HEIGHT), Image.Resampling.NEAREST)


def _make_bed(ripe_count: int, light: Sunlight, rng: np.random.Generator) -> list[SceneItem]:
    """Make all items of one bed, back to front."""
    crowns = rng.uniform(0.05, 0.95, (int(rng.integers(2, 5)), 2)) * (CANVAS_WIDTH, CANVAS_HEIGHT)
    leaf_colour = _sample_gradient(GREEN_LEAF_COLOURS, rng)
    low_leaves = [
        part
        for crown in crowns
        for part in _make_crown_leaves(crown, int(rng.integers(4, 7)), leaf_colour, light, rng)
    ]
    positions = _berry_positions(ripe_count + int(rng.integers(2, 7)), rng)
    berries = [
        part
        for berry_index, position in enumerate(positions)
        for part in _make_hanging_berry(position, crowns, berry_index < ripe_count, light, rng)
    ]
    flowers = [_make_flower(rng) for _ in range(int(rng.integers(1, 7)))]
    high_leaves = [
        part
        for crown in crowns
        for part in _make_crown_leaves(crown, int(rng.integers(0, 3)), leaf_colour, light, rng)
    ]
    return drop_hidden_fruits([*low_leaves, *berries, *flowers, *high_leaves])


def _sample_gradient(colours: Doubles, rng: np.random.Generator) -> Doubles:
    """Sample a colour ``(3,)`` between two neighbouring rows."""
    gradient_position = rng.uniform(0, len(colours) - 1)
    lower_index = int(gradient_position)
    return np.asarray(
        colours[lower_index]
        + (colours[lower_index + 1] - colours[lower_index]) * (gradient_position - lower_index)
    )


def _berry_positions(count: int, rng: np.random.Generator) -> Doubles:
    """Sample at most ``count`` positions ``(n, 2)``, more than 46 pixels apart."""
    positions: list[Doubles] = []
    for position in rng.uniform((0.04, 0.06), (0.96, 0.94), (count * 2, 2)) * (
        CANVAS_WIDTH,
        CANVAS_HEIGHT,
    ):
        if len(positions) < count and all(math.dist(position, other) > 46 for other in positions):
            positions.append(position)
    return np.array(positions).reshape(-1, 2)


def _make_crown_leaves(
    crown: Doubles, stems: int, green: Doubles, light: Sunlight, rng: np.random.Generator
) -> list[SceneItem]:
    """Make trefoil leaves around the center of a plant."""
    leaves: list[SceneItem] = []
    for heading in rng.uniform(0, 2 * np.pi, stems):
        stem_length = rng.uniform(20, 190)
        leaf_base = crown + stem_length * np.array([np.cos(heading), np.sin(heading) * 0.8])
        if (leaf_base < -60).any() or (
            leaf_base > np.array([CANVAS_WIDTH, CANVAS_HEIGHT]) + 60
        ).any():
            continue
        leaves.append(plant_items.make_stalk(crown, leaf_base, green * 0.9, 3))
        leaves += _make_trefoil(leaf_base, float(heading), rng.uniform(52, 98), green, light, rng)
    return leaves


def _make_trefoil(
    leaf_base: Doubles,
    heading: float,
    length: float,
    green: Doubles,
    light: Sunlight,
    rng: np.random.Generator,
) -> list[SceneItem]:
    colour = (
        _sample_gradient(RED_LEAF_COLOURS, rng)
        if rng.random() < 0.07
        else green * rng.uniform(0.7, 1.25)
    )
    leaflet_angles = (-1.15, 1.15, 0.0)
    return [
        plant_items.make_leaf(
            leaf_base, length, heading + angle + rng.normal(0, 0.1), colour, light, rng, 0.4, 6
        )
        for angle in leaflet_angles
    ]


def _make_flower(rng: np.random.Generator) -> SceneItem:
    position = rng.uniform(0, 1, 2) * (CANVAS_WIDTH, CANVAS_HEIGHT)
    colour = PETAL_COLOURS[int(rng.integers(len(PETAL_COLOURS)))]
    return plant_items.make_flower(
        position, rng.uniform(30, 58), colour, int(rng.integers(5, 7)), rng
    )


def _make_hanging_berry(
    position: Doubles, crowns: Doubles, is_ripe: bool, light: Sunlight, rng: np.random.Generator
) -> list[SceneItem]:
    """Make a berry on its stalk, and often a leaf that covers a part of it."""
    size = (
        CANVAS_WIDTH * rng.uniform(MIN_BERRY_LENGTH, MAX_BERRY_LENGTH) * (1.0 if is_ripe else 0.85)
    )
    angle = np.pi / 2 + rng.normal(0, 0.7)
    berry_top = position - 0.45 * size * np.array([np.cos(angle), np.sin(angle)])
    crown = crowns[np.argmin(((crowns - position) ** 2).sum(1))]
    stalk_start = berry_top + np.clip(crown - berry_top, -110, 110)
    parts = [
        plant_items.make_stalk(stalk_start, berry_top, np.array([104.0, 132.0, 62.0]), 2),
        make_berry(position, size, angle, is_ripe, light, rng),
    ]
    if rng.random() < 0.5:
        leaf_side_angle = rng.uniform(0, 2 * np.pi)
        leaf_offset = np.array([np.cos(leaf_side_angle), np.sin(leaf_side_angle)]) * size
        leaf_base = position + leaf_offset * rng.uniform(0.8, 1.3)
        green = _sample_gradient(GREEN_LEAF_COLOURS, rng)
        leaf_angle = leaf_side_angle + np.pi + rng.normal(0, 0.5)
        parts.append(
            plant_items.make_leaf(
                leaf_base, size * rng.uniform(0.8, 1.3), leaf_angle, green, light, rng, 0.4, 6
            )
        )
    return parts


def make_berry(
    position: Doubles,
    size: float,
    angle: float,
    is_ripe: bool,
    light: Sunlight,
    rng: np.random.Generator,
) -> SceneItem:
    """Draw a strawberry with seeds and sepals; only a ripe one has a label.

    ``position`` ``(2,)`` is its center, ``size`` its length and ``angle`` the direction of its tip.
    """
    angles = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    width_ratio, taper = rng.uniform(0.36, 0.47), rng.uniform(0.15, 0.4)
    length_ratio = rng.uniform(0.75, 1.0)
    bumps = 1 + 0.03 * np.sin(3 * angles + rng.uniform(0, 6))
    half_widths = width_ratio * np.sin(angles) * (1 + taper * np.cos(angles))
    outline = transform_points(
        np.stack([-0.5 * length_ratio * np.cos(angles) * bumps, half_widths], -1),
        position,
        angle,
        size,
    )
    sepals = _sepal_outlines(position, size, angle, length_ratio, rng)
    seeds = transform_points(
        _seed_positions(width_ratio, taper, length_ratio), position, angle, size
    )
    seeds = seeds + rng.normal(0, 0.01 * size, seeds.shape)
    skin = _sample_gradient(RIPE_COLOURS if is_ripe else UNRIPE_COLOURS, rng)
    patch_corner = np.floor(outline.min(0))
    patch = _draw_flesh(
        outline - patch_corner, position - patch_corner, size, angle, skin, light, rng
    )
    seed_points, seed_radius = seeds.tolist(), max(1.0, size * 0.018)
    green = np.array([96.0, 146.0, 58.0]) * rng.uniform(0.75, 1.15)

    def draw(image: Image.Image, pen: Pen) -> None:
        image.paste(patch, (int(patch_corner[0]), int(patch_corner[1])), patch)
        for x, y in seed_points:
            pen.ellipse(
                (x - seed_radius, y - seed_radius * 1.2, x + seed_radius, y + seed_radius * 1.4),
                fill=to_rgb(skin, 0.62),
            )
            pen.ellipse(
                (x - seed_radius * 0.7, y - seed_radius, x + seed_radius * 0.7, y + seed_radius),
                fill=(228, 196, 96),
            )
        for sepal_index, sepal in enumerate(sepals):
            pen.polygon(sepal, fill=to_rgb(green, 0.75 + 0.09 * (sepal_index % 4)))

    label = STRAWBERRY_LABEL if is_ripe else ""
    return SceneItem((flatten_points(outline), *sepals), draw, label)


def _draw_flesh(
    outline: Doubles,
    middle: Doubles,
    size: float,
    angle: float,
    skin: Doubles,
    light: Sunlight,
    rng: np.random.Generator,
) -> Image.Image:
    """Draw the flesh, paler near the stalk."""
    columns, rows = (np.ceil(outline.max(0)) + 2).astype(int).tolist()
    along, _ = plant_items.axis_coordinates(rows, columns, middle, angle)
    paleness = np.clip(-along / size * 2.4 - rng.uniform(0.5, 0.95), 0, 0.8)
    return plant_items.shade_sphere(
        outline, middle, size * 0.52, blend_colours(skin, SHOULDER_COLOUR, paleness), light
    )


def _sepal_outlines(
    position: Doubles, size: float, angle: float, length_ratio: float, rng: np.random.Generator
) -> tuple[list[float], ...]:
    """Return the outlines of the sepals."""
    unit_sepal = np.array([[0, 0], [0.12, 0.055], [0.28, 0.0], [0.12, -0.055]])
    sepal_base = transform_points(np.array([-0.44 * length_ratio, 0.0]), position, angle, size)
    sepal_angles = angle + np.linspace(-2.2, 2.2, 7) + rng.normal(0, 0.15, 7)
    lengths = size * rng.uniform(0.75, 1.15, 7)
    return tuple(
        flatten_points(transform_points(unit_sepal, sepal_base, sepal_angle, length))
        for sepal_angle, length in zip(sepal_angles.tolist(), lengths.tolist(), strict=True)
    )


def _seed_positions(width_ratio: float, taper: float, length_ratio: float) -> Doubles:
    """Return the positions of seeds ``(n, 2)`` in staggered rows."""
    along, across = np.meshgrid(np.arange(-0.28, 0.44, 0.13), np.arange(-0.45, 0.5, 0.16))
    across = across + 0.08 * (np.round((along + 0.28) / 0.13) % 2)
    half_widths = width_ratio * np.sqrt(np.clip(1 - 4 * along**2, 0, 1)) * (1 - taper * 2 * along)
    is_inside = np.abs(across) < 0.84 * half_widths
    return np.stack([along[is_inside] * length_ratio, across[is_inside]], -1)
