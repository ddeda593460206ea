"""Growing one plant from its species and condition."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from demo.scenes.leaf_geometry import Floats, Leaves, spines
from demo.scenes.species import Species, tint

GOLDEN = np.radians(137.5)
"""The angle between one leaf and the next on a stem."""


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
    blemish = rng.uniform(0.06, 0.3) if rng.random() < 0.35 else 0.0
    return Condition(rng.uniform(0.0, 0.08), 0.0, 0.0, rng.uniform(0.1, 0.5), blemish)


def wilting(rng: np.random.Generator) -> Condition:
    """A plant that hangs: one that is still green hangs a lot, one that has dried perhaps less."""
    green = rng.random() < 0.25
    decay = rng.uniform(0.0, 0.1) if green else rng.uniform(0.25, 0.8)
    limp = rng.uniform(0.78, 1.0) if green else rng.uniform(0.6, 1.0)
    curl = limp * rng.uniform(0.3, 0.9)
    return Condition(limp, decay, curl, rng.uniform(0.0, 0.15), rng.uniform(0.0, 0.2))


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
    fall = rng.uniform(0.7, 1.4, n) + 0.6 * species.is_grassy  # a blade of grass goes flat
    low, high = np.radians(species.leaf_rise)
    rise = high + (low - high) * age + rng.normal(0, 0.12, n) - limp * fall
    curl = np.clip(condition.curl * rng.uniform(0.6, 1.3, n), 0, 1)
    width = length * species.slim * (1 - 0.5 * curl) * rng.normal(1, 0.08, n)
    fold = rng.uniform(0.05, 0.45, n) * (1 - condition.limp) - 1.25 * curl
    old = (rng.random(n) < condition.blemish * (0.3 + 1.4 * age)) * rng.uniform(0.2, 0.6, n)
    decay = np.clip(condition.decay * rng.uniform(0.4, 1.3, n) * (0.7 + 0.5 * age) + old, 0, 1)
    mottle = np.full(n, rng.uniform(0.4, 0.9) if rng.random() < 0.12 else 0.0)
    colour = _dull(tint(rng), condition) * rng.normal(1, 0.07, n)[:, None]
    bow = np.clip(species.arch + (1 - species.arch) * limp, 0, 1)
    lowest = np.clip(-0.1 - base[:, 2] * 8, -1.4, 0)  # a leaf at the soil lies on the pot's rim
    return Leaves(
        base, azimuth, np.maximum(rise, lowest), bow, length, width, fold, colour, decay, mottle
    )


def _dull(colour: Floats, condition: Condition) -> Floats:
    """The colour with less life in it, as a limp leaf has."""
    grey = colour.mean() * np.array([0.98, 0.92, 0.74])
    return np.asarray(colour + (grey - colour) * 0.34 * condition.limp)


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
