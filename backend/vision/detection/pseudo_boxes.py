"""Convert between centre points and pseudo-boxes, with which point detectors are trained.

Lengths are fractions of the image's longer edge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from backend.arrays import Doubles, Floats
from backend.vision.detection.detections import NO_DETECTIONS, Detections, suppress_close_centres

MIN_PSEUDO_BOX_PX, MAX_PSEUDO_BOX_PX = 12, 64
"""Bounds of the side of pseudo-boxes in pixels of the network's input."""
SIDE_TO_GAP_RATIO = 0.6
"""Side / first quartile of nearest-neighbour distances."""
DEFAULT_PSEUDO_BOX_PX = 32
"""Side in pixels if no image has two points of the label."""
NO_DISTANCES = np.zeros(0, dtype=np.float32)
MIN_EDGE_SHARE = 0.25
"""Minimum fraction of its side to which a box at the image border is shrunk."""


def estimate_side(
    points: Sequence[Floats], boxes: Sequence[Floats], configured_side: float, input_size: int
) -> float:
    """Estimate the side of a label's pseudo-boxes, 0 to 1.

    Use the median side of annotated boxes, else the configured side, else an estimate from
    nearest-neighbour distances.

    Args:
        points: for each image (n, 2) x y of the label.
        boxes: for each image (n, 2) width and height of annotated boxes of the label.
        configured_side: side from the labeling config, 0 to 1; 0 if not set.
        input_size: longer edge of the network's input in pixels.
    """
    box_sides = [float(side) for image in boxes for side in image.mean(axis=1)]
    if box_sides:
        return float(np.median(box_sides))
    if configured_side:
        return configured_side
    gaps = np.concatenate([NO_DISTANCES, *(_neighbour_distances(image) for image in points)])
    pixels: float = DEFAULT_PSEUDO_BOX_PX
    if len(gaps):
        pixels = SIDE_TO_GAP_RATIO * float(np.quantile(gaps, 0.25)) * input_size
    return float(np.clip(pixels, MIN_PSEUDO_BOX_PX, MAX_PSEUDO_BOX_PX)) / input_size


def make_pseudo_boxes(points: Floats, sides: Floats, aspect_ratio: float) -> Floats:
    """Return square boxes centred at points: (n, 4) float32 x0 y0 x1 y1, 0 to 1.

    Boxes at the image border are shrunk symmetrically, because clipping would shift their centre.

    Args:
        points: (n, 2) x y, 0 to 1 of the image.
        sides: (n,) in units of the longer edge.
        aspect_ratio: image width / height.
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
    """Convert detected pseudo-boxes to points, with NMS at a distance of half a side.

    Args:
        detections: pseudo-boxes.
        sides: label index → side in units of the longer edge.
        aspect_ratio: image width / height.

    Returns:
        the points as zero-size boxes.
    """
    if not len(detections):
        return NO_DETECTIONS
    in_image = ((detections.centres >= 0) & (detections.centres <= 1)).all(axis=1)
    detections = detections.select(np.flatnonzero(in_image))  # drop centres in the padding
    centres, labels = detections.centres, detections.labels
    units = centres * edge_lengths(aspect_ratio).astype(np.float32)
    distances = np.array([sides[int(label)] / 2 for label in labels], dtype=np.float32)
    keep = suppress_close_centres(units, detections.confidence, labels, distances)
    points = np.concatenate([centres[keep], centres[keep]], axis=1)
    return Detections(points, detections.confidence[keep], labels[keep])


def _neighbour_distances(points: Floats) -> Floats:
    """Return nearest-neighbour distances, (n,); empty for fewer than two points."""
    from scipy.spatial import cKDTree

    if len(points) < 2:
        return NO_DISTANCES
    distances, _ = cKDTree(points).query(points, k=2)
    return np.asarray(distances[:, 1], dtype=np.float32)
