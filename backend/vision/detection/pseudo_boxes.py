"""Centre points as a detection job: how large a box around each, and back to points.

All lengths are shares of the image's longer edge, so that they mean the same in every image size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from backend.arrays import Floats, Ints
from backend.vision.detection.detections import NOTHING, Found, suppress_centres

LEAST, MOST = 12, 64
"""Sides of pseudo-boxes in pixels of the network's input."""
SHARE_OF_GAP = 0.6
"""Side, by the distance to the nearest neighbour that a quarter of the points stays below."""
ALONE = 32
"""Side in pixels where a label has no two points in any image."""
NO_GAPS = np.zeros(0, dtype=np.float32)
KEPT_AT_EDGE = 0.25
"""Share of a side that a box at the image's edge keeps at least."""


def side_of(points: Sequence[Floats], boxes: Sequence[Floats], told: float, size: int) -> float:
    """The side of a label's pseudo-boxes.

    Args:
        points: by image, (n, 2) x y in units of the longer edge.
        boxes: by image, (n, 2) width and height of real boxes of the label, the same unit.
        told: what the labeling config says, 0 to 1; 0: nothing.
        size: pixels of the network's input.

    Returns:
        0 to 1: from real boxes (median of the mean of both sides), else what was told, else from
        the gaps between points.
    """
    real = [float(side) for image in boxes for side in image.mean(axis=1)]
    if real:
        return float(np.median(real))
    if told:
        return told
    gaps = np.concatenate([NO_GAPS, *(_gaps(image) for image in points)])
    pixels = SHARE_OF_GAP * float(np.quantile(gaps, 0.25)) * size if len(gaps) else ALONE
    return float(np.clip(pixels, LEAST, MOST)) / size


def boxes_around(points: Floats, sides: Floats, ratio: float) -> Floats:
    """Square pseudo-boxes whose middle is the point.

    A box that would reach beyond the image shrinks around its point instead of being cut off on
    one side, which would move its middle.

    Args:
        points: (n, 2) x y, 0 to 1.
        sides: (n,) in units of the longer edge.
        ratio: width divided by height of the image.

    Returns:
        (n, 4) float32 x0 y0 x1 y1, 0 to 1.
    """
    points = points.reshape(-1, 2)
    half = sides[:, None] / 2 / np.array([min(ratio, 1.0), min(1 / ratio, 1.0)])
    room = np.minimum(points, 1 - points)
    fitting = np.maximum(np.minimum(half, room), half * KEPT_AT_EDGE)
    boxes = np.concatenate([points - fitting, points + fitting], axis=1)
    return np.asarray(np.clip(boxes, 0, 1), dtype=np.float32)


def only_centres(found: Found, sides: Mapping[int, float], ratio: float) -> Found:
    """Finds as points, boxes without extent; of two closer than half a side the surer one.

    Args:
        found: pseudo-boxes.
        sides: by label index, in units of the longer edge.
        ratio: width divided by height of the image.
    """
    if not len(found):
        return NOTHING
    centres = found.centres
    units = centres * np.array([min(ratio, 1.0), min(1 / ratio, 1.0)], dtype=np.float32)
    least = np.array([sides[int(label)] / 2 for label in found.labels], dtype=np.float32)
    rows = _inside(centres)
    kept = rows[
        suppress_centres(units[rows], found.confidence[rows], found.labels[rows], least[rows])
    ]
    points = np.concatenate([centres[kept], centres[kept]], axis=1)
    return Found(points, found.confidence[kept], found.labels[kept])


def _inside(centres: Floats) -> Ints:
    """Centres that lie in the image, and not in what fills the input up."""
    return np.flatnonzero(((centres >= 0) & (centres <= 1)).all(axis=1))


def _gaps(points: Floats) -> Floats:
    """Distance of each point to its nearest neighbour; (n,), empty for a single one."""
    from scipy.spatial import cKDTree

    if len(points) < 2:
        return NO_GAPS
    distances, _ = cKDTree(points).query(points, k=2)
    return np.asarray(distances[:, 1], dtype=np.float32)
