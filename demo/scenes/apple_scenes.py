"""Apple trees with apples to count, half hidden in the leaves and by each other."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

from demo.scenes import plant_items
from demo.scenes.camera import photograph
from demo.scenes.fruit_scene import (
    HEIGHT,
    HIGH,
    WIDE,
    WIDTH,
    FruitScene,
    Item,
    Outline,
    paint,
    truth,
    visible,
)
from demo.scenes.greenhouse import SKIES, Pen, ink, pick
from demo.scenes.leaf_geometry import Floats, Sun, blend
from demo.scenes.plant_items import flat, turned
from demo.scenes.species import Rgb, Span

LABEL = "apple"
EMPTY = 1 / 12
"""Share of the pictures without an apple."""

FEWEST, MOST = 2, 25
SMALLEST, LARGEST = 0.042, 0.078
"""Width of an apple, by the picture's width."""

Sort = tuple[Rgb, Rgb, Span]
SORTS: tuple[Sort, ...] = (
    ((176, 190, 66), (186, 28, 34), (0.5, 1.0)),  # red
    ((206, 192, 84), (204, 62, 40), (0.1, 0.8)),  # red cheeks on yellow
    ((158, 190, 62), (206, 190, 80), (0.0, 0.7)),  # green
)
"""RGB of the skin in the shade and in the sun, and how far an apple has coloured."""

GREENS = ((52, 88, 38), (74, 116, 48), (96, 134, 58))
TURNED = ((150, 52, 36), (176, 96, 44), (132, 44, 46))
BARK = ((92, 72, 56), (118, 100, 84), (76, 64, 56))


def apple_scenes(count: int, seed: int) -> Iterator[FruitScene]:
    """Draw scenes one by one; the same seed draws the same scenes, however many are asked for.

    Args:
        count: How many.
        seed: Which series.

    Yields:
        Scenes with no apple or 2 to 25 of them.
    """
    for index in range(count):
        rng = np.random.default_rng([seed, index, 3])
        wanted = 0 if rng.random() < EMPTY else int(rng.integers(FEWEST, MOST + 1))
        light = plant_items.sun(rng)
        items = _tree(wanted, light, rng)
        while sum(bool(item.label) for item in items) < min(wanted, FEWEST):
            items = _tree(wanted, light, rng)
        picture = photograph(paint(_ground(rng), items), rng)
        yield FruitScene(f"apples-{index:04d}", picture, truth(items))


def _ground(rng: np.random.Generator) -> Image.Image:
    """Sky and far trees out of focus, seen through the crown."""
    small = Image.new("RGB", (WIDE // 8, HIGH // 8), ink(pick(rng, SKIES)))
    pixels = (
        np.asarray(small, float) * np.linspace(1.0, rng.uniform(0.6, 0.9), HIGH // 8)[:, None, None]
    )
    rows = rng.normal(0, 1, (6, 8)).astype(np.float32)
    shape = Image.fromarray(rows).resize(small.size, Image.Resampling.BICUBIC)
    far = np.clip((np.asarray(shape) + rng.uniform(0.2, 1.4)) * 3, 0, 1)
    green = pick(rng, GREENS) * rng.uniform(0.5, 0.9)
    mixed = pixels + (green - pixels) * far[..., None]
    soft = Image.fromarray(mixed.astype(np.uint8)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    return soft.resize((WIDE, HIGH), Image.Resampling.NEAREST)


def _tree(wanted: int, light: Sun, rng: np.random.Generator) -> list[Item]:
    """One piece of a crown, back to front: branches, leaves, apples, more leaves."""
    green = pick(rng, GREENS)
    boughs = [_bough(rng) for _ in range(int(rng.integers(2, 5)))]
    wood = [
        plant_items.stalk(*bough, pick(rng, BARK), int(rng.integers(5, 13))) for bough in boughs
    ]
    deep = _foliage(int(rng.integers(28, 46)), boughs, green * 0.62, light, rng)
    middle = _foliage(int(rng.integers(16, 28)), boughs, green * 0.9, light, rng)
    sort = SORTS[int(rng.choice(len(SORTS), p=(0.45, 0.3, 0.25)))]
    places = _places(wanted, boughs, rng)
    fruits = [part for at in places for part in _hanging(at, sort, green, light, rng)]
    near = _foliage(int(rng.integers(10, 22)), boughs, green * 1.1, light, rng)
    return visible([*deep, *wood, *middle, *fruits, *near])


def _bough(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Where a branch enters the picture and where it ends."""
    side = rng.choice([-0.05, 1.05])
    start = np.array([side * WIDE, rng.uniform(0.1, 1.0) * HIGH])
    end = np.array([rng.uniform(0.2, 0.8), rng.uniform(0.05, 0.8)]) * (WIDE, HIGH)
    return start, end + (end - start) * 0.4


def _near(
    count: int, boughs: list[tuple[Floats, Floats]], spread: float, rng: np.random.Generator
) -> Floats:
    """Places ``(n, 2)`` around the branches, and a third of them anywhere."""
    ends = np.array(boughs)[rng.integers(len(boughs), size=count)]
    along = rng.random((count, 1))
    places = ends[:, 0] + (ends[:, 1] - ends[:, 0]) * along + rng.normal(0, spread, (count, 2))
    anywhere = rng.random((count, 2)) * (WIDE, HIGH)
    return np.where(rng.random((count, 1)) < 0.35, anywhere, places)


def _foliage(
    count: int,
    boughs: list[tuple[Floats, Floats]],
    green: Floats,
    light: Sun,
    rng: np.random.Generator,
) -> list[Item]:
    """Leaves that hang this way and that; a few have turned."""
    parts: list[Item] = []
    for at in _near(count, boughs, 62, rng):
        colour = pick(rng, TURNED) if rng.random() < 0.06 else green * rng.uniform(0.75, 1.3)
        angle = np.pi / 2 + rng.normal(0, 1.2)
        parts.append(plant_items.leaf(at, rng.uniform(56, 104), angle, colour, light, rng, 0.27, 4))
    return parts


def _places(
    count: int, boughs: list[tuple[Floats, Floats]], rng: np.random.Generator
) -> list[Floats]:
    """Places for so many apples, in bunches, never one right over another."""
    margin = np.array([0.02 * WIDE, 0.03 * HIGH])
    places: list[Floats] = []
    tries = iter(_near(count * 60, boughs, 75, rng))
    while len(places) < count and (at := next(tries, None)) is not None:
        inside = (at > margin).all() and (at < (WIDE, HIGH) - margin).all()
        if inside and all(math.dist(at, other) > 26 for other in places):
            places.append(at)
    return sorted(places, key=lambda place: float(place[1]))


def _hanging(
    at: Floats, sort: Sort, green: Floats, light: Sun, rng: np.random.Generator
) -> list[Item]:
    """An apple, and often a leaf that hangs over a part of it."""
    found = apple(at, sort, light, rng)
    if rng.random() < 0.55:
        return [found]
    foot = at + rng.normal(0, 16, 2) + np.array([0.0, -22.0])
    aim, long = np.pi / 2 + rng.normal(0, 0.9), rng.uniform(36, 66)
    tint = green * rng.uniform(0.8, 1.3)
    return [found, plant_items.leaf(foot, long, aim, tint, light, rng, 0.27, 4)]


def apple(
    at: Floats,
    sort: Sort,
    light: Sun,
    rng: np.random.Generator,
) -> Item:
    """An apple with its hollow and its stalk.

    Args:
        at: ``(2,)`` its middle.
        sort: What its tree bears.
        light: The light.
        rng: For its form and colour.
    """
    half = WIDE * rng.uniform(SMALLEST, LARGEST) / 2
    up = -np.pi / 2 + rng.normal(0, 0.35)
    ring = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    reach = 1 - 0.07 * np.exp(-((np.minimum(ring, 2 * np.pi - ring) / 0.4) ** 2))
    round_ = np.stack([np.cos(ring) * reach * rng.uniform(0.86, 1.0), np.sin(ring)], -1)
    body = turned(round_, at, up, half)
    low = np.floor(body.min(0))
    patch = _flesh(body - low, at - low, half, up, sort, light, rng)
    hollow, stem = _top(at, half, up, rng)

    def draw(picture: Image.Image, pen: Pen) -> None:
        glaze = ImageDraw.Draw(picture, "RGBA")
        glaze.polygon(flat(body + half * np.array([0.06, 0.14])), fill=(10, 14, 8, 90))
        picture.paste(patch, (int(low[0]), int(low[1])), patch)
        glaze.polygon(hollow, fill=(70, 60, 26, 110))
        pen.line(stem, fill=(74, 54, 34), width=2)

    return Item((flat(body),), draw, LABEL)


def _flesh(
    outline: Floats,
    middle: Floats,
    half: float,
    up: float,
    sort: Sort,
    light: Sun,
    rng: np.random.Generator,
) -> Image.Image:
    """The skin: coloured towards the sun, in fine stripes from the hollow down."""
    shady, sunny, ripe = sort
    columns, rows = (np.ceil(outline.max(0)) + 2).astype(int).tolist()
    along, across = plant_items.grid(rows, columns, middle, up)
    toward = rng.normal(0, 0.5) * across / half + 0.35 * along / half
    stripes = 0.12 * np.sin(across / half * rng.uniform(9, 14) + rng.uniform(0, 6))
    share = np.clip(rng.uniform(*ripe) + 0.45 * toward + stripes, 0, 1)
    base = np.asarray(shady, float) * rng.uniform(0.9, 1.08)
    skin = blend(np.broadcast_to(base, (rows, columns, 3)), sunny, share)
    return plant_items.shade(outline, middle, half, skin, light)


def _top(at: Floats, half: float, up: float, rng: np.random.Generator) -> tuple[Outline, Outline]:
    """The hollow where the stalk sits, and the stalk."""
    ring = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    oval = np.stack([0.66 + 0.12 * np.cos(ring), 0.3 * np.sin(ring)], -1)
    stem = np.array([[0.64, 0.0], [0.9, 0.04], [1.0, rng.normal(0, 0.12)]])
    return flat(turned(oval, at, up, half)), flat(turned(stem, at, up, half * 0.95))
