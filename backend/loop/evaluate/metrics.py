"""Evaluate a model's predictions against people's annotations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backend.card_records import LINEAR_HEAD_KIND, NO_MODEL_KIND
from backend.domain import ChoicePrediction, Control, ImageSize, LabelSet, Region, RegionOutcome
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
    count_outcomes,
    evaluate_detections,
    match_outcomes,
    region_outcomes,
)
from backend.learning.intervals import proportion_estimate
from backend.learning.thresholds import precision_threshold
from backend.store.audit_predictions import AuditAnswer, AuditRegion
from backend.training.head import ChoiceExamples
from backend.vision.detection.probe_detector import ProbeDetector
from backend.vision.detection.trained_detector import Detector, TrainedDetector

UNKNOWN_IMAGE_SIZE = ImageSize(0, 0)
FINE_TUNED_KIND = "fine-tuned"
QUICK_KIND = "quick: only the last layer is trained"
LabelEvidence = dict[str, tuple[list[float], list[bool]]]


@dataclass(frozen=True)
class ControlEvaluation:
    """The evaluation of one control.

    Attributes:
        figure: accuracy, or F1 for boxes and points.
        metrics: all other metrics, as JSON.
        correct: task → whether the complete prediction is correct.
        confidence: task → confidence of the complete prediction, 0 to 1.
        tallies: task → true positives, predicted and actual regions; boxes and points only.
        evidence: label → confidence of its predictions, and whether each is correct.
        unanswered_tasks: tasks without a predicted label.
        answers: task → annotation and prediction; empty without a model.
    """

    figure: IntervalEstimate
    metrics: dict[str, Any]
    correct: dict[int, bool] = field(default_factory=dict)
    confidence: dict[int, float] = field(default_factory=dict)
    tallies: dict[int, DetectionCounts] = field(default_factory=dict)
    evidence: LabelEvidence = field(default_factory=dict)
    unanswered_tasks: frozenset[int] = frozenset()
    answers: Mapping[int, AuditAnswer] = field(default_factory=dict)

    def thresholds(self, target_precision: float) -> dict[str, float]:
        """Return label → confidence threshold that reaches a precision."""
        return {
            label: precision_threshold(*rows, target_precision)
            for label, rows in self.evidence.items()
        }


def evaluate_choices(
    model: Model, control: Control, examples: ChoiceExamples, rows: Iterable[int]
) -> ControlEvaluation:
    """Evaluate a model on a choices control.

    Args:
        model: all predictions count as wrong if it has no head for the control.
        control: a choices control.
        examples: labeled images.
        rows: indices of the examples to evaluate, which the head was not trained on.
    """
    indices = list(rows)
    tasks, truths = [examples.task_ids[i] for i in indices], [examples.answers[i] for i in indices]
    choices: list[ChoicePrediction] = []
    predicted: list[LabelSet | None] = [None] * len(indices)
    probabilities = np.zeros((len(indices), 0), dtype=np.float32)
    if control.name in model.heads and indices:
        probabilities = model.probabilities(control.name, examples.vectors[indices])
        labels = model.labels(control.name)
        choices = [
            predict_choice(control, labels, row, UNKNOWN_IMAGE_SIZE) for row in probabilities
        ]
        predicted = [chosen_labels(choice) for choice in choices]
    pairs = list(zip(predicted, truths, strict=True))
    return ControlEvaluation(
        accuracy_estimate(pairs),
        evaluate_classification(pairs, control.label_names).to_json(),
        {task: prediction == truth for task, (prediction, truth) in zip(tasks, pairs, strict=True)},
        {
            task: choice_confidence(row, control.multiple)
            for task, row in zip(tasks, probabilities, strict=True)
        },
        evidence=_choice_evidence(choices, truths),
        unanswered_tasks=frozenset(
            task for task, prediction in zip(tasks, predicted, strict=True) if not prediction
        ),
        answers={
            task: AuditAnswer(tuple(sorted(truth)), tuple(sorted(prediction)))
            for task, (prediction, truth) in zip(tasks, pairs, strict=True)
            if prediction is not None
        },
    )


def object_sizes(
    control: Control, samples: Sequence[RegionSample], detectors: Iterable[Detector | None]
) -> dict[str, float]:
    """Return the object size of each label, which is the tolerance for matching points.

    Two detectors must be compared with the same sizes, because each has its own from training.

    Args:
        control: a box or point control.
        samples: its images; the median box size of a label takes precedence.
        detectors: detectors whose own sizes are the fallback; earlier ones take precedence.

    Returns:
        label → size, 0 to 1 of the image's longer edge; empty for boxes.
    """
    if not control.is_points:
        return {}
    sizes: dict[str, float] = {}
    for detector in reversed([item for item in detectors if item is not None]):
        sizes |= {label: side for label, side in detector.class_mapping.sides.items() if side}
    sizes |= {label.name: label.extent for label in control.labels if label.extent}
    return sizes | _median_box_sizes(samples)


def _median_box_sizes(samples: Sequence[RegionSample]) -> dict[str, float]:
    """Return label → median of the mean side of its boxes."""
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
    """Evaluate a detector on labeled images.

    Args:
        detector: the detector; None detects nothing.
        control: a box or point control.
        samples: images that the detector was not trained on.
        sizes: see `object_sizes`; computed for this detector by default.
    """
    predicted = predict_samples(detector, control, samples)
    kind = region_kind(control)
    min_confidence = confidence_threshold(detector, control) if detector else 1.0
    extents = object_sizes(control, samples, [detector]) if sizes is None else dict(sizes)
    evaluated = evaluate_detections(predicted, control.label_names, kind, extents, min_confidence)
    outcomes = [
        region_outcomes(image, control.label_names, kind, extents, min_confidence)
        for image in predicted
    ]
    tallies = [count_outcomes(rows) for rows in outcomes]
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
            for t, i in zip(tasks, predicted, strict=True)
        },
        dict(zip(tasks, tallies, strict=True)),
        _region_evidence(predicted, control.label_names, kind, extents, min_confidence),
        answers={
            task: AuditAnswer(regions=tuple(_audit_region(*row) for row in rows))
            for task, rows in zip(tasks, outcomes, strict=True)
        },
    )


def _audit_region(outcome: RegionOutcome, region: Region) -> AuditRegion:
    corners = (round(edge, 4) for edge in (region.x0, region.y0, region.x1, region.y1))
    return AuditRegion(outcome, region.label, *corners)


def region_kind(control: Control) -> RegionKind:
    """Return whether regions of a control are matched as points or as boxes."""
    return "points" if control.is_points else "boxes"


def correctness_by_image(
    detector: Detector,
    control: Control,
    samples: Sequence[RegionSample],
    sizes: Mapping[str, float],
) -> list[list[tuple[float, bool]]]:
    """Return the confidence of each published region and whether it is correct, by image.

    Args:
        detector: detector of the control.
        control: a box or point control.
        samples: images that the detector was not trained on.
        sizes: see `object_sizes`.
    """
    kind = region_kind(control)
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
    """Return the share of tasks with correct predictions for all annotated choices controls."""
    correct: dict[int, bool] = {}
    for evaluation in evaluations.values():
        for task, is_correct in evaluation.correct.items():
            correct[task] = correct.get(task, True) and is_correct
    return proportion_estimate(sum(correct.values()), len(correct))


def task_correctness(evaluations: Iterable[ControlEvaluation]) -> dict[int, tuple[float, bool]]:
    """Return task → confidence and correctness, for tasks with predictions of all controls.

    Tasks without a predicted label are left out, because an empty annotation is ambiguous.
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
    """Return the type of the head of a choices control, for people."""
    if control not in model.heads:
        return NO_MODEL_KIND
    return LINEAR_HEAD_KIND if (~examples.audit_mask).any() else "zero-shot from the label names"


def describe_detector(detector: Detector | None) -> str:
    """Return the type of the detector of a box or point control, for people."""
    if detector is None:
        return NO_MODEL_KIND
    if isinstance(detector, ProbeDetector):
        return QUICK_KIND
    if detector.class_mapping.learned:
        return FINE_TUNED_KIND
    by_name = isinstance(detector, TrainedDetector)
    return "zero-shot from the class names" if by_name else "prompted by text or drawn boxes"


def count_choice_labels(control: Control, examples: ChoiceExamples) -> dict[str, int]:
    """Return label → number of training images that have it."""
    rows = zip(examples.answers, examples.audit_mask, strict=True)
    training_answers = [answer for answer, audit in rows if not audit]
    return {
        name: sum(name in answer for answer in training_answers) for name in control.label_names
    }


def count_region_labels(control: Control, samples: Sequence[RegionSample]) -> dict[str, int]:
    """Return label → number of its regions in the training images."""
    counts = dict.fromkeys(control.label_names, 0)
    for sample in samples:
        for region in sample.regions if not sample.is_audit else ():
            counts[region.label] += 1
    return counts


def _choice_evidence(
    choices: Sequence[ChoicePrediction], truths: Sequence[LabelSet]
) -> LabelEvidence:
    evidence: LabelEvidence = {}
    for choice, truth in zip(choices, truths, strict=False):
        for label, confidence in choice.labels.items():
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
