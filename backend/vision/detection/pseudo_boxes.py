"""Centre points as a detection job: how large a box around each, and back to points.

All lengths are shares of the image's longer edge, so that they mean the same in every image size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from backend.arrays import Floats, Ints
from backend.vision.detection.detections import NO_DETECTIONS, Detections, suppress_close_centres

MIN_PSEUDO_BOX_PX, MAX_PSEUDO_BOX_PX = 12, 64
"""Sides of pseudo-boxes in pixels of the network's input."""
SIDE_TO_GAP_RATIO = 0.6
"""Side, by the distance to the nearest neighbour that a quarter of the points stays below."""
DEFAULT_PSEUDO_BOX_PX = 32
"""Side in pixels where a label has no two points in any image."""
NO_DISTANCES = np.zeros(0, dtype=np.float32)
MIN_EDGE_SHARE = 0.25
"""Share of a side that a box at the image's edge keeps at least."""


def estimate_side(
    points: Sequence[Floats], boxes: Sequence[Floats], configured_side: float, input_size: int
) -> float:
    """The side of a label's pseudo-boxes.

    Args:
        points: by image, (n, 2) x y in units of the longer edge.
        boxes: by image, (n, 2) width and height of real boxes of the label, the same unit.
        configured_side: what the labeling config says, 0 to 1; 0: nothing.
        input_size: pixels of the network's input.

    Returns:
        0 to 1: from real boxes (median of the mean of both sides), else what was told, else from
        the gaps between points.
    """
    real_sides = [float(side) for image in boxes for side in image.mean(axis=1)]
    if real_sides:
        return float(np.median(real_sides))
    if configured_side:
        return configured_side
    neighbour_gaps = np.concatenate(
        [NO_DISTANCES, *(_neighbour_distances(image) for image in points)]
    )
    pixels = (
        SIDE_TO_GAP_RATIO * float(np.quantile(neighbour_gaps, 0.25)) * input_size
        if len(neighbour_gaps)
        else DEFAULT_PSEUDO_BOX_PX
    )
    return float(np.clip(pixels, MIN_PSEUDO_BOX_PX, MAX_PSEUDO_BOX_PX)) / input_size


def make_pseudo_boxes(points: Floats, sides: Floats, aspect_ratio: float) -> Floats:
    """Square pseudo-boxes whose middle is the point.

    A box that would reach beyond the image shrinks around its point instead of being cut off on
    one side, which would move its middle.

    Args:
        points: (n, 2) x y, 0 to 1.
        sides: (n,) in units of the longer edge.
        aspect_ratio: width divided by height of the image.

    Returns:
        (n, 4) float32 x0 y0 x1 y1, 0 to 1.
    """
    points = points.reshape(-1, 2)
    half_sides = sides[:, None] / 2 / np.array([min(aspect_ratio, 1.0), min(1 / aspect_ratio, 1.0)])
    edge_margin = np.minimum(points, 1 - points)
    clipped_half_sides = np.maximum(
        np.minimum(half_sides, edge_margin), half_sides * MIN_EDGE_SHARE
    )
    boxes = np.concatenate([points - clipped_half_sides, points + clipped_half_sides], axis=1)
    return np.asarray(np.clip(boxes, 0, 1), dtype=np.float32)


def to_centre_points(
    detections: Detections, sides: Mapping[int, float], aspect_ratio: float
) -> Detections:
    """Finds as points, boxes without extent; of two closer than half a side the surer one.

    Args:
        detections: pseudo-boxes.
        sides: by label index, in units of the longer edge.
        aspect_ratio: width divided by height of the image.
    """
    if not len(detections):
        return NO_DETECTIONS
    centres = detections.centres
    units = centres * np.array(
        [min(aspect_ratio, 1.0), min(1 / aspect_ratio, 1.0)], dtype=np.float32
    )
    min_distances = np.array(
        [sides[int(label)] / 2 for label in detections.labels], dtype=np.float32
    )
    rows = _inside_image(centres)
    keep = rows[
        suppress_close_centres(
            units[rows], detections.confidence[rows], detections.labels[rows], min_distances[rows]
        )
    ]
    points = np.concatenate([centres[keep], centres[keep]], axis=1)
    return Detections(points, detections.confidence[keep], detections.labels[keep])


def _inside_image(centres: Floats) -> Ints:
    """Centres that lie in the image, and not in what fills the input up."""
    return np.flatnonzero(((centres >= 0) & (centres <= 1)).all(axis=1))


def _neighbour_distances(points: Floats) -> Floats:
    """Distance of each point to its nearest neighbour; (n,), empty for a single one."""
    from scipy.spatial import cKDTree

    if len(points) < 2:
        return NO_DISTANCES
    distances, _ = cKDTree(points).query(points, k=2)
    return np.asarray(distances[:, 1], dtype=np.float32)
