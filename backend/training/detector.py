"""Train the detector of a control of boxes or points, on this machine or on Modal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from backend.callbacks import ProgressCallback
from backend.domain import Control
from backend.inference.detections import (
    RegionSample,
    example_from_sample,
    point_box_sizes,
    points_to_boxes,
    predict_samples,
)
from backend.learning.detection_metrics import label_difficulty
from backend.learning.first_labels import MIN_DETECTOR_IMAGES
from backend.learning.thresholds import best_f1_threshold
from backend.vision.detection.class_matching import match_classes
from backend.vision.detection.prompted_detector import PromptedDetector
from backend.vision.detection.trained_detector import (
    DEFAULT_CONFIDENCE_THRESHOLD,
    ClassMapping,
    Detector,
    TrainedDetector,
    hash_network,
)

if TYPE_CHECKING:
    from backend.vision.detection.network import DetectionNetwork
    from backend.vision.detection.network_runner import NetworkRunner

MIN_SAMPLES_PRETRAINED = 10
"""Labeled images from which a network is fine-tuned that already detects some of the labels."""
MIN_INPUT_SIZE, MAX_INPUT_SIZE = 320, 640
"""Range in pixels of the network's input when it is chosen by the images."""
TUNING_IMAGE_COUNT = 40
"""Images that the confidence threshold is tuned on."""


@dataclass(frozen=True)
class DetectorTrainingJob:
    """Everything that the detector of one control is trained from.

    Attributes:
        control: of boxes or points.
        samples: its labeled images.
        base_network: the network to start from.
        previous: the live version's detector, for a warm start.
        input_size: pixels of the network's input; 0: chosen by the images.
        max_seconds: time limit of training.
        seed: of the random generators.
        load_runner: loads the runner of a network.
        prompts: builds detectors from text and box prompts; None without its weights.
        report: called with (done, total) after each epoch.
        cancelled: polled during training; true stops it.
        base_setting: ``PRELABEL_DETECTOR`` that leads to the same base on another machine.
        max_steps: limit of optimizer steps; 0: chosen by the images.
    """

    control: Control
    samples: Sequence[RegionSample]
    base_network: DetectionNetwork
    previous: Detector | None
    input_size: int
    max_seconds: float
    seed: int
    load_runner: Callable[[DetectionNetwork, int, str], NetworkRunner]
    prompts: PromptedDetectorFactory | None
    report: ProgressCallback
    cancelled: Callable[[], bool]
    base_setting: str = ""
    max_steps: int = 0


class PromptedDetectorFactory(Protocol):
    """Builds detectors without training, from text or a few drawn boxes."""

    def detector(
        self, control: Control, samples: Sequence[RegionSample], mapping: ClassMapping
    ) -> PromptedDetector | None:
        """Return a detector of the control; None when no label has a prompt."""
        ...


def will_fine_tune(job: DetectorTrainingJob) -> bool:
    """Whether `train_detector` would fine-tune a network, not build a zero-shot detector."""
    marked_count = sum(bool(sample.regions) and not sample.is_audit for sample in job.samples)
    known_classes = _classes_by_name(job)
    if marked_count >= _min_samples(job, known_classes):
        return True
    return marked_count >= MIN_DETECTOR_IMAGES and not known_classes and job.prompts is None


def train_detector(job: DetectorTrainingJob) -> Detector | None:
    """Fine-tune a detector on all labeled images outside the audit set.

    Returns:
        the detector. With too few labeled images it is zero-shot: by the names of the base
        network's classes when they cover all labels, else by text and box prompts, else by the
        names that match. None when no label is covered.

    Raises:
        RoundCancelledError: training was cancelled.
        DetectorError: training failed.
    """
    training_samples = [sample for sample in job.samples if not sample.is_audit]
    marked_count = sum(bool(sample.regions) for sample in training_samples)
    known_classes = _classes_by_name(job)
    if marked_count >= _min_samples(job, known_classes):
        return _fine_tune(job, training_samples)
    if job.prompts and len(set(known_classes.values())) < len(job.control.labels):
        prompted = job.prompts.detector(job.control, training_samples, _zero_shot_mapping(job, {}))
        if prompted is not None:
            described = set(prompted.class_mapping.classes.values())
            remaining = {row: i for row, i in known_classes.items() if i not in described}
            return replace(prompted, pretrained_detector=_zero_shot_detector(job, remaining))
    if marked_count >= MIN_DETECTOR_IMAGES and not known_classes:
        return _fine_tune(job, training_samples)
    return _zero_shot_detector(job, known_classes)


def _min_samples(job: DetectorTrainingJob, known_classes: Mapping[int, int]) -> int:
    return MIN_SAMPLES_PRETRAINED if known_classes or job.prompts else MIN_DETECTOR_IMAGES


def _classes_by_name(job: DetectorTrainingJob) -> dict[int, int]:
    """Return class of the pretrained base → label index; empty when the base is untrained."""
    if not job.base_network.spec.pretrained:
        return {}
    return dict(match_classes(job.control.labels, job.base_network.spec.classes))


def _zero_shot_detector(
    job: DetectorTrainingJob, classes: Mapping[int, int]
) -> TrainedDetector | None:
    """Return the base network for the labels whose class it knows by name."""
    if not classes:
        return None
    network = job.base_network
    mapping = _zero_shot_mapping(job, classes)
    return TrainedDetector(network, mapping, hash_network(network), job.load_runner)


def undetectable_labels(detector: Detector | None, control: Control) -> tuple[str, ...]:
    """Return the labels of a control that its detector cannot detect yet."""
    names = control.label_names
    if detector is None:
        return names
    if detector.class_mapping.learned:
        return ()
    detectable = set(detector.class_mapping.classes.values())
    if isinstance(detector, PromptedDetector) and detector.pretrained_detector:
        detectable |= set(detector.pretrained_detector.class_mapping.classes.values())
    labels = detector.class_mapping.labels
    return tuple(name for name in names if name not in {labels[i] for i in detectable})


def _fine_tune(job: DetectorTrainingJob, samples: Sequence[RegionSample]) -> TrainedDetector:
    from backend.vision.detection.fine_tune import (
        WEIGHT_INTERPOLATION,
        choose_recipe,
        fine_tune,
        interpolate_weights,
    )

    size = job.input_size or _choose_input_size(samples)
    box_sizes = point_box_sizes(job.control, samples, size)
    examples = [example_from_sample(sample, job.control, box_sizes) for sample in samples]
    warm_detector = _warm_start_detector(job)
    unmarked_labels = _labels_without_example(job, samples)
    start_network = build_start_network(job, warm_detector, unmarked_labels)
    knows_labels = job.base_network.spec.pretrained and len(_class_by_label(job)) == len(
        job.control.labels
    )
    training_recipe = choose_recipe(
        start_network,
        examples,
        size,
        warm_detector is not None,
        job.max_seconds,
        job.seed,
        knows_labels,
    )
    steps = min(training_recipe.iterations, job.max_steps or training_recipe.iterations)
    training_recipe = replace(training_recipe, iterations=steps, ignored_classes=unmarked_labels)
    network = fine_tune(start_network, examples, training_recipe, job.report, job.cancelled)
    if knows_labels and warm_detector is None:
        network = interpolate_weights(start_network, network, WEIGHT_INTERPOLATION)
    names = job.control.label_names
    mapping = ClassMapping(
        points=job.control.is_points,
        labels=names,
        classes={i: i for i in range(len(names))},
        sides=box_sizes,
        size=size,
    )
    detector = TrainedDetector(network, mapping, hash_network(network), job.load_runner)
    detector.class_mapping = _tune_threshold(detector, job.control, samples)
    return detector


def build_start_network(
    job: DetectorTrainingJob, warm_detector: TrainedDetector | None, unmarked_labels: Sequence[int]
) -> DetectionNetwork:
    """Return the network to start from, with the labels as its classes.

    The base's weights of a class with a label's name are used for labels that the live version did
    not learn and for labels without examples. Training does not improve those.
    """
    from backend.vision.detection.network import adapt_classes, match_names

    names, classes = job.control.label_names, job.base_network.spec.classes
    by_name = {**match_names(classes, names), **_class_by_label(job)}
    if warm_detector is None:
        return adapt_classes(job.base_network, names, by_name)
    learned = match_names(warm_detector.network.spec.classes, names)
    borrowed = {i: row for i, row in by_name.items() if i not in learned or i in unmarked_labels}
    return adapt_classes(
        warm_detector.network,
        names,
        learned,
        job.base_network,
        borrowed if job.base_network.spec.pretrained else {},
    )


def _labels_without_example(
    job: DetectorTrainingJob, samples: Sequence[RegionSample]
) -> tuple[int, ...]:
    """Return the labels without examples that the base detects by name; they stay detectable."""
    marked_count = {region.label for sample in samples for region in sample.regions}
    names = job.control.label_names
    class_by_label = _class_by_label(job) if job.base_network.spec.pretrained else {}
    return tuple(i for i in class_by_label if names[i] not in marked_count)


def _class_by_label(job: DetectorTrainingJob) -> dict[int, int]:
    """Return label index → class of the base with that meaning, the first of several."""
    known_classes = match_classes(job.control.labels, job.base_network.spec.classes)
    return {
        label_index: class_index for class_index, label_index in reversed(known_classes.items())
    }


def _warm_start_detector(job: DetectorTrainingJob) -> TrainedDetector | None:
    """Return the live version's detector if training can continue from it."""
    previous = job.previous
    if not isinstance(previous, TrainedDetector) or not previous.class_mapping.learned:
        return None
    same_base = previous.network.spec.base == job.base_network.spec.base
    return (
        previous if same_base and previous.class_mapping.points == (job.control.is_points) else None
    )


def _tune_threshold(
    detector: TrainedDetector, control: Control, samples: Sequence[RegionSample]
) -> ClassMapping:
    """Set the threshold with the best F1 on training images, and the difficulty of each label."""
    tuning_samples = [sample for sample in samples if sample.regions][-TUNING_IMAGE_COUNT:]
    evaluated = predict_samples(detector, control, tuning_samples)
    if control.is_points:
        evaluated = [points_to_boxes(s, detector.class_mapping.sides) for s in evaluated]
    labels = control.label_names
    threshold = round(min(DEFAULT_CONFIDENCE_THRESHOLD, best_f1_threshold(evaluated, labels)), 4)
    return replace(
        detector.class_mapping, shown=threshold, difficulty=label_difficulty(evaluated, labels)
    )


def _zero_shot_mapping(job: DetectorTrainingJob, known_classes: Mapping[int, int]) -> ClassMapping:
    size = job.input_size or MAX_INPUT_SIZE
    return ClassMapping(
        points=job.control.is_points,
        labels=job.control.label_names,
        classes=known_classes,
        sides={},
        size=size,
        learned=False,
    )


def _choose_input_size(samples: Sequence[RegionSample]) -> int:
    longest = max(max(s.size.width, s.size.height) for s in samples)
    return int(np.clip(-(-longest // 32) * 32, MIN_INPUT_SIZE, MAX_INPUT_SIZE))
