"""Strawberry beds with ripe berries to box, among unripe ones, flowers and turned leaves."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageFilter

from demo.scenes import greenhouse, plant_items
from demo.scenes.camera import photograph
from demo.scenes.fruit_scene import (
    HEIGHT,
    HIGH,
    WIDE,
    WIDTH,
    FruitScene,
    Item,
    nameless,
    paint,
    truth,
    visible,
)
from demo.scenes.greenhouse import Pen, Stage, ink
from demo.scenes.leaf_geometry import Floats, Sun, blend
from demo.scenes.plant_items import flat, turned

LABEL = "strawberry"
EMPTY = 0.1
"""Share of the pictures without a ripe berry."""

MOST = 8
SMALLEST, LARGEST = 0.055, 0.13
"""Length of a berry, by the picture's width."""

RIPE = np.array([[222, 58, 40], [206, 32, 34], [150, 14, 26]], float)
UNRIPE = np.array([[128, 160, 66], [172, 190, 104], [222, 220, 172]], float)
PALE = (232, 196, 150)
GREENS = np.array([[40, 84, 34], [62, 112, 44], [92, 142, 60]], float)
TURNED = np.array([[150, 44, 34], [176, 84, 40], [128, 32, 42]], float)
"""Leaves that have turned red."""

PETALS = np.array([[240, 238, 228], [244, 232, 232], [206, 44, 60], [226, 70, 96]], float)


def strawberry_scenes(count: int, seed: int) -> Iterator[FruitScene]:
    """Draw scenes one by one; the same seed draws the same scenes, however many are asked for.

    Args:
        count: How many.
        seed: Which series.

    Yields:
        Scenes with 0 to 8 ripe strawberries each.
    """
    for index in range(count):
        rng = np.random.default_rng([seed, index, 2])
        wanted = 0 if rng.random() < EMPTY else int(rng.integers(1, MOST + 1))
        light = plant_items.sun(rng)
        items = _bed(wanted, light, rng)
        while wanted and not any(item.label for item in items):
            items = _bed(wanted, light, rng)
        picture = photograph(paint(_ground(rng), items), rng)
        yield FruitScene(f"strawberries-{index:04d}", picture, truth(items))


def _ground(rng: np.random.Generator) -> Image.Image:
    """Soil, mulch or matting seen from above, in the shade of the leaves."""
    picture = Image.new("RGB", (WIDTH, HEIGHT))
    greenhouse.bench(picture, Stage(WIDTH, HEIGHT, 0, 1.2), rng)
    if rng.random() < 0.4:
        picture = picture.filter(ImageFilter.BoxBlur(rng.uniform(0.5, 1.2)))
    dark = Image.new("RGB", picture.size, (26, 22, 16))
    picture = Image.blend(picture, dark, rng.uniform(0.05, 0.45))
    return picture.resize((WIDE, HIGH), Image.Resampling.NEAREST)


def _bed(wanted: int, light: Sun, rng: np.random.Generator) -> list[Item]:
    """Everything that grows in one picture, back to front."""
    crowns = rng.uniform(0.05, 0.95, (int(rng.integers(2, 5)), 2)) * (WIDE, HIGH)
    green = _among(GREENS, rng)
    low = [
        part
        for crown in crowns
        for part in _tuft(crown, int(rng.integers(4, 7)), green, light, rng)
    ]
    places = _places(wanted + int(rng.integers(2, 7)), rng)
    berries = [
        part
        for order, at in enumerate(places)
        for part in _hanging(at, crowns, order < wanted, light, rng)
    ]
    flowers = [_flower(rng) for _ in range(int(rng.integers(1, 7)))]
    high = [
        part
        for crown in crowns
        for part in _tuft(crown, int(rng.integers(0, 3)), green, light, rng)
    ]
    return visible([*low, *berries, *flowers, *high])


def _among(colours: Floats, rng: np.random.Generator) -> Floats:
    """A colour ``(3,)`` between two of these rows."""
    place = rng.uniform(0, len(colours) - 1)
    before = int(place)
    return np.asarray(colours[before] + (colours[before + 1] - colours[before]) * (place - before))


def _places(count: int, rng: np.random.Generator) -> Floats:
    """Places ``(n, 2)`` for at most so many berries, not right on top of each other."""
    places: list[Floats] = []
    for at in rng.uniform((0.04, 0.06), (0.96, 0.94), (count * 2, 2)) * (WIDE, HIGH):
        if len(places) < count and all(math.dist(at, other) > 46 for other in places):
            places.append(at)
    return np.array(places).reshape(-1, 2)


def _tuft(
    crown: Floats, stems: int, green: Floats, light: Sun, rng: np.random.Generator
) -> list[Item]:
    """Leaves of three around the heart of a plant."""
    parts: list[Item] = []
    for heading in rng.uniform(0, 2 * np.pi, stems):
        out = rng.uniform(20, 190)
        foot = crown + out * np.array([np.cos(heading), np.sin(heading) * 0.8])
        if (foot < -60).any() or (foot > np.array([WIDE, HIGH]) + 60).any():
            continue
        parts.append(plant_items.stalk(crown, foot, green * 0.9, 3))
        parts += _trefoil(foot, float(heading), rng.uniform(52, 98), green, light, rng)
    return parts


def _trefoil(
    foot: Floats, heading: float, length: float, green: Floats, light: Sun, rng: np.random.Generator
) -> list[Item]:
    colour = _among(TURNED, rng) if rng.random() < 0.07 else green * rng.uniform(0.7, 1.25)
    turns = (-1.15, 1.15, 0.0)
    return [
        plant_items.leaf(
            foot, length, heading + turn + rng.normal(0, 0.1), colour, light, rng, 0.4, 6
        )
        for turn in turns
    ]


def _flower(rng: np.random.Generator) -> Item:
    at = rng.uniform(0, 1, 2) * (WIDE, HIGH)
    colour = PETALS[int(rng.integers(len(PETALS)))]
    return plant_items.flower(at, rng.uniform(30, 58), colour, int(rng.integers(5, 7)), rng)


def _hanging(
    at: Floats, crowns: Floats, is_ripe: bool, light: Sun, rng: np.random.Generator
) -> list[Item]:
    """A berry on its stalk, often with a leaf over a part of it."""
    size = WIDE * rng.uniform(SMALLEST, LARGEST) * (1.0 if is_ripe else 0.85)
    angle = np.pi / 2 + rng.normal(0, 0.7)
    head = at - 0.45 * size * np.array([np.cos(angle), np.sin(angle)])
    crown = crowns[np.argmin(((crowns - at) ** 2).sum(1))]
    start = head + np.clip(crown - head, -110, 110)
    parts = [
        plant_items.stalk(start, head, np.array([104.0, 132.0, 62.0]), 2),
        berry(at, size, angle, is_ripe, light, rng),
    ]
    if rng.random() < 0.5:
        side = rng.uniform(0, 2 * np.pi)
        out = np.array([np.cos(side), np.sin(side)]) * size
        foot = at + out * rng.uniform(0.8, 1.3)
        green = _among(GREENS, rng)
        aim = side + np.pi + rng.normal(0, 0.5)
        parts.append(
            plant_items.leaf(foot, size * rng.uniform(0.8, 1.3), aim, green, light, rng, 0.4, 6)
        )
    return parts


def berry(
    at: Floats, size: float, angle: float, is_ripe: bool, light: Sun, rng: np.random.Generator
) -> Item:
    """A strawberry with its seeds and its green leaves; only a ripe one has a label.

    Args:
        at: ``(2,)`` its middle.
        size: Its length when seen from the side.
        angle: The way its tip points.
        is_ripe: Ripe or still green.
        light: The light.
        rng: For its form and colour.
    """
    ring = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    wide, cone = rng.uniform(0.36, 0.47), rng.uniform(0.15, 0.4)
    short = rng.uniform(0.75, 1.0)
    bumps = 1 + 0.03 * np.sin(3 * ring + rng.uniform(0, 6))
    half = wide * np.sin(ring) * (1 + cone * np.cos(ring))
    body = turned(np.stack([-0.5 * short * np.cos(ring) * bumps, half], -1), at, angle, size)
    sepals = _sepals(at, size, angle, short, rng)
    seeds = turned(_seeds(wide, cone, short), at, angle, size)
    seeds = seeds + rng.normal(0, 0.01 * size, seeds.shape)
    skin = _among(RIPE if is_ripe else UNRIPE, rng)
    low = np.floor(body.min(0))
    patch = _body(body - low, at - low, size, angle, skin, light, rng)
    dots, dot = seeds.tolist(), max(1.0, size * 0.018)
    green = np.array([96.0, 146.0, 58.0]) * rng.uniform(0.75, 1.15)

    def draw(picture: Image.Image, pen: Pen) -> None:
        picture.paste(patch, (int(low[0]), int(low[1])), patch)
        for x, y in dots:
            pen.ellipse((x - dot, y - dot * 1.2, x + dot, y + dot * 1.4), fill=ink(skin, 0.62))
            pen.ellipse((x - dot * 0.7, y - dot, x + dot * 0.7, y + dot), fill=(228, 196, 96))
        for order, sepal in enumerate(sepals):
            pen.polygon(sepal, fill=ink(green, 0.75 + 0.09 * (order % 4)))

    found = Item((flat(body), *sepals), draw, LABEL)
    return found if is_ripe else nameless(found)


def _body(
    outline: Floats,
    middle: Floats,
    size: float,
    angle: float,
    skin: Floats,
    light: Sun,
    rng: np.random.Generator,
) -> Image.Image:
    """The flesh, paler at the shoulders."""
    columns, rows = (np.ceil(outline.max(0)) + 2).astype(int).tolist()
    along, _ = plant_items.grid(rows, columns, middle, angle)
    pale = np.clip(-along / size * 2.4 - rng.uniform(0.5, 0.95), 0, 0.8)
    return plant_items.shade(outline, middle, size * 0.52, blend(skin, PALE, pale), light)


def _sepals(
    at: Floats, size: float, angle: float, short: float, rng: np.random.Generator
) -> tuple[list[float], ...]:
    """The small leaves ``x, y, …`` at a berry's stalk."""
    spear = np.array([[0, 0], [0.12, 0.055], [0.28, 0.0], [0.12, -0.055]])
    heart = turned(np.array([-0.44 * short, 0.0]), at, angle, size)
    aims = angle + np.linspace(-2.2, 2.2, 7) + rng.normal(0, 0.15, 7)
    long = size * rng.uniform(0.75, 1.15, 7)
    return tuple(
        flat(turned(spear, heart, aim, length))
        for aim, length in zip(aims.tolist(), long.tolist(), strict=True)
    )


def _seeds(wide: float, cone: float, short: float) -> Floats:
    """Where the seeds sit ``(n, 2)``, in rows that are shifted against each other."""
    along, across = np.meshgrid(np.arange(-0.28, 0.44, 0.13), np.arange(-0.45, 0.5, 0.16))
    across = across + 0.08 * (np.round((along + 0.28) / 0.13) % 2)
    reach = wide * np.sqrt(np.clip(1 - 4 * along**2, 0, 1)) * (1 - cone * 2 * along)
    inside = np.abs(across) < 0.84 * reach
    return np.stack([along[inside] * short, across[inside]], -1)
