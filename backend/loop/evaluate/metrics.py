"""How good a model's answers are where a person's are known: figures, and what rests on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backend.arrays import Floats
from backend.domain import Control, ImageSize, LabelSet
from backend.estimate import IntervalEstimate
from backend.inference.confidence import choice_confidence, detection_confidence
from backend.inference.detections import (
    RegionSample,
    confidence_threshold,
    edge_scale,
    predict_samples,
)
from backend.inference.model import Model, chosen_labels, predict_choice
from backend.learning.classification_metrics import accuracy_estimate, evaluate_classification
from backend.learning.detection_metrics import (
    DetectionCounts,
    DetectionSample,
    RegionKind,
    count_matches,
    evaluate_detections,
    match_outcomes,
)
from backend.learning.intervals import proportion_estimate
from backend.learning.thresholds import precision_threshold
from backend.training.head import ChoiceExamples
from backend.vision.detection.trained_detector import Detector, TrainedDetector

UNKNOWN_IMAGE_SIZE = ImageSize(0, 0)
FINE_TUNED_KIND = "fine-tuned"
LabelEvidence = dict[str, tuple[list[float], list[bool]]]


@dataclass(frozen=True)
class ControlEvaluation:
    """How one control was answered.

    Attributes:
        figure: the share of right answers, or F1.
        metrics: all other figures, as plain JSON.
        correct: task → whether the whole answer was right.
        confidence: task → confidence of the whole answer, 0 to 1.
        tallies: of boxes and points: task → what was right, found, there.
        evidence: label → confidence of its predictions, and whether each was right.
        unanswered_tasks: tasks of which no label was chosen.
    """

    figure: IntervalEstimate
    metrics: dict[str, Any]
    correct: dict[int, bool] = field(default_factory=dict)
    confidence: dict[int, float] = field(default_factory=dict)
    tallies: dict[int, DetectionCounts] = field(default_factory=dict)
    evidence: LabelEvidence = field(default_factory=dict)
    unanswered_tasks: frozenset[int] = frozenset()

    def thresholds(self, target_precision: float) -> dict[str, float]:
        """By label, the confidence from which on it is shown; see ``precision_threshold``."""
        return {
            label: precision_threshold(*rows, target_precision)
            for label, rows in self.evidence.items()
        }


def evaluate_choices(
    model: Model, control: Control, examples: ChoiceExamples, rows: Iterable[int]
) -> ControlEvaluation:
    """Judge the answers to a control of choices.

    Args:
        model: whose answers; without a head for the control all are wrong.
        control: of choices.
        examples: with what a person answered.
        rows: of the examples, that the head did not learn from.
    """
    indices = list(rows)
    tasks, truths = [examples.task_ids[i] for i in indices], [examples.answers[i] for i in indices]
    if control.name not in model.heads or not indices:
        predicted: list[LabelSet | None] = [None] * len(indices)
        probabilities = np.zeros((len(indices), 0), dtype=np.float32)
    else:
        probabilities = model.probabilities(control.name, examples.vectors[indices])
        labels = model.labels(control.name)
        predicted = [
            chosen_labels(predict_choice(control, labels, row, UNKNOWN_IMAGE_SIZE))
            for row in probabilities
        ]
    pairs = list(zip(predicted, truths, strict=True))
    return ControlEvaluation(
        accuracy_estimate(pairs),
        evaluate_classification(pairs, control.label_names).to_json(),
        {task: prediction == truth for task, (prediction, truth) in zip(tasks, pairs, strict=True)},
        {
            task: choice_confidence(row, control.multiple)
            for task, row in zip(tasks, probabilities, strict=True)
        },
        evidence=_choice_evidence(model, control, probabilities, truths),
        unanswered_tasks=frozenset(
            task for task, prediction in zip(tasks, predicted, strict=True) if not prediction
        ),
    )


def object_sizes(
    control: Control, samples: Sequence[RegionSample], detectors: Iterable[Detector | None]
) -> dict[str, float]:
    """How large a label's objects are, by which it is judged whether a point is near enough.

    Who compares finders judges all by the same sizes: a finder's own say how it was trained.

    Args:
        control: of boxes or points.
        samples: its images, whose real boxes tell best.
        detectors: whose own sizes count where nothing better is known, the first that has one.

    Returns:
        label → 0 to 1 of the image's longer edge; nothing of boxes.
    """
    if not control.is_points:
        return {}
    sizes: dict[str, float] = {}
    for detector in reversed([item for item in detectors if item is not None]):
        sizes |= {label: side for label, side in detector.class_mapping.sides.items() if side}
    sizes |= {label.name: label.extent for label in control.labels if label.extent}
    return sizes | _median_box_sizes(samples)


def _median_box_sizes(samples: Sequence[RegionSample]) -> dict[str, float]:
    """By label that real boxes show, the median of their mean side."""
    sides: dict[str, list[float]] = {}
    for sample in samples:
        x_scale, y_scale = edge_scale(sample.aspect_ratio)
        for box in sample.other_boxes:
            side = ((box.x1 - box.x0) * x_scale + (box.y1 - box.y0) * y_scale) / 2
            sides.setdefault(box.label, []).append(side)
    return {label: float(np.median(lengths)) for label, lengths in sides.items()}


def evaluate_regions(
    detector: Detector | None,
    control: Control,
    samples: Sequence[RegionSample],
    sizes: Mapping[str, float] | None = None,
) -> ControlEvaluation:
    """Judge what a finder finds.

    Args:
        detector: None finds nothing.
        control: of boxes or points.
        samples: images that the finder did not learn from.
        sizes: of points, as :func:`object_sizes` tells them; by the finder's own when not given.
    """
    judged = predict_samples(detector, control, samples)
    kind: RegionKind = "points" if control.is_points else "boxes"
    min_confidence = confidence_threshold(detector, control) if detector else 1.0
    extents = object_sizes(control, samples, [detector]) if sizes is None else dict(sizes)
    evaluated = evaluate_detections(judged, control.label_names, kind, extents, min_confidence)
    tallies = [
        count_matches(image, control.label_names, kind, extents, min_confidence) for image in judged
    ]
    tasks = [sample.task_id for sample in samples]
    return ControlEvaluation(
        evaluated.f1,
        evaluated.to_json()
        | {"shown": min_confidence}
        | ({"sizes": extents} if kind == "points" else {}),
        {
            task: t.true_positives == t.predicted == t.actual
            for task, t in zip(tasks, tallies, strict=True)
        },
        {
            t: detection_confidence(i.confidence, min_confidence)
            for t, i in zip(tasks, judged, strict=True)
        },
        dict(zip(tasks, tallies, strict=True)),
        _region_evidence(judged, control.label_names, kind, extents, min_confidence),
    )


def correctness_by_image(
    detector: Detector,
    control: Control,
    samples: Sequence[RegionSample],
    sizes: Mapping[str, float],
) -> list[list[tuple[float, bool]]]:
    """By image, the confidence of each find that is shown and whether a person marked it.

    Args:
        detector: of the control.
        control: of boxes or points.
        samples: images that the finder did not learn from.
        sizes: of points; see :func:`object_sizes`.
    """
    kind: RegionKind = "points" if control.is_points else "boxes"
    min_confidence = confidence_threshold(detector, control)
    return [
        [
            pair
            for label in control.label_names
            for pair in match_outcomes(image, label, kind, sizes)
            if pair[0] >= min_confidence
        ]
        for image in predict_samples(detector, control, samples)
    ]


def exact_match_accuracy(evaluations: Mapping[str, ControlEvaluation]) -> IntervalEstimate:
    """The share of tasks whose every answered control of choices is right."""
    correct: dict[int, bool] = {}
    for evaluation in evaluations.values():
        for task, is_correct in evaluation.correct.items():
            correct[task] = correct.get(task, True) and is_correct
    return proportion_estimate(sum(correct.values()), len(correct))


def task_correctness(evaluations: Iterable[ControlEvaluation]) -> dict[int, tuple[float, bool]]:
    """Tasks that every control was answered of: confidence, and whether all is right.

    Not those where no label was chosen: nobody would know whether that is an answer.
    """
    per_control = list(evaluations)
    tasks = (
        set.intersection(
            *(
                set(evaluation.confidence) - evaluation.unanswered_tasks
                for evaluation in per_control
            )
        )
        if per_control
        else set()
    )
    return {
        task: (
            min(evaluation.confidence[task] for evaluation in per_control),
            all(evaluation.correct[task] for evaluation in per_control),
        )
        for task in sorted(tasks)
    }


def describe_head(model: Model, control: str, examples: ChoiceExamples) -> str:
    """What answers a control of choices, in words."""
    if control not in model.heads:
        return "none yet"
    return "linear head" if (~examples.audit_mask).any() else "zero-shot from the label names"


def describe_detector(detector: Detector | None) -> str:
    """What answers a control of boxes or points, in words."""
    if detector is None:
        return "none yet"
    if detector.class_mapping.learned:
        return FINE_TUNED_KIND
    by_name = isinstance(detector, TrainedDetector)
    return "zero-shot from the class names" if by_name else "prompted by words or drawn boxes"


def count_choice_labels(control: Control, examples: ChoiceExamples) -> dict[str, int]:
    """How often each label was given among what is learned from."""
    rows = zip(examples.answers, examples.audit_mask, strict=True)
    training_answers = [answer for answer, audit in rows if not audit]
    return {
        name: sum(name in answer for answer in training_answers) for name in control.label_names
    }


def count_region_labels(control: Control, samples: Sequence[RegionSample]) -> dict[str, int]:
    """How many places of each label there are among what is learned from."""
    counts = dict.fromkeys(control.label_names, 0)
    for sample in samples:
        for region in sample.regions if not sample.is_audit else ():
            counts[region.label] += 1
    return counts


def _choice_evidence(
    model: Model, control: Control, probabilities: Floats, truths: Sequence[LabelSet]
) -> LabelEvidence:
    evidence: LabelEvidence = {}
    for row, truth in zip(probabilities, truths, strict=True):
        choice = (
            predict_choice(control, model.labels(control.name), row, UNKNOWN_IMAGE_SIZE)
            if len(row)
            else None
        )
        for label, confidence in (choice.labels if choice else {}).items():
            confidences, correct = evidence.setdefault(label, ([], []))
            confidences.append(confidence)
            correct.append(label in truth)
    return evidence


def _region_evidence(
    images: Sequence[DetectionSample],
    labels: Sequence[str],
    kind: RegionKind,
    extents: Mapping[str, float],
    min_confidence: float,
) -> LabelEvidence:
    evidence: LabelEvidence = {}
    for image in images:
        for label in labels:
            confidences, correct = evidence.setdefault(label, ([], []))
            for confidence, is_correct in match_outcomes(image, label, kind, extents):
                if confidence >= min_confidence:
                    confidences.append(confidence)
                    correct.append(is_correct)
    return {label: rows for label, rows in evidence.items() if rows[0]}
