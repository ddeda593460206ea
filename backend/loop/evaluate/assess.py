"""Assess a trained model: metrics, the verdict of the quality gate, and a forecast."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from backend.card_records import AutoAcceptSection, ControlCard, CurvePrediction, LabelNeed, Outlook
from backend.domain import Control
from backend.estimate import MIN_FIGURE_IMAGES, IntervalEstimate
from backend.inference.model import Model, chosen_labels, predict_choice
from backend.learning import learning_curve
from backend.learning.intervals import proportion_estimate
from backend.learning.learning_curve import CurvePoint, LabelMisses
from backend.learning.version_comparison import GateVerdict
from backend.loop.evaluate import metrics
from backend.loop.evaluate.gate import QualityGate
from backend.loop.evaluate.metrics import ControlEvaluation
from backend.loop.model_trainer import ModelTrainer
from backend.loop.observe import Observation
from backend.loop.publish import auto_accept
from backend.runtime.project_session import ProjectSession
from backend.settings import Settings
from backend.store.acceptance import AcceptanceStore
from backend.store.audit_predictions import AuditAnswer, AuditPredictions
from backend.store.versions import VersionCard
from backend.training.detector import undetectable_labels
from backend.vision.detection.probe_detector import ProbeDetector
from backend.vision.detection.trained_detector import DEFAULT_CONFIDENCE_THRESHOLD, Detector

log = logging.getLogger("prelabel")
MIN_AUDIT_IMAGES = 20
"""Number of audit images below which accuracy is also estimated by cross-validation."""
MAX_SIZE_RATIO = 1.25
"""Maximum ratio of object sizes between versions whose point metrics are comparable."""
WAITS_FOR_FULL_TRAINING = "It waits for the full training of the detector."
"""Why no prediction of a quick version is accepted automatically."""
ACCURACY_GOALS = (0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
"""Accuracy goals; the forecast is for the next one above the current accuracy."""


@dataclass(frozen=True)
class Assessment:
    """The assessment of a model before it goes live.

    Attributes:
        figure: main metric of the version on the audit set.
        controls: control → its section of the version card.
        verdict: decision of the quality gate.
        estimate: accuracy by cross-validation while the audit set is small; else None.
        outlook: forecast of the accuracy with more labels.
        accepting: the auto-accept threshold; None if auto-accept is off.
        thresholds: control → label → confidence threshold for publishing. Box and point controls
            have them only if the config sets a precision, or while too few audit images are
            labeled; otherwise the threshold with the best F1 is used, because a missed object is as
            bad as a false one.
        audit_predictions: what the model predicts for each audit image.
    """

    figure: IntervalEstimate
    controls: dict[str, ControlCard]
    verdict: GateVerdict
    estimate: IntervalEstimate | None
    outlook: Outlook | None
    accepting: AutoAcceptSection | None
    thresholds: dict[str, dict[str, float]]
    audit_predictions: AuditPredictions


class Assessor:
    """Assesses a trained model.

    Args:
        session: the project's session.
        observation: the observation that the model was trained on.
        fit: the trainer of the model.
        model: the model.
    """

    def __init__(
        self,
        session: ProjectSession,
        observation: Observation,
        fit: ModelTrainer,
        model: Model,
    ) -> None:
        self._settings: Settings = session.settings
        self._session = session
        self._versions = session.versions
        self._folder = session.folder
        self._observation = observation
        self._fit = fit
        self._model = model
        self._cross_validated = {
            c.name: fit.cross_validate(c, model.heads[c.name])
            for c in self._choice_controls
            if c.name in model.heads
        }
        detectors = (model.detectors, fit.live_model.detectors)
        self._object_sizes = {
            c.name: metrics.object_sizes(
                c, fit.samples(c), [model_detectors.get(c.name) for model_detectors in detectors]
            )
            for c in self._controls
            if not c.is_choices
        }

    def assess(self) -> Assessment:
        """Compute metrics on the audit set, compare with the live version, and forecast."""
        evaluations = {c.name: self._evaluate(c) for c in self._controls}
        region_control = self._controls[0] if not self._choice_controls else None
        choice_evaluations = {c.name: evaluations[c.name] for c in self._choice_controls}
        figure = (
            evaluations[region_control.name].figure
            if region_control
            else metrics.exact_match_accuracy(choice_evaluations)
        )
        estimate = self._estimate_accuracy() if figure.n < MIN_AUDIT_IMAGES else None
        return Assessment(
            figure=figure,
            controls={c.name: self._control_card(c, evaluations[c.name]) for c in self._controls},
            verdict=self._verdict(evaluations),
            estimate=estimate,
            outlook=self._forecast(figure, estimate, evaluations),
            accepting=self._evaluate_acceptance(evaluations),
            thresholds={
                c.name: self._thresholds(c, evaluations[c.name])
                for c in self._controls
                if not c.threshold
            },
            audit_predictions=_audit_predictions(evaluations),
        )

    @property
    def _controls(self) -> Sequence[Control]:
        return self._observation.config.controls

    @property
    def _choice_controls(self) -> list[Control]:
        return [control for control in self._controls if control.is_choices]

    def _target_precision(self, control: Control) -> float:
        return self._settings.precision if control.precision is None else control.precision

    def _thresholds(self, control: Control, evaluation: ControlEvaluation) -> dict[str, float]:
        """Return label → confidence threshold for publishing."""
        proven = (
            evaluation.thresholds(self._target_precision(control))
            if control.is_choices or control.precision is not None
            else {}
        )
        if control.is_choices or not _is_early(evaluation, self._model.detectors.get(control.name)):
            return proven
        return {
            name: max(proven.get(name, 0.0), DEFAULT_CONFIDENCE_THRESHOLD)
            for name in control.label_names
        }

    # -- figures ----------------------------------------------------------------------------

    def _evaluate(self, control: Control) -> ControlEvaluation:
        if control.is_choices:
            examples = self._fit.examples(control)
            return metrics.evaluate_choices(
                self._model, control, examples, np.flatnonzero(examples.audit_mask).tolist()
            )
        audit_samples = [sample for sample in self._fit.samples(control) if sample.is_audit]
        detector = self._model.detectors.get(control.name)
        return metrics.evaluate_regions(
            detector, control, audit_samples, self._object_sizes[control.name]
        )

    def _control_card(self, control: Control, evaluation: ControlEvaluation) -> ControlCard:
        if control.is_choices:
            examples = self._fit.examples(control)
            kind = metrics.describe_head(self._model, control.name, examples)
            counts = metrics.count_choice_labels(control, examples)
            return ControlCard(kind, counts, evaluation.figure, evaluation.metrics)
        detector = self._model.detectors.get(control.name)
        counts = metrics.count_region_labels(control, self._fit.samples(control))
        advice = self._session.resources.missing_label_advice(
            undetectable_labels(detector, control)
        )
        return ControlCard(
            metrics.describe_detector(detector),
            counts,
            evaluation.figure,
            evaluation.metrics,
            shown=_published_from(control, evaluation, detector),
            advice=advice.get("advice", ""),
            made_from=self._fit.detector_dependencies(control),
        )

    def _estimate_accuracy(self) -> IntervalEstimate | None:
        """Estimate the accuracy by cross-validation.

        The estimate is too low, because active learning selects hard images.
        """
        correct: dict[int, bool] = {}
        for control in self._choice_controls:
            for task, is_correct in self._cross_validated_correct(control).items():
                correct[task] = correct.get(task, True) and is_correct
        figure = proportion_estimate(sum(correct.values()), len(correct))
        return replace(figure, metric="accuracy by cross-validation") if correct else None

    def _cross_validated_correct(self, control: Control) -> dict[int, bool]:
        """Return training task → whether its out-of-fold prediction is correct."""
        if control.name not in self._cross_validated:
            return {}
        rows, probabilities = self._cross_validated[control.name]
        examples, labels = self._fit.examples(control), self._model.heads[control.name].labels
        predicted = (
            chosen_labels(predict_choice(control, labels, row, metrics.UNKNOWN_IMAGE_SIZE))
            for row in probabilities
        )
        return {
            examples.task_ids[row]: label_set == examples.answers[row]
            for row, label_set in zip(rows, predicted, strict=True)
        }

    # -- the gate ---------------------------------------------------------------------------

    def _verdict(self, evaluations: dict[str, ControlEvaluation]) -> GateVerdict:
        if self._fit.live_card is None:
            return GateVerdict(True, "The first version of the project.", {})
        gate = QualityGate(
            self._session,
            self._observation,
            self._fit,
            self._model,
            self._cross_validated,
            self._object_sizes,
        )
        return gate.decide(evaluations)

    # -- auto-accept and forecast -----------------------------------------------------------

    def _evaluate_acceptance(
        self, evaluations: dict[str, ControlEvaluation]
    ) -> AutoAcceptSection | None:
        """Return the auto-accept threshold; None if auto-accept is off."""
        error_bound = auto_accept.accept_error_bound(self._controls, self._settings.accept_error)
        if not error_bound:
            return None
        state = AcceptanceStore(self._folder).read()
        if state.problem:
            return AutoAcceptSection(error=error_bound, reason=state.problem)
        if any(isinstance(d, ProbeDetector) for d in self._model.detectors.values()):
            # a test would spend significance level that the full version needs
            return AutoAcceptSection(error=error_bound, reason=WAITS_FOR_FULL_TRAINING)
        return auto_accept.evaluate_acceptance(
            evaluations, error_bound, self._versions.cards(), state.min_audit_labels
        )

    def _forecast(
        self,
        figure: IntervalEstimate,
        estimate: IntervalEstimate | None,
        evaluations: dict[str, ControlEvaluation],
    ) -> Outlook | None:
        # the forecast is of the figure that is displayed
        is_audited = figure.is_conclusive or estimate is None
        current = figure if is_audited else estimate
        if current is None or current.value is None or not current.is_conclusive:
            return None
        trained_count = sum(
            not self._observation.is_audit(task) for task in self._observation.labeled
        )
        points = self._curve_points(is_audited, current.metric)
        points.append(CurvePoint(trained_count, 1 - current.value, current.n))
        rng = np.random.default_rng(self._settings.seed)
        curve = learning_curve.fit_learning_curve(points, rng)
        goal = next((goal for goal in ACCURACY_GOALS if goal > current.value), ACCURACY_GOALS[-1])
        agreement = self._agreement_with_live()
        weakest_labels = learning_curve.rank_weakest_labels(
            curve, self._missed_by_label(evaluations), goal, rng
        )
        return Outlook(
            learning_curve.describe_forecast(curve, current, goal, self._open_images),
            tuple(
                LabelNeed(name, low, high, learning_curve.format_range(low, high))
                for name, low, high in weakest_labels
            ),
            stop=bool(self._open_images) and learning_curve.should_stop_labeling(curve, agreement),
            agreement=agreement,
            curve=_curve_predictions(curve, self._open_images),
            source="audit set" if is_audited else "cross-validation",
        )

    def _curve_points(self, is_audited: bool, metric: str) -> list[CurvePoint]:
        curve_points = []
        for card in self._versions.cards():
            recorded = card.audit if is_audited else card.estimate
            if recorded is None or recorded.value is None or recorded.metric != metric:
                continue
            if not recorded.is_conclusive or not card.labels.train or card.is_quick:
                continue
            if self._has_similar_sizes(card):
                curve_points.append(CurvePoint(card.labels.train, 1 - recorded.value, recorded.n))
        return curve_points

    def _has_similar_sizes(self, card: VersionCard) -> bool:
        """Return whether a version's points were evaluated with similar object sizes."""
        control = self._controls[0]
        if self._choice_controls or not control.is_points:
            return True
        previous_sizes = card.control(control.name).object_sizes
        current_sizes = self._object_sizes[control.name]
        return previous_sizes.keys() == current_sizes.keys() and all(
            max(previous_sizes[label], side) <= MAX_SIZE_RATIO * min(previous_sizes[label], side)
            for label, side in current_sizes.items()
        )

    def _missed_by_label(self, evaluations: dict[str, ControlEvaluation]) -> dict[str, LabelMisses]:
        """Return label → misses on the audit set, for labels with enough audit examples."""
        missed = {}
        for control in self._controls:
            counts = self._label_counts(control)
            for label, row in evaluations[control.name].metrics["labels"].items():
                figure = row.get("intervals", row)["recall"]
                if figure["n"] >= MIN_FIGURE_IMAGES and figure["value"] is not None:
                    wrong = round((1 - figure["value"]) * figure["n"])
                    missed[label] = LabelMisses(
                        wrong,
                        figure["n"],
                        counts.get(label, 0),
                        self._open_images if control.is_choices else None,
                    )
        return missed

    @property
    def _open_images(self) -> int:
        """Number of images without a label that can become training images."""
        return sum(
            task.open and not self._observation.is_audit(task) for task in self._observation.tasks
        )

    def _label_counts(self, control: Control) -> dict[str, int]:
        if control.is_choices:
            return metrics.count_choice_labels(control, self._fit.examples(control))
        return metrics.count_region_labels(control, self._fit.samples(control))

    def _agreement_with_live(self) -> float | None:
        """Return Cohen's kappa between the new and the live heads on all images.

        None if their encoders differ, or if a head is missing.
        """
        label_strings: tuple[list[str], list[str]] = ([], [])
        live_encoder_id = self._fit.live_card.encoder.id if self._fit.live_card else ""
        if (
            self._choice_controls
            and live_encoder_id
            and live_encoder_id != self._session.resources.encoder().id
        ):
            return None
        for control in self._choice_controls:
            heads = [m.heads.get(control.name) for m in (self._fit.live_model, self._model)]
            pool = self._fit.embedding_pool(control)
            if not len(pool) or any(h is None or h.weight.shape[1] != pool.shape[1] for h in heads):
                return None
            for model_labels, head in zip(label_strings, heads, strict=True):
                rows = head.probabilities(pool) if head else pool[:0]
                names = head.labels if head else ()
                choices = (
                    predict_choice(control, names, row, metrics.UNKNOWN_IMAGE_SIZE) for row in rows
                )
                model_labels += ["+".join(sorted(choice.labels)) for choice in choices]
        return learning_curve.cohen_kappa(*label_strings)


def _curve_predictions(
    curve: learning_curve.LearningCurve | None, open_images: int
) -> tuple[CurvePrediction, ...]:
    """Sample the curve from the current number of labels to that of all images."""
    if curve is None or not open_images:
        return ()
    last = min(curve.max_labels, curve.label_count + open_images)
    steps = np.linspace(curve.label_count, last, min(5, last - curve.label_count + 1))
    rows = [(round(float(step)), *curve.predict_error(float(step))) for step in steps]
    return tuple(
        CurvePrediction(n, round(1 - m, 4), round(1 - h, 4), round(1 - low, 4))
        for n, m, low, h in rows
    )


def _audit_predictions(evaluations: Mapping[str, ControlEvaluation]) -> AuditPredictions:
    """Return the answers of all controls by task."""
    tasks: dict[int, dict[str, AuditAnswer]] = {}
    for control, evaluation in evaluations.items():
        for task, answer in evaluation.answers.items():
            tasks.setdefault(task, {})[control] = answer
    return AuditPredictions(tasks)


def _is_early(evaluation: ControlEvaluation, detector: Detector | None) -> bool:
    """Return whether too few audit images are labeled to trust a threshold of training images.

    On images that the detector was trained on, detections of 10 to 15 % still look right. The
    threshold of a quick detector is chosen by cross-validation.
    """
    is_cross_validated = isinstance(detector, ProbeDetector)
    return evaluation.figure.n < MIN_FIGURE_IMAGES and not is_cross_validated


def _published_from(
    control: Control, evaluation: ControlEvaluation, detector: Detector | None
) -> float:
    """Return the confidence from which regions are published."""
    tuned: float = evaluation.metrics["shown"]
    is_raised = _is_early(evaluation, detector) and not control.threshold
    return max(tuned, DEFAULT_CONFIDENCE_THRESHOLD) if is_raised else tuned
