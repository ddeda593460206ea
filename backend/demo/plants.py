"""Growing one plant from its species and condition, and drawing it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import ImageDraw

from backend.demo import leaves as foliage
from backend.demo.leaves import Floats, Leaves, Sun, View, spines
from backend.demo.species import Species, tint

GOLDEN = np.radians(137.5)
"""The angle between one leaf and the next on a stem."""

Doing = Callable[[np.random.Generator], "Condition"]


@dataclass(frozen=True)
class Condition:
    """How a plant is doing; every value 0 to 1.

    Attributes:
        limp: How far leaves and stems have lost their tension.
        decay: How far leaves have turned yellow and brown.
        curl: How far blades have rolled up.
        gloss: How much the leaves shine.
        blemish: Share of leaves that are old and yellow whatever the plant's health.
    """

    limp: float
    decay: float
    curl: float
    gloss: float
    blemish: float


@dataclass(frozen=True)
class Plant:
    """One grown plant, in plant heights.

    Attributes:
        species: What it is.
        condition: How it is doing.
        stems: ``(m, steps, 3)`` stems and stalks of compound leaves.
        leaves: Its leaves.
        tips: ``(k, 3)`` where flowers sit.
        fruits: ``(f, 3)`` where fruits hang.
    """

    species: Species
    condition: Condition
    stems: Floats
    leaves: Leaves
    tips: Floats
    fruits: Floats


def healthy(rng: np.random.Generator) -> Condition:
    """A plant that stands: at worst a few old leaves have turned."""
    blemish = rng.uniform(0.06, 0.25) if rng.random() < 0.3 else 0.0
    return Condition(rng.uniform(0.0, 0.08), 0.0, 0.0, rng.uniform(0.1, 0.5), blemish)


def wilting(rng: np.random.Generator) -> Condition:
    """A plant that hangs, mildly to severely, still green or already dry."""
    limp = rng.uniform(0.55, 1.0)
    decay = rng.uniform(0.0, 0.1) if rng.random() < 0.25 else rng.uniform(0.25, 0.8)
    curl = np.clip(limp * rng.uniform(0.3, 0.9), 0, 1)
    return Condition(limp, decay, float(curl), rng.uniform(0.0, 0.15), rng.uniform(0.0, 0.2))


def grow(species: Species, condition: Condition, rng: np.random.Generator) -> Plant:
    """One plant of a species in a condition, different every time."""
    stems = _stems(species, condition, rng)
    leaves = _leaves(species, condition, stems, rng)
    if species.leaflets:
        stalks, leaves = _leaflets(species, condition, leaves, rng)
        stems = np.concatenate([stems, stalks])
    tips = stems[: species.stems[1], -1] if rng.random() < species.bloom else np.empty((0, 3))
    fruits = leaves.base[rng.random(len(leaves.base)) < 0.15]
    fruits = fruits if rng.random() < species.fruit else np.empty((0, 3))
    return Plant(species, condition, stems, leaves, tips, fruits)


def _stems(species: Species, condition: Condition, rng: np.random.Generator) -> Floats:
    """Stems ``(m, steps, 3)``, bowed by their own weight and by the plant's limpness."""
    count = int(rng.integers(species.stems[0], species.stems[1] + 1))
    azimuth = np.arange(count) * (2 * np.pi / count) + rng.normal(0, 0.5, count)
    rise = np.radians(rng.uniform(*species.stem_rise, count))
    slack = species.weakness * condition.limp * rng.uniform(0.5, 1.15, count)
    bow = np.clip(species.stem_bow + slack, 0, 1)
    foot = rng.normal(0, 0.02 + 0.02 * (count > 4), (count, 3)) * (1, 1, 0)
    length = rng.uniform(*species.stem_length, count)
    return spines(foot, azimuth, rise - slack * 0.35, bow, length, 8)


def _leaves(
    species: Species, condition: Condition, stems: Floats, rng: np.random.Generator
) -> Leaves:
    """The leaves along all stems."""
    count = int(rng.integers(species.nodes[0], species.nodes[1] + 1))
    place = np.linspace(species.lowest, 1.0, count)
    base = np.concatenate([_along(stem, place) for stem in stems])
    age = np.tile(1 - np.linspace(0, 1, count), len(stems))
    azimuth = np.arange(len(age)) * GOLDEN + rng.normal(0, 0.35, len(age)) + rng.uniform(0, 6.28)
    size = rng.uniform(*species.leaf_length) * (species.taper + (1 - species.taper) * age)
    length = size * rng.normal(1, 0.1, len(age))
    return _hang(species, condition, base, azimuth, age, length, rng)


def _hang(
    species: Species,
    condition: Condition,
    base: Floats,
    azimuth: Floats,
    age: Floats,
    length: Floats,
    rng: np.random.Generator,
) -> Leaves:
    """Leaves of these ages and lengths with the posture and the colour of the plant's condition."""
    n = len(age)
    limp = np.clip(condition.limp * rng.uniform(0.65, 1.2, n), 0, 1)
    low, high = np.radians(species.leaf_rise)
    rise = high + (low - high) * age + rng.normal(0, 0.12, n) - limp * rng.uniform(0.7, 1.4, n)
    curl = np.clip(condition.curl * rng.uniform(0.6, 1.3, n), 0, 1)
    width = length * species.slim * (1 - 0.5 * curl) * rng.normal(1, 0.08, n)
    fold = rng.uniform(0.05, 0.45, n) * (1 - condition.limp) - 1.25 * curl
    old = (rng.random(n) < condition.blemish * (0.3 + 1.4 * age)) * rng.uniform(0.2, 0.6, n)
    decay = np.clip(condition.decay * rng.uniform(0.4, 1.3, n) * (0.7 + 0.5 * age) + old, 0, 1)
    mottle = np.full(n, rng.uniform(0.4, 0.9) if rng.random() < 0.12 else 0.0)
    colour = _dull(tint(rng), condition) * rng.normal(1, 0.07, n)[:, None]
    bow = np.clip(species.arch + (1 - species.arch) * limp, 0, 1)
    return Leaves(
        base, azimuth, np.maximum(rise, -1.4), bow, length, width, fold, colour, decay, mottle
    )


def _dull(colour: Floats, condition: Condition) -> Floats:
    """The colour with less life in it, as a limp leaf has."""
    grey = colour.mean() * 0.95
    return np.asarray(colour + (grey - colour) * 0.22 * condition.limp)


def _along(path: Floats, place: Floats) -> Floats:
    """Points ``(n, 3)`` at shares 0 to 1 of a path ``(steps, 3)``."""
    ticks = np.linspace(0, 1, len(path))
    return np.stack([np.interp(place, ticks, path[:, axis]) for axis in range(3)], -1)


def _leaflets(
    species: Species, condition: Condition, whole: Leaves, rng: np.random.Generator
) -> tuple[Floats, Leaves]:
    """The stalks ``(n, steps, 3)`` of compound leaves, and the leaflets on them."""
    stalks = spines(whole.base, whole.azimuth, whole.rise, whole.limp, whole.length, 8)
    pairs = species.leaflets
    place = np.append(np.repeat(np.linspace(0.4, 0.9, pairs), 2), 1.0)
    turn = np.append(np.tile([1.0, -1.0], pairs), 0.0) * 1.05
    base = np.concatenate([_along(stalk, place) for stalk in stalks])
    azimuth = (whole.azimuth[:, None] + turn).ravel()
    length = (whole.length[:, None] * np.where(turn == 0, 0.5, 0.42)).ravel()
    age = np.repeat(np.linspace(1, 0, len(stalks)), len(place))
    parts = _hang(species, condition, base, azimuth, age * 0.5 + 0.3, length, rng)
    return stalks, replace(parts, tint=np.repeat(whole.tint, len(place), axis=0))


def draw(plant: Plant, pen: ImageDraw.ImageDraw, view: View, sun: Sun, steps: int,
         rng: np.random.Generator) -> None:
    """Draw a plant back to front: far leaves, stems, near leaves, fruits, flowers.

    Args:
        plant: What to draw.
        pen: Draws in RGBA mode on an RGB picture.
        view: The camera.
        sun: The light.
        steps: Pieces along a leaf; more for a plant that is near.
        rng: For small differences in colour and form.
    """
    shapes = _shapes(plant, view, sun, steps, rng)
    order = np.argsort(plant.leaves.base[:, 1] + shapes.reach)
    behind = int((plant.leaves.base[:, 1] + shapes.reach < -0.02).sum())
    for leaf in order[:behind]:
        shapes.draw(pen, leaf)
    _draw_stems(plant, pen, view)
    for leaf in order[behind:]:
        shapes.draw(pen, leaf)
    _draw_fruits(plant, pen, view, rng)
    _draw_flowers(plant, pen, view, rng)


@dataclass(frozen=True)
class _Shapes:
    """Leaves as flat coloured pieces, ready for the pen."""

    pieces: list[list[list[list[float]]]]
    colours: list[list[list[int]]]
    outlines: list[list[list[float]]]
    ribs: list[list[list[float]]]
    rib_colours: list[list[int]]
    reach: Floats
    line: int

    def draw(self, pen: ImageDraw.ImageDraw, leaf: int) -> None:
        pen.polygon(_flat(self.outlines[leaf]), fill=(12, 20, 12, 70))
        for piece, colour in zip(self.pieces[leaf], self.colours[leaf], strict=True):
            pen.polygon(_flat(piece), fill=tuple(colour))
        pen.line(_flat(self.ribs[leaf]), fill=tuple(self.rib_colours[leaf]), width=self.line)


def _flat(points: list[list[float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points]


def _shapes(plant: Plant, view: View, sun: Sun, steps: int, rng: np.random.Generator) -> _Shapes:
    leaves = plant.leaves
    rib, edges, normals = foliage.blades(leaves, plant.species.profile(steps))
    light, shine = foliage.shades(normals, sun, view.toward(), plant.condition.gloss)
    inner = _inner(rib)[:, None, None]
    colours = foliage.paint(leaves, steps, rng) * (light * inner * 1.3)[..., None]
    colours = np.clip(colours + shine[..., None] * inner[..., None] * 150, 0, 255)
    flat_rib, flat_edges = view.project(rib), view.project(edges)
    quads = _quads(flat_rib, flat_edges)
    outline = np.concatenate([flat_edges[:, 0], flat_edges[:, 1, ::-1]], 1)
    n = len(rib)
    return _Shapes(
        quads.reshape(n, -1, 4, 2).tolist(),
        colours.astype(int).reshape(n, -1, 3).tolist(),
        (outline + view.scale * np.array([0.006, 0.012])).tolist(),
        flat_rib.tolist(),
        np.clip(colours.mean((1, 2)) * 1.15 + 12, 0, 255).astype(int).tolist(),
        rib[:, steps // 2, 1] - rib[:, 0, 1],
        max(1, round(view.scale / 180)),
    )


def _quads(rib: Floats, edges: Floats) -> Floats:
    """Pieces ``(n, 2, steps, 4, 2)`` between the midrib and both edges."""
    ribs = np.stack([rib, rib], 1)
    corners = (ribs[:, :, :-1], edges[:, :, :-1], edges[:, :, 1:], ribs[:, :, 1:])
    return np.stack(corners, 3)


def _inner(rib: Floats) -> Floats:
    """How much light ``(n,)`` gets through to each leaf: less deep inside and low down."""
    middle = rib[:, rib.shape[1] // 2]
    out = np.hypot(middle[:, 0], middle[:, 1]) * 1.2 + np.maximum(middle[:, 2], 0) * 0.6
    return np.asarray(np.clip(0.5 + out * 0.75, 0.5, 1.05))


def _draw_stems(plant: Plant, pen: ImageDraw.ImageDraw, view: View) -> None:
    thick = max(1, round(view.scale * 0.016))
    colour = plant.leaves.tint.mean(0) * 0.8 + np.array([20, 12, 4])
    dark, bright = (tuple(int(v) for v in colour * k) for k in (0.6, 1.0))
    for stem in view.project(plant.stems).tolist():
        pen.line(_flat(stem), fill=dark, width=thick)
        pen.line(_flat(stem), fill=bright, width=max(1, thick // 2))


def _draw_fruits(
    plant: Plant, pen: ImageDraw.ImageDraw, view: View, rng: np.random.Generator
) -> None:
    ripe = np.array([(196, 44, 30), (222, 130, 30), (70, 120, 40), (214, 188, 50)])
    colour = ripe[rng.integers(len(ripe))]
    for x, y in view.project(plant.fruits).tolist():
        size = view.scale * rng.uniform(0.025, 0.05)
        y += size * 2
        for shrink, light in ((1.0, 0.55), (0.85, 0.85), (0.6, 1.0)):
            _disc(pen, x - size * (1 - shrink) * 0.4, y - size * (1 - shrink) * 0.5,
                  size * shrink, colour * light)
        _disc(pen, x - size * 0.35, y - size * 0.4, size * 0.18, np.array([250, 244, 232]))


def _draw_flowers(
    plant: Plant, pen: ImageDraw.ImageDraw, view: View, rng: np.random.Generator
) -> None:
    fresh = np.array([(226, 60, 80), (240, 190, 40), (236, 232, 226), (190, 90, 190),
                      (240, 130, 50), (120, 90, 200)])
    colour = fresh[rng.integers(len(fresh))] * (1 - 0.25 * plant.condition.decay)
    for x, y in view.project(plant.tips).tolist():
        _flower(pen, x, y, view.scale * rng.uniform(0.05, 0.085), colour, rng)


def _flower(pen: ImageDraw.ImageDraw, x: float, y: float, size: float, colour: Floats,
            rng: np.random.Generator) -> None:
    petals = int(rng.integers(5, 9))
    for turn in rng.uniform(0, 6.28) + np.arange(petals) * 2 * np.pi / petals:
        shade = colour * rng.uniform(0.72, 1.0)
        _disc(pen, x + size * 0.6 * np.cos(turn), y + size * 0.5 * np.sin(turn),
              size * 0.45, shade)
    _disc(pen, x, y, size * 0.28, np.array([206, 160, 50]))


def _disc(pen: ImageDraw.ImageDraw, x: float, y: float, size: float, colour: Floats) -> None:
    fill = (int(colour[0]), int(colour[1]), int(colour[2]))
    pen.ellipse((x - size, y - size, x + size, y + size), fill=fill)
