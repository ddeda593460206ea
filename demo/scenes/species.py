"""Growth parameters of plant species, and leaf colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backend.arrays import Doubles
from demo.scenes.drawing import Rgb

ValueRange = tuple[float, float]
"""Lowest and highest value of a random quantity."""


@dataclass(frozen=True)
class Species:
    """Growth parameters of a healthy plant. Angles in degrees, lengths in plant heights.

    Attributes:
        stem_length: length of a stem; close to 0 for a rosette.
        stem_bend: bend of a healthy stem, 0 to 1.
        stem_droop_factor: limpness of the stems relative to the plant; 0 for a vine on a cane.
        first_leaf_position: position of the first leaf on a stem, 0 to 1.
        leaf_elevation: elevation of the lowest and of the highest leaf.
        leaf_bend: bend of a healthy leaf, 0 to 1.
        half_width_ratio: half width of a leaf divided by its length.
        taper: size of the highest leaf divided by that of the lowest.
        petiole: share of the leaf that is stalk.
        width_exponent: below 1 the blade is widest near the base, above 1 near the tip.
        lobes: lobes per side; 0 for a smooth edge.
        leaflet_pairs: pairs of leaflets of a compound leaf; 0 for a simple leaf.
    """

    name: str
    stem_count: tuple[int, int]
    stem_elevation: ValueRange
    stem_length: ValueRange
    stem_bend: float
    stem_droop_factor: float
    leaves_per_stem: tuple[int, int]
    first_leaf_position: float
    leaf_elevation: ValueRange
    leaf_bend: float
    leaf_length: ValueRange
    half_width_ratio: float
    taper: float
    petiole: float
    width_exponent: float
    lobes: int = 0
    leaflet_pairs: int = 0
    flower_probability: float = 0.0
    fruit_probability: float = 0.0
    cane_probability: float = 0.0

    @property
    def is_rosette(self) -> bool:
        """Whether all leaves start at the soil."""
        return self.stem_length[1] < 0.1

    @property
    def is_grassy(self) -> bool:
        """Whether the leaves are long and narrow."""
        return self.half_width_ratio < 0.05

    def half_width_profile(self, steps: int) -> Doubles:
        """Return half widths ``(steps + 1,)`` along a leaf, 0 to 1, starting at the stalk."""
        positions = np.linspace(0, 1, steps + 1)
        blade_positions = np.clip((positions - self.petiole) / (1 - self.petiole), 0, 1)
        half_widths = np.sin(np.pi * blade_positions**self.width_exponent) ** 0.8
        if self.lobes:
            half_widths = half_widths * (
                1 + 0.28 * np.cos(2 * np.pi * self.lobes * (blade_positions - 0.2))
            )
        return np.asarray(np.maximum(half_widths, np.where(positions < 0.95, 0.05, 0.0)))


# fmt: off
SPECIES = (
    Species("basil", (5, 8), (55, 85), (0.5, 0.8), 0.08, 0.75, (7, 10), 0.25, (5, 55), 0.2,
            (0.22, 0.3), 0.3, 0.6, 0.15, 0.8),
    Species("pepper", (3, 5), (58, 85), (0.6, 0.85), 0.08, 0.75, (7, 11), 0.3, (0, 50), 0.28,
            (0.26, 0.34), 0.24, 0.6, 0.22, 0.75, flower_probability=0.1,
            fruit_probability=0.55, cane_probability=0.4),
    Species("tomato", (2, 3), (78, 90), (0.8, 0.95), 0.05, 0.6, (7, 10), 0.15, (12, 50), 0.25,
            (0.4, 0.52), 0.22, 0.6, 0.2, 0.8, leaflet_pairs=3,
            flower_probability=0.2, fruit_probability=0.6, cane_probability=0.8),
    Species("lettuce", (1, 1), (90, 90), (0.02, 0.05), 0.0, 0.0, (16, 24), 0.0, (22, 80), 0.22,
            (0.5, 0.68), 0.34, 0.65, 0.04, 1.35, lobes=3),
    Species("primrose", (1, 1), (90, 90), (0.03, 0.08), 0.0, 0.0, (18, 26), 0.0, (18, 70), 0.25,
            (0.46, 0.6), 0.24, 0.6, 0.12, 1.1, flower_probability=0.75),
    Species("chives", (1, 1), (90, 90), (0.02, 0.04), 0.0, 0.0, (30, 46), 0.0, (52, 88), 0.2,
            (0.7, 1.0), 0.018, 0.9, 0.0, 0.5, flower_probability=0.3),
    Species("spider plant", (1, 1), (90, 90), (0.02, 0.05), 0.0, 0.0, (18, 30), 0.0, (40, 86), 0.42,
            (0.7, 1.0), 0.035, 0.8, 0.0, 0.6),
    Species("cucumber", (1, 1), (86, 92), (0.9, 1.0), 0.02, 0.0, (10, 14), 0.08, (15, 45), 0.3,
            (0.32, 0.42), 0.42, 0.55, 0.4, 0.75, lobes=2,
            flower_probability=0.35, fruit_probability=0.35, cane_probability=1.0),
    Species("geranium", (6, 9), (45, 82), (0.4, 0.6), 0.1, 0.75, (4, 6), 0.3, (15, 60), 0.18,
            (0.26, 0.36), 0.36, 0.7, 0.45, 0.8, lobes=2, flower_probability=0.7),
    Species("begonia", (5, 8), (45, 80), (0.3, 0.5), 0.1, 0.75, (4, 6), 0.2, (5, 50), 0.25,
            (0.3, 0.42), 0.4, 0.7, 0.3, 0.6, flower_probability=0.55),
    Species("marigold", (6, 9), (55, 85), (0.55, 0.8), 0.06, 0.85, (7, 10), 0.15, (15, 60), 0.2,
            (0.16, 0.24), 0.12, 0.7, 0.1, 0.9, flower_probability=0.95),
    Species("tulip", (5, 8), (72, 88), (0.7, 0.95), 0.05, 0.8, (3, 4), 0.02, (55, 78), 0.14,
            (0.5, 0.7), 0.1, 0.8, 0.0, 0.75, flower_probability=1.0),
    Species("rubber plant", (2, 3), (80, 90), (0.75, 0.9), 0.03, 0.35, (8, 12), 0.15, (20, 70),
            0.12, (0.3, 0.4), 0.22, 0.7, 0.15, 0.9),
    Species("seedlings", (9, 14), (70, 90), (0.35, 0.6), 0.06, 0.9, (3, 5), 0.6, (15, 55), 0.15,
            (0.16, 0.26), 0.26, 0.9, 0.15, 0.9),
)
# fmt: on

LEAF_COLOURS: tuple[tuple[Rgb, Rgb, float], ...] = (
    ((34, 84, 34), (72, 132, 56), 5.5),  # deep green
    ((70, 128, 44), (120, 172, 72), 5.5),  # fresh green
    ((58, 104, 84), (104, 146, 124), 0.9),  # blue green
    ((112, 120, 58), (146, 148, 84), 0.5),  # olive
    ((182, 176, 42), (214, 204, 72), 0.7),  # golden variety
    ((132, 168, 44), (170, 196, 70), 1.0),  # lime variety
    ((84, 32, 46), (136, 56, 70), 0.8),  # red leaved
    ((70, 36, 66), (122, 62, 108), 0.5),  # purple
    ((112, 146, 122), (146, 180, 156), 0.5),  # silver
)
"""Dark and light RGB of the leaf colours of healthy plants, and their weights."""


def sample_leaf_colour(rng: np.random.Generator) -> Doubles:
    """Sample the leaf colour ``(3,)`` of one plant, RGB 0 to 255."""
    weights = np.array([weight for *_, weight in LEAF_COLOURS])
    dark, light, _ = LEAF_COLOURS[rng.choice(len(LEAF_COLOURS), p=weights / weights.sum())]
    dark_rgb, light_rgb = np.array(dark), np.array(light)
    return np.asarray(dark_rgb + (light_rgb - dark_rgb) * rng.random(), np.float64)
