"""Smart tools: suggest objects of an image that are similar to those just drawn."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.domain import Control, ImageSize, Region, RegionPrediction, Regions, Task
from backend.estimate import format_percent
from backend.inference.detections import as_boxes, confidence_threshold, detect_regions
from backend.inference.images import ImageSource, ProjectImages
from backend.inference.model import Model
from backend.label_studio.region_results import drawn_regions, format_regions, repeat_drawn
from backend.learning.matching import pairwise_iou

if TYPE_CHECKING:
    from PIL import Image

MAX_SUGGESTIONS = 100
MIN_SIMILAR_CONFIDENCE = 0.5
"""Minimum confidence of a suggestion that is based on similarity, without a detector."""
NOTHING_DRAWN = "Nothing was drawn that can be used: rotated boxes and negative clicks are not."
SAME_OBJECT_IOU = 0.3
"""IoU from which a detection counts as the drawn object itself."""


def drawn_by_control(context: Mapping[str, Any], controls: Sequence[Control]) -> dict[str, Regions]:
    """Return control of boxes or points → regions that were just drawn."""
    result = context.get("result") or []
    regions_by_control = {c.name: drawn_regions(result, c) for c in controls if not c.is_choices}
    return {name: regions for name, regions in regions_by_control.items() if regions}


def repeat_drawn_regions(
    context: Mapping[str, Any], controls: Sequence[Control]
) -> list[dict[str, Any]]:
    """Return what somebody has just drawn as suggestions, so that it stays with them."""
    result = context.get("result") or []
    return [item for c in controls if not c.is_choices for item in repeat_drawn(result, c)]


@dataclass(frozen=True)
class Suggestions:
    """The answer of a smart tool.

    Attributes:
        regions: Label Studio regions of similar objects, without the drawn ones.
        empty_reason: why there are none, a sentence; "" otherwise.
    """

    regions: list[dict[str, Any]]
    empty_reason: str = ""


def suggest(
    model: Model | None,
    controls: Sequence[Control],
    task: Task,
    drawn: Mapping[str, Regions],
    images: ProjectImages,
) -> Suggestions:
    """Return objects similar to the drawn ones.

    Each call gives the regions new ids.

    Args:
        model: model of the live version, if there is one.
        controls: controls of the project.
        task: task that is being labeled.
        drawn: control → drawn regions.
        images: images of the project.

    Raises:
        ImageError: the image cannot be read.
    """
    suggestions: list[dict[str, Any]] = []
    reasons = [] if drawn else [NOTHING_DRAWN]
    salt = secrets.token_hex(8)
    for control in controls:
        address = task.images.get(control.image_key, "")
        if control.name not in drawn or not address:
            continue
        batch = next(images.iter_batches([ImageSource(address, task.id)]))
        if address in batch.errors:
            raise batch.errors[address]
        image, size = batch.images[address], batch.sizes[address]
        similar, control_reasons = _find_similar(model, control, image, drawn[control.name], size)
        suggestions += format_regions(task.id, similar, control, salt=salt)
        reasons += control_reasons
    return Suggestions(suggestions, "" if suggestions else " ".join(reasons))


def warm_up(model: Model | None) -> None:
    """Load everything that the first suggestion needs, to avoid a cold start."""
    from PIL import Image

    from backend.vision.similar_objects import find_similar_boxes

    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (640, 640, 3), dtype=np.uint8))
    for detector in model.detectors.values() if model else ():
        detector.detect([image], MIN_SIMILAR_CONFIDENCE)
    find_similar_boxes(
        image, np.array([[0.4, 0.4, 0.5, 0.5]], dtype=np.float32), limit=MAX_SUGGESTIONS
    )


def _find_similar(
    model: Model | None, control: Control, image: Image.Image, drawn: Regions, size: ImageSize
) -> tuple[RegionPrediction, list[str]]:
    """Return the model's detections if they include a drawn object, else similar objects.

    Returns:
        the objects, and a sentence for each label without any.
    """
    rows: list[tuple[Region, float]] = []
    reasons = []
    for label in dict.fromkeys(region.label for region in drawn):
        examples = tuple(region for region in drawn if region.label == label)
        drawn_objects = DrawnObjects(
            control, image, examples, _object_side(model, control, image, examples)
        )
        candidates = _detect_known(model, drawn_objects) or _find_lookalikes(drawn_objects)
        others = [row for row in candidates.rows if not drawn_objects.contains(row[0])]
        found = [row for row in others if row[1] >= candidates.min_confidence]
        rows += found
        if not found:
            best = max((confidence for _, confidence in others), default=None)
            reasons.append(candidates.explain_none(label, best))
    rows.sort(key=lambda row: -row[1])
    regions, confidence = (
        (tuple(part) for part in zip(*rows[:MAX_SUGGESTIONS], strict=True)) if rows else ((), ())
    )
    return RegionPrediction(control.name, regions, confidence, size), reasons


@dataclass(frozen=True)
class Candidates:
    """Objects that may be suggested.

    Attributes:
        rows: regions and their confidence, also below the minimum.
        min_confidence: minimum confidence of a suggestion.
        is_detected: a detector found them; otherwise they look similar to the drawn objects.
    """

    rows: list[tuple[Region, float]]
    min_confidence: float
    is_detected: bool

    def explain_none(self, label: str, best: float | None) -> str:
        """Return why no object is suggested.

        Args:
            label: of the drawn objects.
            best: highest confidence of another object; None if there is none.
        """
        what = f"The detector found no other {label}"
        if not self.is_detected:
            what = f"Nothing else in the image is similar to the drawn {label}"
        if best is None:
            return f"{what}."
        return (
            f"{what} with a confidence of at least {format_percent(self.min_confidence)}; the best "
            f"candidate has {format_percent(best)}."
        )


@dataclass(frozen=True)
class DrawnObjects:
    """The drawn objects of one label.

    Attributes:
        control: control that they were drawn with.
        image: image that they were drawn in.
        examples: drawn regions, at least one.
        side: side of objects marked by points, 0 to 1 of the image's longer edge; 0 for boxes.
    """

    control: Control
    image: Image.Image
    examples: Regions
    side: float

    @property
    def label(self) -> str:
        """The label of the examples."""
        return self.examples[0].label

    def contains(self, region: Region) -> bool:
        """Return whether a region is one of the drawn objects."""
        if self.control.is_points:
            return any(self._is_near(region, example) for example in self.examples)
        overlaps = pairwise_iou(as_boxes([region]), as_boxes(self.examples))
        return bool((overlaps >= SAME_OBJECT_IOU).any())

    def _is_near(self, point: Region, example: Region) -> bool:
        """Return whether the distance of two points is less than half an object's side."""
        longer_edge = max(self.image.size)
        dx, dy = (
            (a - b) * edge / longer_edge
            for a, b, edge in zip(point.center, example.center, self.image.size, strict=True)
        )
        return bool(np.hypot(dx, dy) < self.side / 2)


def _object_side(
    model: Model | None, control: Control, image: Image.Image, examples: Sequence[Region]
) -> float:
    """Return the side of objects marked by points: learned, configured, or estimated."""
    from backend.vision.similar_objects import estimate_side_around

    if not control.is_points:
        return 0.0
    detector = model.detectors.get(control.name) if model else None
    label = examples[0].label
    learned_side = detector.class_mapping.sides.get(label, 0.0) if detector else 0.0
    configured_side = next((x.extent for x in control.labels if x.name == label), 0.0)
    points = np.array([region.center for region in examples], dtype=np.float32)
    return learned_side or configured_side or estimate_side_around(image, points)


def _detect_known(model: Model | None, drawn: DrawnObjects) -> Candidates | None:
    """Return the detections of the label; None when they miss the drawn objects."""
    detector = model.detectors.get(drawn.control.name) if model else None
    if detector is None:
        return None
    ((regions, confidence),) = detect_regions(detector, drawn.control, [drawn.image])
    thresholds = model.thresholds.get(drawn.control.name, {}) if model else {}
    min_confidence = max(
        confidence_threshold(detector, drawn.control), thresholds.get(drawn.label, 0.0)
    )
    label_detections = [
        (region, probability)
        for region, probability in zip(regions, confidence, strict=True)
        if region.label == drawn.label
    ]
    includes_drawn = any(
        drawn.contains(region) for region, value in label_detections if value >= min_confidence
    )
    return Candidates(label_detections, min_confidence, True) if includes_drawn else None


def _find_lookalikes(drawn: DrawnObjects) -> Candidates:
    """Return objects that are visually similar to the drawn ones."""
    from backend.vision.similar_objects import find_similar_boxes, find_similar_points

    corners = as_boxes(drawn.examples)
    points = drawn.control.is_points
    similar_regions = (
        find_similar_points(drawn.image, corners[:, :2], drawn.side, limit=MAX_SUGGESTIONS)
        if points
        else find_similar_boxes(drawn.image, corners, limit=MAX_SUGGESTIONS)
    )
    rows = []
    for (x0, y0, x1, y1), probability in zip(
        similar_regions.boxes.tolist(), similar_regions.confidence.tolist(), strict=True
    ):
        if points:
            x0 = x1 = (x0 + x1) / 2
            y0 = y1 = (y0 + y1) / 2
        rows.append((Region(drawn.label, x0, y0, x1, y1), probability))
    return Candidates(rows, MIN_SIMILAR_CONFIDENCE, False)
