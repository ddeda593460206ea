"""Marked images → a finder: the compute seam of boxes and points.

Nothing here knows where it runs: in a process of this machine, or elsewhere.
"""

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
from backend.learning.detection_metrics import best_f1_threshold, label_difficulty
from backend.learning.first_labels import MIN_DETECTOR_IMAGES
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
"""The same where the network knows some of the labels from before."""
MIN_INPUT_SIZE, MAX_INPUT_SIZE = 320, 640
"""Pixels of the network's input where nobody set it."""
TUNING_IMAGE_COUNT = 40
"""Images that the shown confidence is tuned on."""


@dataclass(frozen=True)
class DetectorTrainingJob:
    """Everything that one control's finder is made from.

    Attributes:
        control: of boxes or points.
        samples: its marked images.
        base_network: the network to start from.
        previous: the live version's finder.
        input_size: pixels of the network's input; 0: by the images.
        max_seconds: that training may take.
        seed: of everything random.
        load_runner: makes detectors.
        prompts: finds by words or drawn boxes, where its files are there.
        report: told (done, of) after each epoch.
        cancelled: asked often.
        base_setting: what leads to the base, on any machine.
        max_steps: optimizer steps at most; 0: as the images ask for.
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
    """Finds without training, by words or by a few drawn boxes."""

    def detector(
        self, control: Control, samples: Sequence[RegionSample], meaning: ClassMapping
    ) -> PromptedDetector | None:
        """A finder of the control; None where nothing describes any of its labels."""
        ...


def will_fine_tune(job: DetectorTrainingJob) -> bool:
    """Whether training would learn from the images, and not only know the labels' names."""
    marked_count = sum(bool(sample.regions) and not sample.is_audit for sample in job.samples)
    known_classes = (
        match_classes(job.control.labels, job.base_network.spec.classes)
        if _is_pretrained(job.base_network)
        else {}
    )
    if marked_count >= (
        MIN_SAMPLES_PRETRAINED if known_classes or job.prompts else MIN_DETECTOR_IMAGES
    ):
        return True
    return marked_count >= MIN_DETECTOR_IMAGES and not known_classes and job.prompts is None


def train_detector(job: DetectorTrainingJob) -> Detector | None:
    """Fine-tune on all marked images but the audit slice.

    Returns:
        the finder; while there are too few marked images one that knows all labels by the names
        of the base's classes, or by words or drawn boxes, or some of them by name; None where
        nothing is known of any.

    Raises:
        Cancelled: it was.
        DetectorError: training did not work out.
    """
    training_samples = [sample for sample in job.samples if not sample.is_audit]
    marked_count = sum(bool(sample.regions) for sample in training_samples)
    known_classes = (
        match_classes(job.control.labels, job.base_network.spec.classes)
        if _is_pretrained(job.base_network)
        else {}
    )
    if marked_count >= (
        MIN_SAMPLES_PRETRAINED if known_classes or job.prompts else MIN_DETECTOR_IMAGES
    ):
        return _fine_tune(job, training_samples)
    if job.prompts and len(set(known_classes.values())) < len(job.control.labels):
        prompted = job.prompts.detector(job.control, training_samples, _zero_shot_meaning(job, {}))
        if prompted is not None:
            return replace(
                prompted, pretrained_detector=_detector_by_name(job, known_classes, prompted)
            )
    if marked_count >= MIN_DETECTOR_IMAGES and not known_classes:
        return _fine_tune(job, training_samples)
    if not known_classes:
        return None
    return TrainedDetector(
        job.base_network,
        _zero_shot_meaning(job, known_classes),
        hash_network(job.base_network),
        job.load_runner,
    )


def _detector_by_name(
    job: DetectorTrainingJob, known_classes: Mapping[int, int], prompted: PromptedDetector
) -> TrainedDetector | None:
    """What the base knows by name of the labels that no words and no boxes describe."""
    described = set(prompted.class_mapping.classes.values())
    remaining = {row: label for row, label in known_classes.items() if label not in described}
    if not remaining:
        return None
    return TrainedDetector(
        job.base_network,
        _zero_shot_meaning(job, remaining),
        hash_network(job.base_network),
        job.load_runner,
    )


def undetectable_labels(detector: Detector | None, control: Control) -> tuple[str, ...]:
    """The labels of a control that nothing finds, before any network has learned them.

    Args:
        detector: of the control; None finds nothing.
        control: of boxes or points.
    """
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
    knows_labels = _is_pretrained(job.base_network) and len(_class_by_label(job)) == len(
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
    meaning = ClassMapping(
        points=job.control.is_points,
        labels=names,
        classes={i: i for i in range(len(names))},
        sides=box_sizes,
        size=size,
    )
    detector = TrainedDetector(network, meaning, hash_network(network), job.load_runner)
    detector.class_mapping = _tune_threshold(detector, job.control, samples)
    return detector


def build_start_network(
    job: DetectorTrainingJob, warm_detector: TrainedDetector | None, unmarked_labels: Sequence[int]
) -> DetectionNetwork:
    """The network to start from, whose classes are the labels.

    What the base knows of a label by name is kept, also of one that came into the config since the
    live version was trained, and of one that nobody marked: training says nothing about those, so
    that they would stay at whatever they start from.
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
        borrowed if _is_pretrained(job.base_network) else {},
    )


def _labels_without_example(
    job: DetectorTrainingJob, samples: Sequence[RegionSample]
) -> tuple[int, ...]:
    """Labels that the base knows by name and nobody marked yet: they go on being found."""
    marked_count = {region.label for sample in samples for region in sample.regions}
    names = job.control.label_names
    class_by_label = _class_by_label(job) if _is_pretrained(job.base_network) else {}
    return tuple(i for i in class_by_label if names[i] not in marked_count)


def _class_by_label(job: DetectorTrainingJob) -> dict[int, int]:
    """By label index, the class of the base that means it; the first where several do."""
    known_classes = match_classes(job.control.labels, job.base_network.spec.classes)
    return {
        label_index: class_index for class_index, label_index in reversed(known_classes.items())
    }


def _warm_start_detector(job: DetectorTrainingJob) -> TrainedDetector | None:
    """The live version's finder where training can go on from it."""
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
    """The confidence from which finds are shown, by the F1 on images it learned from, and how
    hard each label is there.
    """
    tuning_samples = [sample for sample in samples if sample.regions][-TUNING_IMAGE_COUNT:]
    judged = predict_samples(detector, control, tuning_samples)
    if control.is_points:
        judged = [points_to_boxes(item, detector.class_mapping.sides) for item in judged]
    labels = control.label_names
    threshold = round(min(DEFAULT_CONFIDENCE_THRESHOLD, best_f1_threshold(judged, labels)), 4)
    return replace(
        detector.class_mapping, shown=threshold, difficulty=label_difficulty(judged, labels)
    )


def _zero_shot_meaning(job: DetectorTrainingJob, known_classes: Mapping[int, int]) -> ClassMapping:
    size = job.input_size or MAX_INPUT_SIZE
    return ClassMapping(
        points=job.control.is_points,
        labels=job.control.label_names,
        classes=known_classes,
        sides={},
        size=size,
        learned=False,
    )


def _is_pretrained(base: DetectionNetwork) -> bool:
    return base.spec.pretrained


def _choose_input_size(samples: Sequence[RegionSample]) -> int:
    longest = max(max(s.size.width, s.size.height) for s in samples)
    return int(np.clip(-(-longest // 32) * 32, MIN_INPUT_SIZE, MAX_INPUT_SIZE))
