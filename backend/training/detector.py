"""Train the detector of a box or point control; runs locally and on Modal."""

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
from backend.vision.detection.feature_network import has_features
from backend.vision.detection.probe_detector import ProbeDetector
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
"""Annotated images needed to fine-tune if a pretrained or prompted detector is the alternative."""
MIN_INPUT_SIZE, MAX_INPUT_SIZE = 320, 640
"""Range of the input size in pixels when it is chosen from the images."""
TUNING_IMAGE_COUNT = 40
"""Number of images on which the confidence threshold is tuned."""


@dataclass(frozen=True)
class DetectorTrainingJob:
    """The inputs for training the detector of one control.

    Attributes:
        control: a box or point control.
        samples: its labeled images.
        base_network: the base network to fine-tune.
        previous: the live version's detector, for a warm start.
        input_size: input size of the network in pixels; 0: chosen from the images.
        max_seconds: time limit of training.
        seed: random seed.
        load_runner: loads the runner that executes a network.
        prompts: builds detectors from text and box prompts; None without weights for it.
        report: called with (done, total) after each epoch.
        cancelled: polled during training; training stops when it returns True.
        base_setting: value of ``PRELABEL_DETECTOR`` that loads the same base on another machine.
        max_steps: maximum number of optimizer steps; 0: chosen from the images.
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
    """Builds detectors without training, from text prompts or a few annotated boxes."""

    def detector(
        self, control: Control, samples: Sequence[RegionSample], mapping: ClassMapping
    ) -> PromptedDetector | None:
        """Return a detector for the control; None if no label has a prompt."""
        ...

    def is_available(self) -> bool:
        """Return whether the network that the prompts are for can be loaded."""
        ...


def will_fine_tune(job: DetectorTrainingJob) -> bool:
    """Return whether `train_detector` fine-tunes a network instead of building a zero-shot one."""
    annotated_count = sum(bool(sample.regions) and not sample.is_audit for sample in job.samples)
    if annotated_count >= MIN_SAMPLES_PRETRAINED:
        return True
    if annotated_count < MIN_DETECTOR_IMAGES or _label_by_class(job):
        return False
    return job.prompts is None or not job.prompts.is_available()


def suits_quick_training(job: DetectorTrainingJob) -> bool:
    """Return whether a quick detector is worth training before `train_detector`.

    It is if training takes minutes and there are learned features: those of the live version, or
    those of a pretrained base network unless that detects all labels by their names already.
    """
    if not will_fine_tune(job) or not has_features(job.base_network):
        return False
    if warm_start_detector(job) is not None:
        return True
    return job.base_network.spec.pretrained and not _is_fully_pretrained(job)


def train_detector(job: DetectorTrainingJob) -> Detector | None:
    """Fine-tune a detector on all labeled images outside the audit set.

    Returns:
        the detector. With too few annotated images it is zero-shot: the base network if its class
        names match all labels, else a prompted detector, else the base network for the labels that
        match. None if no label can be detected.

    Raises:
        RoundCancelledError: training was cancelled.
        DetectorError: training failed.
    """
    training_samples = [sample for sample in job.samples if not sample.is_audit]
    if will_fine_tune(job):
        return _fine_tune(job, training_samples)
    label_by_class = _label_by_class(job)
    if job.prompts and len(set(label_by_class.values())) < len(job.control.labels):
        prompted = job.prompts.detector(job.control, training_samples, _zero_shot_mapping(job, {}))
        if prompted is not None:
            described = set(prompted.class_mapping.classes.values())
            remaining = {row: i for row, i in label_by_class.items() if i not in described}
            return replace(prompted, pretrained_detector=_zero_shot_detector(job, remaining))
    return _zero_shot_detector(job, label_by_class)


def _label_by_class(job: DetectorTrainingJob) -> dict[int, int]:
    """Return class of the pretrained base → index of the label it matches by name."""
    if not job.base_network.spec.pretrained:
        return {}
    return dict(match_classes(job.control.labels, job.base_network.spec.classes))


def _zero_shot_detector(
    job: DetectorTrainingJob, classes: Mapping[int, int]
) -> TrainedDetector | None:
    """Return the base network as detector of the labels that match its classes, if any."""
    if not classes:
        return None
    network = job.base_network
    mapping = _zero_shot_mapping(job, classes)
    return TrainedDetector(network, mapping, hash_network(network), job.load_runner)


def undetectable_labels(detector: Detector | None, control: Control) -> tuple[str, ...]:
    """Return the labels of a control that its detector cannot detect."""
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

    size = job.input_size or choose_input_size(samples)
    box_sizes = point_box_sizes(job.control, samples, size)
    examples = [example_from_sample(sample, job.control, box_sizes) for sample in samples]
    warm_detector = warm_start_detector(job)
    unseen_labels = _labels_without_example(job, samples)
    start_network = build_start_network(job, warm_detector, unseen_labels)
    is_fully_pretrained = _is_fully_pretrained(job)
    training_recipe = choose_recipe(
        start_network,
        examples,
        size,
        warm_detector is not None,
        job.max_seconds,
        job.seed,
        is_fully_pretrained,
    )
    steps = min(training_recipe.iterations, job.max_steps or training_recipe.iterations)
    training_recipe = replace(training_recipe, iterations=steps, ignored_classes=unseen_labels)
    network = fine_tune(start_network, examples, training_recipe, job.report, job.cancelled)
    if is_fully_pretrained and warm_detector is None:
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
    job: DetectorTrainingJob, warm_detector: TrainedDetector | None, unseen_labels: Sequence[int]
) -> DetectionNetwork:
    """Return the initial network for fine-tuning, with the labels as its classes.

    It is the live version's network for a warm start, else the base. Labels that the live version
    did not learn, and labels without examples, get the weights of the base class that matches
    their name.
    """
    from backend.vision.detection.network import adapt_classes, match_names

    names, classes = job.control.label_names, job.base_network.spec.classes
    by_name = {**match_names(classes, names), **_class_by_label(job)}
    if warm_detector is None:
        return adapt_classes(job.base_network, names, by_name)
    learned = match_names(warm_detector.network.spec.classes, names)
    borrowed = {i: row for i, row in by_name.items() if i not in learned or i in unseen_labels}
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
    """Return the labels without examples that match a base class; training ignores them."""
    annotated_labels = {region.label for sample in samples for region in sample.regions}
    names = job.control.label_names
    class_by_label = _class_by_label(job) if job.base_network.spec.pretrained else {}
    return tuple(i for i in class_by_label if names[i] not in annotated_labels)


def _is_fully_pretrained(job: DetectorTrainingJob) -> bool:
    """Return whether the base network was pretrained on classes with the names of all labels."""
    covers_labels = len(_class_by_label(job)) == len(job.control.labels)
    return job.base_network.spec.pretrained and covers_labels


def _class_by_label(job: DetectorTrainingJob) -> dict[int, int]:
    """Return label index → first base class that matches its name."""
    label_by_class = match_classes(job.control.labels, job.base_network.spec.classes)
    return {
        label_index: class_index for class_index, label_index in reversed(label_by_class.items())
    }


def fine_tuned_detector(job: DetectorTrainingJob) -> TrainedDetector | None:
    """Return the live version's detector if it was fine-tuned, from whichever base, else None.

    Of a quick detector, that is its network with its own class layer.
    """
    previous = job.previous
    if isinstance(previous, ProbeDetector) and previous.key != hash_network(job.base_network):
        return TrainedDetector(
            previous.network, previous.class_mapping, previous.key, job.load_runner
        )
    if isinstance(previous, TrainedDetector) and previous.class_mapping.learned:
        return previous
    return None


def warm_start_detector(job: DetectorTrainingJob) -> TrainedDetector | None:
    """Return the live version's detector if it can be fine-tuned further, else None."""
    previous = fine_tuned_detector(job)
    if previous is None:
        return None
    same_base = previous.network.spec.base == job.base_network.spec.base
    same_kind = previous.class_mapping.points == job.control.is_points
    return previous if same_base and same_kind else None


def _tune_threshold(
    detector: TrainedDetector, control: Control, samples: Sequence[RegionSample]
) -> ClassMapping:
    """Return the mapping with the best F1 threshold on training images and label difficulties."""
    tuning_samples = [sample for sample in samples if sample.regions][-TUNING_IMAGE_COUNT:]
    evaluated = predict_samples(detector, control, tuning_samples)
    if control.is_points:
        evaluated = [points_to_boxes(s, detector.class_mapping.sides) for s in evaluated]
    labels = control.label_names
    threshold = round(min(DEFAULT_CONFIDENCE_THRESHOLD, best_f1_threshold(evaluated, labels)), 4)
    return replace(
        detector.class_mapping, shown=threshold, difficulty=label_difficulty(evaluated, labels)
    )


def _zero_shot_mapping(job: DetectorTrainingJob, label_by_class: Mapping[int, int]) -> ClassMapping:
    size = job.input_size or MAX_INPUT_SIZE
    return ClassMapping(
        points=job.control.is_points,
        labels=job.control.label_names,
        classes=label_by_class,
        sides={},
        size=size,
        learned=False,
    )


def choose_input_size(samples: Sequence[RegionSample]) -> int:
    """Return the network's input size in pixels for the largest of the images."""
    longest = max(max(s.size.width, s.size.height) for s in samples)
    return int(np.clip(-(-longest // 32) * 32, MIN_INPUT_SIZE, MAX_INPUT_SIZE))
