"""Tasks → what the finders find in their images, part by part, so that memory stays flat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backend.callbacks import ProgressCallback
from backend.domain import Control, ImageSize, RegionPrediction, Regions, Task
from backend.errors import ImageError
from backend.inference.confidence import detection_confidence
from backend.inference.detections import confidence_threshold, detect_regions
from backend.inference.images import ImageSource, ProjectImages
from backend.inference.model import Model


@dataclass
class InferenceResult:
    """What became of the images of some tasks.

    Attributes:
        regions: task → what is shown, an entry per control that has a finder.
        unfiltered: the same without thresholds of single labels: what is judged, and may be accepted.
        weighted_confidences: task → of everything found, shown or not, its confidence and how hard its label is.
        confidence: task → the confidence that the whole is right, and nothing is missing; of tasks that
            every finder looked at.
        errors: image address → why it could not be read.
    """

    regions: dict[int, tuple[RegionPrediction, ...]] = field(default_factory=dict)
    unfiltered: dict[int, tuple[RegionPrediction, ...]] = field(default_factory=dict)
    weighted_confidences: dict[int, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    confidence: dict[int, float] = field(default_factory=dict)
    errors: dict[str, ImageError] = field(default_factory=dict)


def run_detectors(
    model: Model,
    controls: Sequence[Control],
    tasks: Sequence[Task],
    images: ProjectImages,
    progress: ProgressCallback,
    next_tasks: Sequence[Task] = (),
) -> InferenceResult:
    """Look at tasks.

    Args:
        model: with finders; controls without one find nothing.
        controls: of any kind.
        tasks: to look at.
        images: of the project.
        progress: told (done, of) in images.
        next_tasks: what the next call will look at.
    """
    result = InferenceResult()
    controls = [control for control in controls if control.name in model.detectors]
    keys = {control.image_key for control in controls}
    next_sources = [
        ImageSource(t.images[key], t.id) for t in next_tasks for key in keys & t.images.keys()
    ]
    by_address: dict[str, list[tuple[Task, str]]] = {}
    for task in tasks:
        for key in keys & task.images.keys():
            by_address.setdefault(task.images[key], []).append((task, key))
    done = 0
    sources = [ImageSource(address, entries[0][0].id) for address, entries in by_address.items()]
    for batch in images.iter_batches(sources, next_sources):
        result.errors |= batch.errors
        for control in controls:
            _run_detector(model, control, batch.images, batch.sizes, by_address, result)
        done += len(batch.images) + len(batch.errors)
        progress(done, len(by_address))
    complete = {
        task for task, predictions in result.unfiltered.items() if len(predictions) == len(controls)
    }
    result.confidence = {
        task: confidence for task, confidence in result.confidence.items() if task in complete
    }
    return result


def _run_detector(
    model: Model,
    control: Control,
    images: Mapping[str, object],
    sizes: Mapping[str, ImageSize],
    tasks_by_address: Mapping[str, Sequence[tuple[Task, str]]],
    result: InferenceResult,
) -> None:
    """One control, one batch of images."""
    detector = model.detectors[control.name]
    addresses = [
        a for a in images if any(key == control.image_key for _, key in tasks_by_address[a])
    ]
    detections = detect_regions(detector, control, [images[a] for a in addresses])  # type: ignore[misc]
    for address, (regions, confidence) in zip(addresses, detections, strict=True):
        difficulty = detector.class_mapping.difficulty
        weights = (difficulty.get(region.label, 1.0) for region in regions)
        weighted = tuple(zip(confidence, weights, strict=True))
        base_thresholds = dict.fromkeys(
            control.label_names, confidence_threshold(detector, control)
        )
        label_thresholds = dict(base_thresholds)
        for label, threshold in model.thresholds.get(control.name, {}).items():
            label_thresholds[label] = max(label_thresholds.get(label, 0.0), threshold)
        visible, unfiltered = (
            _filter_regions(control, regions, confidence, minimum, sizes[address])
            for minimum in (label_thresholds, base_thresholds)
        )
        for task, key in tasks_by_address[address]:
            if key == control.image_key:
                result.regions[task.id] = (*result.regions.get(task.id, ()), visible)
                result.unfiltered[task.id] = (*result.unfiltered.get(task.id, ()), unfiltered)
                result.weighted_confidences[task.id] = (
                    *result.weighted_confidences.get(task.id, ()),
                    *weighted,
                )
                task_confidence = detection_confidence(
                    confidence, confidence_threshold(detector, control)
                )
                result.confidence[task.id] = min(
                    task_confidence, result.confidence.get(task.id, 1.0)
                )


def _filter_regions(
    control: Control,
    regions: Regions,
    confidence: Sequence[float],
    thresholds: Mapping[str, float],
    size: ImageSize,
) -> RegionPrediction:
    pairs = zip(regions, confidence, strict=True)
    visible = [(region, value) for region, value in pairs if value >= thresholds[region.label]]
    return RegionPrediction(
        control.name, tuple(p for p, _ in visible), tuple(b for _, b in visible), size
    )
