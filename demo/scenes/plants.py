"""Grow a plant from its species and condition."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from backend.arrays import Doubles
from demo.scenes.leaf_geometry import Leaves, trace_midribs
from demo.scenes.species import Species, sample_leaf_colour

LEAF_ANGLE_RADIANS = np.radians(137.5)
"""Angle between successive leaves on a stem."""


@dataclass(frozen=True)
class Condition:
    """Condition of a plant, all 0 to 1: limpness, dryness, curl, gloss, share of old leaves."""

    droop: float
    decay: float
    curl_share: float
    gloss: float
    old_leaf_share: float


@dataclass(frozen=True)
class Plant:
    """One plant, in plant heights.

    Attributes:
        stems: ``(m, steps, 3)`` stems, and stalks of compound leaves.
        flower_positions: ``(k, 3)``.
        fruit_positions: ``(f, 3)``.
    """

    species: Species
    condition: Condition
    stems: Doubles
    leaves: Leaves
    flower_positions: Doubles
    fruit_positions: Doubles


def sample_healthy(rng: np.random.Generator) -> Condition:
    """Sample a healthy plant, perhaps with a few old leaves."""
    old_leaf_share = rng.uniform(0.06, 0.3) if rng.random() < 0.35 else 0.0
    return Condition(rng.uniform(0.0, 0.08), 0.0, 0.0, rng.uniform(0.1, 0.5), old_leaf_share)


def sample_wilting(rng: np.random.Generator) -> Condition:
    """Sample a wilting plant: green and very limp, or dry and limp."""
    is_green = rng.random() < 0.25
    decay = rng.uniform(0.0, 0.1) if is_green else rng.uniform(0.25, 0.8)
    droop = rng.uniform(0.78, 1.0) if is_green else rng.uniform(0.6, 1.0)
    curl = droop * rng.uniform(0.3, 0.9)
    return Condition(droop, decay, curl, rng.uniform(0.0, 0.15), rng.uniform(0.0, 0.2))


def grow_plant(species: Species, condition: Condition, rng: np.random.Generator) -> Plant:
    """Grow a random plant of a species and condition."""
    stems = _grow_stems(species, condition, rng)
    leaves = _grow_leaves(species, condition, stems, rng)
    if species.leaflet_pairs:
        stalks, leaves = _grow_leaflets(species, condition, leaves, rng)
        stems = np.concatenate([stems, stalks])
    flower_positions = (
        stems[: species.stem_count[1], -1]
        if rng.random() < species.flower_probability
        else np.empty((0, 3))
    )
    fruit_positions = leaves.base[rng.random(len(leaves.base)) < 0.15]
    fruit_positions = (
        fruit_positions if rng.random() < species.fruit_probability else np.empty((0, 3))
    )
    return Plant(species, condition, stems, leaves, flower_positions, fruit_positions)


def _grow_stems(species: Species, condition: Condition, rng: np.random.Generator) -> Doubles:
    """Grow stems ``(m, steps, 3)`` that bend under their weight."""
    count = int(rng.integers(species.stem_count[0], species.stem_count[1] + 1))
    azimuth = np.arange(count) * (2 * np.pi / count) + rng.normal(0, 0.5, count)
    elevation = np.radians(rng.uniform(*species.stem_elevation, count))
    extra_bend = species.stem_droop_factor * condition.droop * rng.uniform(0.5, 1.15, count)
    bend = np.clip(species.stem_bend + extra_bend, 0, 1)
    stem_base = rng.normal(0, 0.02 + 0.02 * (count > 4), (count, 3)) * (1, 1, 0)
    length = rng.uniform(*species.stem_length, count)
    return trace_midribs(stem_base, azimuth, elevation - extra_bend * 0.35, bend, length, 8)


def _grow_leaves(
    species: Species, condition: Condition, stems: Doubles, rng: np.random.Generator
) -> Leaves:
    """Grow leaves along all stems."""
    count = int(rng.integers(species.leaves_per_stem[0], species.leaves_per_stem[1] + 1))
    positions = np.linspace(species.first_leaf_position, 1.0, count)
    base = np.concatenate([_points_along(stem, positions) for stem in stems])
    age = np.tile(1 - np.linspace(0, 1, count), len(stems))
    azimuth = (
        np.arange(len(age)) * LEAF_ANGLE_RADIANS
        + rng.normal(0, 0.35, len(age))
        + rng.uniform(0, 6.28)
    )
    size = rng.uniform(*species.leaf_length) * (species.taper + (1 - species.taper) * age)
    length = size * rng.normal(1, 0.1, len(age))
    return _pose_leaves(species, condition, base, azimuth, age, length, rng)


def _pose_leaves(
    species: Species,
    condition: Condition,
    base: Doubles,
    azimuth: Doubles,
    age: Doubles,
    length: Doubles,
    rng: np.random.Generator,
) -> Leaves:
    """Return leaves of given ages and lengths, posed and coloured by the plant's condition."""
    n = len(age)
    droop = np.clip(condition.droop * rng.uniform(0.65, 1.2, n), 0, 1)
    droop_rate = rng.uniform(0.7, 1.4, n) + 0.6 * species.is_grassy  # grass bends more
    lowest_elevation, highest_elevation = np.radians(species.leaf_elevation)
    elevation = (
        highest_elevation
        + (lowest_elevation - highest_elevation) * age
        + rng.normal(0, 0.12, n)
        - droop * droop_rate
    )
    curl = np.clip(condition.curl_share * rng.uniform(0.6, 1.3, n), 0, 1)
    width = length * species.half_width_ratio * (1 - 0.5 * curl) * rng.normal(1, 0.08, n)
    fold = rng.uniform(0.05, 0.45, n) * (1 - condition.droop) - 1.25 * curl
    old_age_decay = (rng.random(n) < condition.old_leaf_share * (0.3 + 1.4 * age)) * rng.uniform(
        0.2, 0.6, n
    )
    decay = np.clip(
        condition.decay * rng.uniform(0.4, 1.3, n) * (0.7 + 0.5 * age) + old_age_decay, 0, 1
    )
    variegation = np.full(n, rng.uniform(0.4, 0.9) if rng.random() < 0.12 else 0.0)
    colour = _desaturate(sample_leaf_colour(rng), condition) * rng.normal(1, 0.07, n)[:, None]
    bend = np.clip(species.leaf_bend + (1 - species.leaf_bend) * droop, 0, 1)
    # leaves near the soil rest on the rim of the pot
    elevation = np.maximum(elevation, np.clip(-0.1 - base[:, 2] * 8, -1.4, 0))
    shape = (base, azimuth, elevation, bend, length, width, fold)
    return Leaves(*shape, colour, decay, variegation)


def _desaturate(colour: Doubles, condition: Condition) -> Doubles:
    """Return a colour with the lower saturation of limp leaves."""
    grey = colour.mean() * np.array([0.98, 0.92, 0.74])
    return np.asarray(colour + (grey - colour) * 0.34 * condition.droop)


def _points_along(path: Doubles, shares: Doubles) -> Doubles:
    """Interpolate points ``(n, 3)`` at shares 0 to 1 of a path ``(steps, 3)``."""
    path_shares = np.linspace(0, 1, len(path))
    return np.stack([np.interp(shares, path_shares, path[:, axis]) for axis in range(3)], -1)


def _grow_leaflets(
    species: Species, condition: Condition, compound_leaves: Leaves, rng: np.random.Generator
) -> tuple[Doubles, Leaves]:
    """Grow the stalks ``(n, steps, 3)`` of compound leaves, and their leaflets."""
    c = compound_leaves
    stalks = trace_midribs(c.base, c.azimuth, c.elevation, c.droop, c.length, 8)
    pairs = species.leaflet_pairs
    positions = np.append(np.repeat(np.linspace(0.4, 0.9, pairs), 2), 1.0)
    azimuth_offsets = np.append(np.tile([1.0, -1.0], pairs), 0.0) * 1.05
    base = np.concatenate([_points_along(stalk, positions) for stalk in stalks])
    azimuth = (compound_leaves.azimuth[:, None] + azimuth_offsets).ravel()
    length = (compound_leaves.length[:, None] * np.where(azimuth_offsets == 0, 0.5, 0.42)).ravel()
    age = np.repeat(np.linspace(1, 0, len(stalks)), len(positions))
    leaflets = _pose_leaves(species, condition, base, azimuth, age * 0.5 + 0.3, length, rng)
    return stalks, replace(
        leaflets, colour=np.repeat(compound_leaves.colour, len(positions), axis=0)
    )
