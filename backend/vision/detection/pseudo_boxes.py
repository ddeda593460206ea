"""Detect centre points as the centres of pseudo-boxes of an estimated size.

All lengths are fractions of the image's longer edge, so that they are independent of image size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from backend.arrays import Doubles, Floats
from backend.vision.detection.detections import NO_DETECTIONS, Detections, suppress_close_centres

MIN_PSEUDO_BOX_PX, MAX_PSEUDO_BOX_PX = 12, 64
"""Limits for the side of pseudo-boxes in pixels of the network's input."""
SIDE_TO_GAP_RATIO = 0.6
"""Side divided by the first quartile of the distances to the nearest neighbour."""
DEFAULT_PSEUDO_BOX_PX = 32
"""Side in pixels if no image has two points of a label."""
NO_DISTANCES = np.zeros(0, dtype=np.float32)
MIN_EDGE_SHARE = 0.25
"""Minimum share of its side that a box at the image's edge keeps."""


def estimate_side(
    points: Sequence[Floats], boxes: Sequence[Floats], configured_side: float, input_size: int
) -> float:
    """Return the side of a label's pseudo-boxes, 0 to 1.

    It is the median side of real boxes, else the configured one, else derived from the distances
    between points.

    Args:
        points: by image, (n, 2) x y in units of the longer edge.
        boxes: by image, (n, 2) width and height of real boxes of the label, the same unit.
        configured_side: from the labeling config, 0 to 1; 0 if not set.
        input_size: pixels of the network's input.
    """
    real_sides = [float(side) for image in boxes for side in image.mean(axis=1)]
    if real_sides:
        return float(np.median(real_sides))
    if configured_side:
        return configured_side
    gaps = np.concatenate([NO_DISTANCES, *(_neighbour_distances(image) for image in points)])
    pixels: float = DEFAULT_PSEUDO_BOX_PX
    if len(gaps):
        pixels = SIDE_TO_GAP_RATIO * float(np.quantile(gaps, 0.25)) * input_size
    return float(np.clip(pixels, MIN_PSEUDO_BOX_PX, MAX_PSEUDO_BOX_PX)) / input_size


def make_pseudo_boxes(points: Floats, sides: Floats, aspect_ratio: float) -> Floats:
    """Return square boxes centred at points: (n, 4) float32 x0 y0 x1 y1, 0 to 1.

    A box that would reach beyond the image shrinks around its point, because cutting off one side
    would move its centre.

    Args:
        points: (n, 2) x y, 0 to 1.
        sides: (n,) in units of the longer edge.
        aspect_ratio: width divided by height of the image.
    """
    points = points.reshape(-1, 2)
    half = sides[:, None] / 2 / edge_lengths(aspect_ratio)
    margin = np.minimum(points, 1 - points)
    clipped = np.maximum(np.minimum(half, margin), half * MIN_EDGE_SHARE)
    boxes = np.concatenate([points - clipped, points + clipped], axis=1)
    return np.asarray(np.clip(boxes, 0, 1), dtype=np.float32)


def edge_lengths(aspect_ratio: float) -> Doubles:
    """Return width and height of an image in units of its longer edge: (2,)."""
    return np.array([min(aspect_ratio, 1.0), min(1 / aspect_ratio, 1.0)])


def to_centre_points(
    detections: Detections, sides: Mapping[int, float], aspect_ratio: float
) -> Detections:
    """Return detections as points, and of two closer than half a side only the more confident one.

    Args:
        detections: pseudo-boxes.
        sides: by label index, in units of the longer edge.
        aspect_ratio: width divided by height of the image.

    Returns:
        boxes without extent.
    """
    if not len(detections):
        return NO_DETECTIONS
    in_image = ((detections.centres >= 0) & (detections.centres <= 1)).all(axis=1)
    detections = detections.select(np.flatnonzero(in_image))  # the others are in the padding
    centres, labels = detections.centres, detections.labels
    units = centres * edge_lengths(aspect_ratio).astype(np.float32)
    distances = np.array([sides[int(label)] / 2 for label in labels], dtype=np.float32)
    keep = suppress_close_centres(units, detections.confidence, labels, distances)
    points = np.concatenate([centres[keep], centres[keep]], axis=1)
    return Detections(points, detections.confidence[keep], labels[keep])


def _neighbour_distances(points: Floats) -> Floats:
    """Return the distance of each point to its nearest neighbour, (n,), or none for one point."""
    from scipy.spatial import cKDTree

    if len(points) < 2:
        return NO_DISTANCES
    distances, _ = cKDTree(points).query(points, k=2)
    return np.asarray(distances[:, 1], dtype=np.float32)
