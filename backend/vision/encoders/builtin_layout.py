"""Layout of the builtin embedding: its squares, filters, colour bins and weights."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from backend.arrays import Floats

EDGE_SQUARE_SIDES_PX = (128, 64, 32, 16)
"""Pixels of the squares that edges are looked for in: fine texture first, outline last."""


EDGE_GRID_CELLS = (8, 8, 6, 4)
"""Cells along a side that edges are summed up in, for each of ``SIDES``."""


DIRECTION_COUNT = 6


EDGE_FREQUENCY = 0.28
"""Of the edges looked for, in cycles per pixel; each smaller square sees the octave below."""


FILTER_BANDWIDTH_OCTAVES = 0.5
"""Spread of a filter, in octaves."""


FILTER_DIRECTION_SPREAD = 0.6
"""Spread of a filter over directions, in steps from one direction to the next."""


BORDER_PX = 4
"""Mirrored pixels around a square, so that its border is no edge."""


COLOUR_SIDE_PX = 64


COLOUR_BINS = (3, 7, 7)
"""Of lightness, green–red and blue–yellow (CIELAB)."""


COLOUR_LOW, COLOUR_HIGH = (0.0, -50.0, -50.0), (100.0, 50.0, 50.0)


CENTRE_SLICE = slice(12, 52)
"""The middle of the square, whose colours count once more: most objects are there."""


THUMBNAIL_SIDE_PX = 6


COLOUR_WEIGHT, THUMBNAIL_WEIGHT = 1.4, 0.7
"""Length of these blocks; each of the four edge blocks has length 1."""


@lru_cache(maxsize=len(EDGE_SQUARE_SIDES_PX))
def gabor_filters(side: int) -> Floats:
    """Log-Gabor filters (Field 1987), by frequency: (DIRECTIONS, n, n), n with the border.

    Half of the plane is empty, so that the absolute value of an answer is the strength of an edge
    whether it is a line or a step.
    """
    frequencies = np.fft.fftfreq(side + 2 * BORDER_PX)
    y, x = np.meshgrid(frequencies, frequencies, indexing="ij")
    octaves = np.log2(np.maximum(np.hypot(x, y), 1e-6) / EDGE_FREQUENCY)
    directions = np.pi / DIRECTION_COUNT * np.arange(DIRECTION_COUNT)[:, None, None]
    angle_offsets = np.angle(np.exp(1j * (np.arctan2(y, x) - directions)))
    spread = FILTER_DIRECTION_SPREAD * np.pi / DIRECTION_COUNT
    gain = np.exp(
        -(octaves**2) / (2 * FILTER_BANDWIDTH_OCTAVES**2) - angle_offsets**2 / (2 * spread**2)
    )
    return np.asarray(gain, dtype=np.float32)


@lru_cache(maxsize=len(EDGE_SQUARE_SIDES_PX))
def triangular_windows(grid: int, side: int) -> Floats:
    """Overlapping triangular windows along a side: (grid, side), each of sum 1."""
    step = side / grid
    centres = (np.arange(grid) + 0.5) * step - 0.5
    heights = np.maximum(0, 1 - np.abs(np.arange(side) - centres[:, None]) / step)
    return np.asarray(heights / heights.sum(axis=1, keepdims=True), dtype=np.float32)
