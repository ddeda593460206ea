"""Parameters and filters of the builtin encoder."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from backend.arrays import Floats

EDGE_SQUARE_SIDES_PX = (128, 64, 32, 16)
"""Image sizes at which edges are computed: fine texture first, outlines last."""
EDGE_GRID_CELLS = (8, 8, 6, 4)
"""Cells per side over which edges are pooled, for each of ``EDGE_SQUARE_SIDES_PX``."""
DIRECTION_COUNT = 6
EDGE_FREQUENCY = 0.28
"""Centre frequency of the filters in cycles per pixel; smaller images cover lower octaves."""
FILTER_BANDWIDTH_OCTAVES = 0.5
FILTER_DIRECTION_SPREAD = 0.6
"""Angular standard deviation of a filter, as a fraction of the angle between directions."""
BORDER_PX = 4
"""Reflection padding, so that the image border is not detected as an edge."""
COLOUR_SIDE_PX = 64
COLOUR_BINS = (3, 7, 7)
"""Histogram bins of lightness, green–red and blue–yellow (CIELAB)."""
COLOUR_LOW, COLOUR_HIGH = (0.0, -50.0, -50.0), (100.0, 50.0, 50.0)
CENTRE_SLICE = slice(12, 52)
"""Rows and columns of the centre, which has its own histogram because most objects are there."""
THUMBNAIL_SIDE_PX = 6
COLOUR_WEIGHT, THUMBNAIL_WEIGHT = 1.4, 0.7
"""Norms of the colour and thumbnail blocks; each of the four edge blocks has norm 1."""


@lru_cache(maxsize=len(EDGE_SQUARE_SIDES_PX))
def gabor_filters(side: int) -> Floats:
    """Return log-Gabor filters (Field 1987) in the frequency domain: (directions, n, n).

    n is ``side`` plus padding. Each filter is zero on half of the plane, so that the magnitude of
    its complex response is the strength of lines and steps alike.
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
    """Return overlapping triangular pooling weights along one axis: (grid, side), rows sum to 1."""
    step = side / grid
    centres = (np.arange(grid) + 0.5) * step - 0.5
    heights = np.maximum(0, 1 - np.abs(np.arange(side) - centres[:, None]) / step)
    return np.asarray(heights / heights.sum(axis=1, keepdims=True), dtype=np.float32)
