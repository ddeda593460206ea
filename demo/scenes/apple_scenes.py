"""Draw apple trees with apples that are partly hidden by leaves and other apples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from backend.arrays import Doubles
from demo.scenes import plant_items
from demo.scenes.drawing import (
    Outline,
    Pen,
    Rgb,
    Sunlight,
    blend_colours,
    flatten_points,
    sample_colour,
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
from demo.scenes.greenhouse import SKY_COLOURS
from demo.scenes.species import ValueRange

APPLE_LABEL = "apple"
EMPTY_SCENE_SHARE = 1 / 12
"""Share of images without an apple."""

MIN_APPLES, MAX_APPLES = 2, 25
MIN_APPLE_WIDTH, MAX_APPLE_WIDTH = 0.042, 0.078
"""Width of an apple as a share of the width of the image."""

AppleVariety = tuple[Rgb, Rgb, ValueRange]
APPLE_VARIETIES: tuple[AppleVariety, ...] = (
    ((176, 190, 66), (186, 28, 34), (0.5, 1.0)),  # red
    ((206, 192, 84), (204, 62, 40), (0.1, 0.8)),  # red cheeks on yellow
    ((158, 190, 62), (206, 190, 80), (0.0, 0.7)),  # green
)
"""RGB of the skin in the shade and in the sun, and the range of ripeness."""

GREEN_LEAF_COLOURS = ((52, 88, 38), (74, 116, 48), (96, 134, 58))
AUTUMN_LEAF_COLOURS = ((150, 52, 36), (176, 96, 44), (132, 44, 46))
BARK_COLOURS = ((92, 72, 56), (118, 100, 84), (76, 64, 56))


def apple_scenes(count: int, seed: int) -> Iterator[FruitScene]:
    """Yield ``count`` reproducible scenes, each with no apple or 2 to 25."""
    for index in range(count):
        rng = np.random.default_rng([seed, index, 3])
        apple_count = (
            0 if rng.random() < EMPTY_SCENE_SHARE else int(rng.integers(MIN_APPLES, MAX_APPLES + 1))
        )
        light = plant_items.sample_sunlight(rng)
        yield draw_fruit_scene(
            f"apples-{index:04d}",
            partial(_make_tree, apple_count, light, rng),
            min(apple_count, MIN_APPLES),
            partial(_draw_background, rng),
            rng,
        )


def _draw_background(rng: np.random.Generator) -> Image.Image:
    """Draw the sky and distant trees out of focus."""
    sky = Image.new(
        "RGB", (CANVAS_WIDTH // 8, CANVAS_HEIGHT // 8), to_rgb(sample_colour(rng, SKY_COLOURS))
    )
    pixels = (
        np.asarray(sky, float)
        * np.linspace(1.0, rng.uniform(0.6, 0.9), CANVAS_HEIGHT // 8)[:, None, None]
    )
    rows = rng.normal(0, 1, (6, 8)).astype(np.float32)
    noise = Image.fromarray(rows).resize(sky.size, Image.Resampling.BICUBIC)
    tree_share = np.clip((np.asarray(noise) + rng.uniform(0.2, 1.4)) * 3, 0, 1)
    green = sample_colour(rng, GREEN_LEAF_COLOURS) * rng.uniform(0.5, 0.9)
    mixed = pixels + (green - pixels) * tree_share[..., None]
    blurred = Image.fromarray(mixed.astype(np.uint8)).resize(
        (SCENE_WIDTH, SCENE_HEIGHT), Image.Resampling.BICUBIC
    )
    return blurred.resize((CANVAS_WIDTH, CANVAS_HEIGHT), Image.Resampling.NEAREST)


def _make_tree(apple_count: int, light: Sunlight, rng: np.random.Generator) -> list[SceneItem]:
    """Make the items of one tree, back to front: leaves, branches, apples, leaves."""
    leaf_colour = sample_colour(rng, GREEN_LEAF_COLOURS)
    branches = [_sample_branch(rng) for _ in range(int(rng.integers(2, 5)))]
    branch_items = [
        plant_items.make_stalk(*branch, sample_colour(rng, BARK_COLOURS), int(rng.integers(5, 13)))
        for branch in branches
    ]
    far_leaves = _make_leaves(int(rng.integers(28, 46)), branches, leaf_colour * 0.62, light, rng)
    middle_leaves = _make_leaves(int(rng.integers(16, 28)), branches, leaf_colour * 0.9, light, rng)
    variety = APPLE_VARIETIES[int(rng.choice(len(APPLE_VARIETIES), p=(0.45, 0.3, 0.25)))]
    positions = _apple_positions(apple_count, branches, rng)
    fruits = [
        part
        for position in positions
        for part in _make_hanging_apple(position, variety, leaf_colour, light, rng)
    ]
    near_leaves = _make_leaves(int(rng.integers(10, 22)), branches, leaf_colour * 1.1, light, rng)
    return drop_hidden_fruits([*far_leaves, *branch_items, *middle_leaves, *fruits, *near_leaves])


def _sample_branch(rng: np.random.Generator) -> tuple[Doubles, Doubles]:
    """Sample where a branch enters the image and where it ends."""
    side = rng.choice([-0.05, 1.05])
    start = np.array([side * CANVAS_WIDTH, rng.uniform(0.1, 1.0) * CANVAS_HEIGHT])
    end = np.array([rng.uniform(0.2, 0.8), rng.uniform(0.05, 0.8)]) * (CANVAS_WIDTH, CANVAS_HEIGHT)
    return start, end + (end - start) * 0.4


def _positions_near_branches(
    count: int, branches: list[tuple[Doubles, Doubles]], spread: float, rng: np.random.Generator
) -> Doubles:
    """Sample positions ``(n, 2)``, two thirds near branches and a third anywhere."""
    branch_ends = np.array(branches)[rng.integers(len(branches), size=count)]
    shares = rng.random((count, 1))
    positions = (
        branch_ends[:, 0]
        + (branch_ends[:, 1] - branch_ends[:, 0]) * shares
        + rng.normal(0, spread, (count, 2))
    )
    anywhere = rng.random((count, 2)) * (CANVAS_WIDTH, CANVAS_HEIGHT)
    return np.where(rng.random((count, 1)) < 0.35, anywhere, positions)


def _make_leaves(
    count: int,
    branches: list[tuple[Doubles, Doubles]],
    green: Doubles,
    light: Sunlight,
    rng: np.random.Generator,
) -> list[SceneItem]:
    """Make hanging leaves; a few have autumn colours."""
    leaves: list[SceneItem] = []
    for position in _positions_near_branches(count, branches, 62, rng):
        colour = (
            sample_colour(rng, AUTUMN_LEAF_COLOURS)
            if rng.random() < 0.06
            else green * rng.uniform(0.75, 1.3)
        )
        angle = np.pi / 2 + rng.normal(0, 1.2)
        leaves.append(
            plant_items.make_leaf(
                position, rng.uniform(56, 104), angle, colour, light, rng, 0.27, 4
            )
        )
    return leaves


def _apple_positions(
    count: int, branches: list[tuple[Doubles, Doubles]], rng: np.random.Generator
) -> list[Doubles]:
    """Sample positions of apples in bunches, at least 26 pixels apart."""
    margin = np.array([0.02 * CANVAS_WIDTH, 0.03 * CANVAS_HEIGHT])
    positions: list[Doubles] = []
    candidates = iter(_positions_near_branches(count * 60, branches, 75, rng))
    while len(positions) < count and (position := next(candidates, None)) is not None:
        is_inside = (position > margin).all() and (
            position < (CANVAS_WIDTH, CANVAS_HEIGHT) - margin
        ).all()
        if is_inside and all(math.dist(position, other) > 26 for other in positions):
            positions.append(position)
    return sorted(positions, key=lambda kept_position: float(kept_position[1]))


def _make_hanging_apple(
    position: Doubles,
    variety: AppleVariety,
    green: Doubles,
    light: Sunlight,
    rng: np.random.Generator,
) -> list[SceneItem]:
    """Make an apple, and often a leaf that covers a part of it."""
    apple_item = make_apple(position, variety, light, rng)
    if rng.random() < 0.55:
        return [apple_item]
    leaf_base = position + rng.normal(0, 16, 2) + np.array([0.0, -22.0])
    leaf_angle, leaf_length = np.pi / 2 + rng.normal(0, 0.9), rng.uniform(36, 66)
    leaf_colour = green * rng.uniform(0.8, 1.3)
    return [
        apple_item,
        plant_items.make_leaf(leaf_base, leaf_length, leaf_angle, leaf_colour, light, rng, 0.27, 4),
    ]


def make_apple(
    position: Doubles,
    variety: AppleVariety,
    light: Sunlight,
    rng: np.random.Generator,
) -> SceneItem:
    """Draw an apple with its hollow and its stalk; ``position`` ``(2,)`` is its center."""
    radius = CANVAS_WIDTH * rng.uniform(MIN_APPLE_WIDTH, MAX_APPLE_WIDTH) / 2
    stem_angle = -np.pi / 2 + rng.normal(0, 0.35)
    angles = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    radii = 1 - 0.07 * np.exp(-((np.minimum(angles, 2 * np.pi - angles) / 0.4) ** 2))
    unit_outline = np.stack([np.cos(angles) * radii * rng.uniform(0.86, 1.0), np.sin(angles)], -1)
    outline = transform_points(unit_outline, position, stem_angle, radius)
    patch_corner = np.floor(outline.min(0))
    patch = _draw_skin(
        outline - patch_corner, position - patch_corner, radius, stem_angle, variety, light, rng
    )
    hollow, stem = _stem_outlines(position, radius, stem_angle, rng)

    def draw(image: Image.Image, pen: Pen) -> None:
        overlay = ImageDraw.Draw(image, "RGBA")
        overlay.polygon(
            flatten_points(outline + radius * np.array([0.06, 0.14])), fill=(10, 14, 8, 90)
        )
        image.paste(patch, (int(patch_corner[0]), int(patch_corner[1])), patch)
        overlay.polygon(hollow, fill=(70, 60, 26, 110))
        pen.line(stem, fill=(74, 54, 34), width=2)

    return SceneItem((flatten_points(outline),), draw, APPLE_LABEL)


def _draw_skin(
    outline: Doubles,
    middle: Doubles,
    radius: float,
    stem_angle: float,
    variety: AppleVariety,
    light: Sunlight,
    rng: np.random.Generator,
) -> Image.Image:
    """Draw the skin with fine stripes, redder on the side of the sun."""
    shade_colour, sun_colour, ripeness = variety
    columns, rows = (np.ceil(outline.max(0)) + 2).astype(int).tolist()
    along, across = plant_items.axis_coordinates(rows, columns, middle, stem_angle)
    sun_exposure = rng.normal(0, 0.5) * across / radius + 0.35 * along / radius
    stripes = 0.12 * np.sin(across / radius * rng.uniform(9, 14) + rng.uniform(0, 6))
    sun_share = np.clip(rng.uniform(*ripeness) + 0.45 * sun_exposure + stripes, 0, 1)
    base = np.asarray(shade_colour, float) * rng.uniform(0.9, 1.08)
    skin = blend_colours(np.broadcast_to(base, (rows, columns, 3)), sun_colour, sun_share)
    return plant_items.shade_sphere(outline, middle, radius, skin, light)


def _stem_outlines(
    position: Doubles, radius: float, stem_angle: float, rng: np.random.Generator
) -> tuple[Outline, Outline]:
    """Return the outlines of the hollow and of the stalk."""
    angles = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    unit_hollow = np.stack([0.66 + 0.12 * np.cos(angles), 0.3 * np.sin(angles)], -1)
    stem = np.array([[0.64, 0.0], [0.9, 0.04], [1.0, rng.normal(0, 0.12)]])
    hollow = transform_points(unit_hollow, position, stem_angle, radius)
    placed_stem = transform_points(stem, position, stem_angle, radius * 0.95)
    return flatten_points(hollow), flatten_points(placed_stem)
