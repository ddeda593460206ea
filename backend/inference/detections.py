"""Run detectors, convert detections to regions, and samples to training examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from backend.arrays import Floats
from backend.domain import Control, ImageSize, Region, RegionPrediction, Regions
from backend.learning.detection_metrics import DetectionSample
from backend.vision.detection.detections import (
    MIN_DETECTION_CONFIDENCE,
    DetectionExample,
    Detections,
)
from backend.vision.detection.pseudo_boxes import estimate_side, make_pseudo_boxes
from backend.vision.detection.trained_detector import Detector

if TYPE_CHECKING:
    from PIL import Image

    from backend.inference.model import Model

SAMPLE_BATCH_SIZE = 32


class ScoredRegions(NamedTuple):
    """The detections of one control in one image, most confident first.

    Attributes:
        regions: boxes or points.
        confidence: confidence of each region, 0 to 1.
    """

    regions: Regions
    confidence: tuple[float, ...]


@dataclass(frozen=True)
class RegionSample:
    """A labeled image of a control of boxes or points.

    Attributes:
        task_id: id of its task.
        load_image: loads the upright RGB image.
        size: size of the original in pixels.
        regions: all objects of the control.
        other_boxes: boxes of other controls in the image, which determine the size of points.
        is_audit: whether the task belongs to the audit set, which is never trained on.
        digest: SHA-256 of the image's bytes; empty if unknown.
    """

    task_id: int
    load_image: Callable[[], Image.Image]
    size: ImageSize
    regions: Regions
    other_boxes: Regions = ()
    is_audit: bool = False
    digest: str = ""

    @property
    def aspect_ratio(self) -> float:
        """Width divided by height."""
        return self.size.width / self.size.height


def detect_regions(
    detector: Detector,
    control: Control,
    images: Sequence[Image.Image],
    min_confidence: float = MIN_DETECTION_CONFIDENCE,
) -> list[ScoredRegions]:
    """Run a detector on images.

    Args:
        detector: detector of the control.
        control: control in the current config; detections of removed labels are dropped.
        images: upright RGB images.
        min_confidence: confidence below which detections are dropped.
    """
    current_labels = frozenset(control.label_names)
    names = detector.class_mapping.labels
    return [
        to_scored_regions(raw, names, current_labels)
        for raw in detector.detect(images, min_confidence)
    ]


def filter_regions(
    control: str,
    scored: ScoredRegions,
    minimum: float,
    size: ImageSize,
    label_minimums: Mapping[str, float] | None = None,
) -> RegionPrediction:
    """Return the detections with a minimum confidence, as a prediction.

    Args:
        control: name of the control.
        scored: detections of the control.
        minimum: minimum confidence.
        size: size of the image.
        label_minimums: label → minimum confidence that replaces ``minimum``.
    """
    minimums = label_minimums or {}
    visible = [
        (region, value)
        for region, value in zip(*scored, strict=True)
        if value >= minimums.get(region.label, minimum)
    ]
    return RegionPrediction(
        control, tuple(r for r, _ in visible), tuple(v for _, v in visible), size
    )


def confidence_threshold(detector: Detector, control: Control) -> float:
    """Return the minimum confidence of published regions, from the config or else tuned."""
    return control.threshold or detector.class_mapping.shown


def published_threshold(model: Model, control: Control) -> float:
    """Return the confidence from which regions of a control are published, of any label."""
    label_thresholds = model.thresholds.get(control.name, {})
    minimum = confidence_threshold(model.detectors[control.name], control)
    return max(minimum, min(label_thresholds.values(), default=0.0))


def predict_samples(
    detector: Detector | None, control: Control, samples: Sequence[RegionSample]
) -> list[DetectionSample]:
    """Run a detector on labeled images; without a detector, there are no detections."""
    evaluated: list[DetectionSample] = []
    for start in range(0, len(samples), SAMPLE_BATCH_SIZE):
        batch = samples[start : start + SAMPLE_BATCH_SIZE]
        images = [sample.load_image() for sample in batch] if detector else []
        detections = (
            detect_regions(detector, control, images)
            if detector
            else [ScoredRegions((), ())] * len(batch)
        )
        evaluated += [
            DetectionSample(regions, confidence, sample.regions, sample.aspect_ratio)
            for sample, (regions, confidence) in zip(batch, detections, strict=True)
        ]
    return evaluated


def points_to_boxes(image: DetectionSample, box_sizes: Mapping[str, float]) -> DetectionSample:
    """Convert points to squares around them.

    Args:
        image: detections and ground truth of an image.
        box_sizes: label → side of the square, 0 to 1 of the longer edge.
    """
    return replace(
        image,
        detections=_to_squares(image.detections, box_sizes, image),
        ground_truth=_to_squares(image.ground_truth, box_sizes, image),
    )


def _to_squares(
    regions: Regions, box_sizes: Mapping[str, float], image: DetectionSample
) -> Regions:
    squares = []
    x_scale, y_scale = edge_scale(image.aspect_ratio)
    for region in regions:
        half_side = box_sizes[region.label] / 2
        w, h = half_side / x_scale, half_side / y_scale
        x, y = region.center
        squares.append(Region(region.label, x - w, y - h, x + w, y + h))
    return tuple(squares)


def example_from_sample(
    sample: RegionSample, control: Control, box_sizes: Mapping[str, float]
) -> DetectionExample:
    """Convert a sample to a training example with its boxes, or pseudo-boxes around its points."""
    names = control.label_names
    labels = np.array([names.index(p.label) for p in sample.regions], dtype=np.int64)
    boxes = as_boxes(sample.regions)
    if control.is_points:
        widths = np.array([box_sizes[p.label] for p in sample.regions], dtype=np.float32)
        boxes = make_pseudo_boxes(boxes[:, :2], widths, sample.aspect_ratio)
    return DetectionExample(sample.load_image, sample.size.width, sample.size.height, boxes, labels)


def as_boxes(regions: Iterable[Region]) -> Floats:
    """Return the corners of regions, (n, 4) float32 as x0 y0 x1 y1."""
    corners = [(region.x0, region.y0, region.x1, region.y1) for region in regions]
    return np.array(corners, dtype=np.float32).reshape(-1, 4)


def edge_scale(aspect_ratio: float) -> tuple[float, float]:
    """Return (x, y) factors that convert shares of each edge to shares of the longer edge."""
    return min(aspect_ratio, 1.0), min(1 / aspect_ratio, 1.0)


def point_box_sizes(
    control: Control, samples: Sequence[RegionSample], size: int
) -> dict[str, float]:
    """Return label → side of its pseudo-boxes, see `estimate_side`; {} for boxes."""
    if not control.is_points:
        return {}
    return {
        label.name: estimate_side(
            [_scaled_boxes(s, s.regions, label.name)[:, :2] for s in samples],
            [_box_extents(s, label.name) for s in samples],
            label.extent,
            size,
        )
        for label in control.labels
    }


def _scaled_boxes(sample: RegionSample, regions: Regions, label: str) -> Floats:
    """Return the boxes of one label, (n, 4) in shares of the longer edge."""
    boxes = as_boxes(region for region in regions if region.label == label)
    return boxes * np.tile(np.array(edge_scale(sample.aspect_ratio), dtype=np.float32), 2)


def _box_extents(sample: RegionSample, label: str) -> Floats:
    boxes = _scaled_boxes(sample, sample.other_boxes, label)
    return boxes[:, 2:] - boxes[:, :2]


def to_scored_regions(
    raw: Detections, names: Sequence[str], current_labels: frozenset[str]
) -> ScoredRegions:
    """Convert detections to regions.

    Args:
        raw: detections, whose labels are indices into ``names``.
        names: label names of the detector.
        current_labels: labels of the config; other detections are dropped.
    """
    rows = [
        (Region(names[label], *map(float, box)), float(confidence))
        for box, confidence, label in zip(raw.boxes, raw.confidence, raw.labels, strict=True)
        if names[label] in current_labels
    ]
    rows.sort(key=lambda row: -row[1])
    return ScoredRegions(tuple(region for region, _ in rows), tuple(value for _, value in rows))
