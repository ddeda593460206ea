"""Features of the inside of a box, sampled from feature maps (RoIAlign, arXiv 1703.06870)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backend.arrays import Floats, Indices
from backend.vision.detection.letterbox import Letterbox

GRID_SIZE = 6
"""Samples along each edge of a box."""


def box_features(maps: Sequence[Floats], boxes: Floats, position: Letterbox) -> Floats:
    """Return the mean and maximum of each channel inside boxes: (n, 2 · channels) float32.

    Args:
        maps: (c, h, w) float32 feature maps of the same image.
        boxes: (n, 4) float32 x0 y0 x1 y1 in pixels of the input.
        position: position of the image in the input.
    """
    if not len(boxes):
        return np.zeros((0, 2 * sum(len(feature_map) for feature_map in maps)), dtype=np.float32)
    columns: list[Floats] = []
    for feature_map in maps:
        scale = feature_map.shape[2] / position.input_size[0]
        samples = _sample_boxes(feature_map, boxes * np.float32(scale))
        columns += [samples.mean(axis=1), samples.max(axis=1)]
    return np.concatenate(columns, axis=1)


def _sample_boxes(feature_map: Floats, boxes: Floats) -> Floats:
    """Sample a map bilinearly on a grid in each box: (n, GRID_SIZE², c)."""
    channels, height, width = feature_map.shape
    steps = (np.arange(GRID_SIZE, dtype=np.float32) + 0.5) / GRID_SIZE
    low, edges = boxes[:, :2, None], (boxes[:, 2:] - boxes[:, :2])[..., None]
    positions = np.asarray(low + edges * steps - 0.5, dtype=np.float32)  # (n, 2, GRID_SIZE)
    left, right, x_share = _neighbours(positions[:, 0], width)
    top, bottom, y_share = _neighbours(positions[:, 1], height)
    flat = feature_map.reshape(channels, -1).T

    def rows_at(rows: Indices, columns: Indices) -> Floats:
        cells = rows[:, :, None] * width + columns[:, None, :]
        return np.asarray(flat[cells.reshape(len(boxes), -1)], dtype=np.float32)

    x_weight = np.repeat(x_share[:, None, :], GRID_SIZE, axis=1).reshape(len(boxes), -1, 1)
    y_weight = np.repeat(y_share[:, :, None], GRID_SIZE, axis=2).reshape(len(boxes), -1, 1)
    upper = rows_at(top, left) * (1 - x_weight) + rows_at(top, right) * x_weight
    lower = rows_at(bottom, left) * (1 - x_weight) + rows_at(bottom, right) * x_weight
    return np.asarray(upper * (1 - y_weight) + lower * y_weight, dtype=np.float32)


def _neighbours(values: Floats, count: int) -> tuple[Indices, Indices, Floats]:
    """Return the cells below and above positions, and the share of the upper one."""
    clipped = np.clip(values, 0, count - 1)
    below = np.floor(clipped).astype(np.intp)
    return below, np.minimum(below + 1, count - 1), np.asarray(clipped - below, dtype=np.float32)
