"""Quality gate: decide whether a trained model may replace the live version.

The model is compared on the audit set with the live version and with the best earlier one, so that
small losses do not accumulate. Recent labels are checked for contradictions with the predictions of
the live version and its ancestors.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from backend.arrays import Floats, Indices
from backend.domain import Control
from backend.errors import PrelabelError
from backend.inference.detections import RegionSample
from backend.inference.model import Model
from backend.learning.contradiction import (
    AnsweredQuestions,
    ContradictionResult,
    ProbabilityCalibration,
    measure_contradiction,
)
from backend.learning.rejection import measure_rejection
from backend.learning.version_comparison import (
    PAST_VERSION_SIGNIFICANCE,
    GateVerdict,
    check_recent_labels,
    combine_verdicts,
    compare_detections,
    compare_label_sets,
)
from backend.loop.evaluate import metrics
from backend.loop.evaluate.metrics import ControlEvaluation
from backend.loop.evaluate.past_versions import PastVersions, align_probabilities
from backend.loop.model_trainer import ModelTrainer
from backend.loop.observe import Observation
from backend.runtime.project_session import ProjectSession
from backend.store.versions import VersionCard
from backend.vision.detection.trained_detector import Detector

log = logging.getLogger("prelabel")
RETENTION_IMAGES = 40
"""Number of latest training images on which a new detector must not be worse."""
MAX_WINDOW_LABELS = 60
"""Maximum number of labels in a window that spans several versions."""
WINDOW_GROWTH = 1.5
"""Minimum factor between the sizes of successive windows."""
CALIBRATION_IMAGE_COUNT = 150
"""Number of images on which past predictions are calibrated."""
MAX_CHECKED_IMAGES = 100
"""Maximum number of images on which the detector of a past version is run."""
CrossValidated = Mapping[str, tuple[Indices, Floats]]
"""Control → rows of its examples and their out-of-fold probabilities, (rows, K)."""


class QualityGate:
    """Compares a trained model with the live version and its ancestors.

    Args:
        session: the project's session.
        observation: the observation that the model was trained on.
        fit: the trainer of the model; there is a live version.
        model: the model.
        cross_validated: out-of-fold probabilities of its training images.
        object_sizes: point control → label → object size, used for both versions.
    """

    def __init__(
        self,
        session: ProjectSession,
        observation: Observation,
        fit: ModelTrainer,
        model: Model,
        cross_validated: CrossValidated,
        object_sizes: Mapping[str, Mapping[str, float]],
    ) -> None:
        self._session = session
        self._observation = observation
        self._fit = fit
        self._model = model
        self._cross_validated = cross_validated
        self._object_sizes = object_sizes
        self._past_versions = PastVersions(session, observation, fit)
        self._live_name = f"the live version {self._past_versions.live.version}"

    def decide(self, evaluations: Mapping[str, ControlEvaluation]) -> GateVerdict:
        """Decide whether the model goes live.

        Args:
            evaluations: control → evaluation on the audit set.
        """
        verdicts: list[GateVerdict] = []
        for control in self._observation.config.controls:
            if control.is_choices:
                verdicts += self._choice_verdicts(control, evaluations[control.name])
            elif control.name in self._fit.live_model.detectors:
                verdicts += self._region_verdicts(control, evaluations[control.name])
        return combine_verdicts(verdicts)

    # -- choices ----------------------------------------------------------------------------

    def _choice_verdicts(
        self, control: Control, evaluation: ControlEvaluation
    ) -> list[GateVerdict]:
        if self._past_versions.examples(control) is None:
            reason = self._past_versions.unavailable_reason
            message = f"Not compared with {self._live_name}: {reason.rstrip('.')}."
            return [GateVerdict(True, message, {"blind": reason})]
        windows = self._label_windows(control)
        return [
            self._compare_with_live(self._fit.live_model, control, evaluation),
            self._compare_with_best(control, evaluation),
            check_recent_labels(windows),
        ]

    def _compare_with_live(
        self, previous_model: Model, control: Control, evaluation: ControlEvaluation
    ) -> GateVerdict:
        previously_correct = self._correct_by_task(previous_model, control)
        tasks = [task for task in evaluation.correct if task in previously_correct]
        return compare_label_sets(
            [previously_correct[task] for task in tasks],
            [evaluation.correct[task] for task in tasks],
            self._live_name,
        )

    def _compare_with_best(self, control: Control, evaluation: ControlEvaluation) -> GateVerdict:
        """Compare with the best earlier version on the same audit images."""
        best_correct: dict[int, bool] = {}
        best_version = ""
        for card in self._past_versions.judged_lineage[1:]:
            head = self._past_versions.head(card, control)
            if head is None or head.labels != control.label_names:
                continue
            previously_correct = self._correct_by_task(Model({control.name: head}), control)
            if sum(previously_correct.values()) > sum(best_correct.values()):
                best_correct, best_version = previously_correct, card.version
        tasks = [task for task in evaluation.correct if task in best_correct]
        correct_pairs = (
            [best_correct[task] for task in tasks],
            [evaluation.correct[task] for task in tasks],
        )
        verdict = compare_label_sets(
            *correct_pairs,
            f"version {best_version}, which was live before,",
            PAST_VERSION_SIGNIFICANCE,
        )
        return verdict if not verdict.is_passed else GateVerdict(True, "", verdict.evidence)

    def _correct_by_task(self, model: Model, control: Control) -> dict[int, bool]:
        """Return audit task → whether a model that uses the live encoder is correct."""
        examples = self._past_versions.examples(control)
        if examples is None:
            return {}
        rows = np.flatnonzero(examples.audit_mask).tolist()
        return metrics.evaluate_choices(model, control, examples, rows).correct

    def _label_windows(self, control: Control) -> list[tuple[str, ContradictionResult]]:
        """Test the labels since the live version, and longer windows since its ancestors."""
        label_windows: list[tuple[str, ContradictionResult]] = []
        window_size = 0
        for card in self._past_versions.judged_lineage:
            rows = self._past_versions.new_rows_since(card, control)
            parts = [self._past_versions.label_probabilities(card, control, rows)]
            if card is self._past_versions.live:
                parts.append(self._changed_labels(control))
            elif len(rows) > MAX_WINDOW_LABELS:
                break
            elif len(rows) < WINDOW_GROWTH * window_size:
                continue
            nonempty_parts = [
                part for part in parts if part is not None and len(part.answer_columns)
            ]
            if nonempty_parts:
                window_size = len(rows)
                earlier = self._past_versions.earlier_probabilities(
                    card, control, CALIBRATION_IMAGE_COUNT
                )
                calibration = (
                    ProbabilityCalibration.fit(earlier) if earlier else ProbabilityCalibration()
                )
                rng = np.random.default_rng(self._session.settings.seed)
                merged = AnsweredQuestions.concatenate(nonempty_parts)
                result = measure_contradiction(merged, calibration, rng)
                label_windows.append((card.version, result))
        return label_windows

    def _changed_labels(self, control: Control) -> AnsweredQuestions | None:
        """Return labels changed since the live version, with out-of-fold probabilities.

        The live version was trained on the old labels, so its probabilities would count each
        correction of a wrong label as a contradiction. Out-of-fold heads do not.
        """
        if control.name not in self._cross_validated or control.name not in self._model.heads:
            return None
        rows, probabilities = self._cross_validated[control.name]
        examples, live = self._fit.examples(control), self._past_versions.live
        changed_indices = [
            index
            for index, row in enumerate(rows)
            if self._past_versions.is_changed_since(live, control, examples.task_ids[row])
            and not self._past_versions.is_new_since(live, control, examples.task_ids[row])
        ]
        if not changed_indices:
            return None
        labels = self._model.heads[control.name].labels
        selected_rows = [int(rows[index]) for index in changed_indices]
        return align_probabilities(
            control, labels, probabilities[changed_indices], examples, selected_rows
        )

    # -- boxes and points -------------------------------------------------------------------

    def _region_verdicts(
        self, control: Control, evaluation: ControlEvaluation
    ) -> list[GateVerdict]:
        live_detector = self._fit.live_model.detectors[control.name]
        new_detector = self._model.detectors.get(control.name)
        if live_detector is new_detector:
            return [GateVerdict(True, "The detector is unchanged.", {})]
        audit_samples = [sample for sample in self._fit.samples(control) if sample.is_audit]
        live_evaluation = self._evaluate_detector(live_detector, control, audit_samples)
        tasks = list(evaluation.tallies)
        return [
            compare_detections(
                _tally_counts(live_evaluation, tasks),
                _tally_counts(evaluation, tasks),
                self._live_name,
            ),
            self._check_retention(control, live_detector, new_detector),
            check_recent_labels(
                self._detector_contradictions(control, live_detector), "detections"
            ),
        ]

    def _evaluate_detector(
        self, detector: Detector | None, control: Control, samples: Sequence[RegionSample]
    ) -> ControlEvaluation:
        return metrics.evaluate_regions(
            detector, control, samples, self._object_sizes.get(control.name, {})
        )

    def _check_retention(
        self, control: Control, live_detector: Detector, new_detector: Detector | None
    ) -> GateVerdict:
        """Check that a new detector is not worse on its latest training images.

        This detects training that stopped too early without using audit images. It is biased in
        favour of the new detector, because the live one was not trained on the latest images.
        """
        samples = [s for s in self._fit.samples(control) if not s.is_audit][-RETENTION_IMAGES:]
        if not samples:
            return GateVerdict(True, "", {})
        tasks = [sample.task_id for sample in samples]
        live_evaluation, new_evaluation = (
            self._evaluate_detector(detector, control, samples)
            for detector in (live_detector, new_detector)
        )
        verdict = compare_detections(
            _tally_counts(live_evaluation, tasks),
            _tally_counts(new_evaluation, tasks),
            self._live_name,
            image_noun="latest training images",
        )
        return verdict if not verdict.is_passed else replace(verdict, reason="")

    def _detector_contradictions(
        self, control: Control, live_detector: Detector
    ) -> list[tuple[str, ContradictionResult]]:
        """Test whether people reject detections of the live version and of an older one."""
        contradictions = [
            (
                self._past_versions.live.version,
                self._contradiction_since(self._past_versions.live, live_detector, control),
            )
        ]
        new_count = len(self._unseen_samples(self._past_versions.live, control))
        older_cards = [
            card
            for card in self._past_versions.judged_lineage[1:]
            if WINDOW_GROWTH * new_count
            <= len(self._unseen_samples(card, control))
            <= MAX_WINDOW_LABELS
        ]
        detector = self._version_detector(older_cards[-1], control) if older_cards else None
        if detector is not None:
            contradictions.append(
                (
                    older_cards[-1].version,
                    self._contradiction_since(older_cards[-1], detector, control),
                )
            )
        return contradictions

    def _contradiction_since(
        self, card: VersionCard, detector: Detector, control: Control
    ) -> ContradictionResult:
        """Compare rejections since a version with those among the labels it was trained with.

        The reference are its detections on its audit images, and its parent's detections on those
        of its training images that the parent was not trained on.
        """
        past_versions, samples = self._past_versions, self._fit.samples(control)
        unchanged = [
            s for s in samples if not past_versions.is_changed_since(card, control, s.task_id)
        ]
        trusted_detections = self._scored_detections(
            detector, control, [s for s in unchanged if s.is_audit][-MAX_CHECKED_IMAGES:]
        )
        index = list(past_versions.lineage).index(card)
        parent = (
            past_versions.lineage[index + 1] if index + 1 < len(past_versions.lineage) else None
        )
        parent_detector = self._version_detector(parent, control) if parent else None
        if parent is not None and parent_detector is not None:
            training_samples = [
                s
                for s in unchanged
                if not s.is_audit and past_versions.is_new_since(parent, control, s.task_id)
            ]
            trusted_detections += self._scored_detections(
                parent_detector, control, training_samples[-MAX_CHECKED_IMAGES:]
            )
        new_detections = self._scored_detections(
            detector, control, self._unseen_samples(card, control)[-MAX_CHECKED_IMAGES:]
        )
        return measure_rejection(trusted_detections, new_detections)

    def _unseen_samples(self, card: VersionCard, control: Control) -> list[RegionSample]:
        """Return the images with labels that a version was neither trained nor evaluated on."""
        return [
            sample
            for sample in self._fit.samples(control)
            if self._past_versions.is_new_since(card, control, sample.task_id)
            or (
                sample.is_audit
                and self._past_versions.is_changed_since(card, control, sample.task_id)
            )
        ]

    def _scored_detections(
        self, detector: Detector, control: Control, samples: Sequence[RegionSample]
    ) -> list[list[tuple[float, bool]]]:
        """Return the confidence and correctness of each published region, by image."""
        return metrics.correctness_by_image(
            detector, control, samples, self._object_sizes.get(control.name, {})
        )

    def _version_detector(self, card: VersionCard, control: Control) -> Detector | None:
        """Load a version's detector; None if it has none or its files are damaged."""
        try:
            model = self._session.model(card.version)
        except PrelabelError as error:
            log.warning("project %s: %s", self._session.id, error)
            return None
        return model.detectors.get(control.name)


def _tally_counts(
    evaluation: ControlEvaluation, tasks: Sequence[int]
) -> list[tuple[int, int, int]]:
    rows = [evaluation.tallies[task] for task in tasks]
    return [(row.true_positives, row.predicted, row.actual) for row in rows]
