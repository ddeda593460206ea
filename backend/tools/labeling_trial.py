"""Compare classification and detection on held-out images of a project."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from backend.arrays import Bools, Floats, Ints
from backend.callbacks import LogCallback
from backend.domain import Control, Label, Regions
from backend.inference.detections import (
    RegionSample,
    ScoredRegions,
    confidence_threshold,
    filter_regions,
    predict_samples,
)
from backend.learning import labeling_advice
from backend.learning.labeling_advice import LabelingComparison, LabelingPredictions
from backend.loop.evaluate.assess import MIN_AUDIT_IMAGES
from backend.loop.evaluate.metrics import UNKNOWN_IMAGE_SIZE
from backend.loop.model_trainer import ModelTrainer
from backend.runtime.project_session import ProjectSession
from backend.training.detector import DetectorTrainingJob
from backend.training.head import ChoiceExamples, HeadTrainingJob, train_head
from backend.vision.detection.trained_detector import Detector
from backend.vision.encoders.base import Encoder
from backend.vision.heads.calibration import assign_folds

MIN_LABELED_IMAGES = 12
"""Minimum number of labeled images for a comparison."""
CROSS_VALIDATION_FOLDS = 3
"""Number of folds; a detector is trained for each."""
TIME_LIMIT_SHARE = 0.8
"""Share of the time limit from which training counts as stopped by it."""
AUDIT_BASIS, CROSS_VALIDATION_BASIS = "the audit set", "cross-validation"


class LabelingTrial:
    """Compares classification and detection of the labels of one control.

    Args:
        session: session of the project.
        control: control of boxes or points.
        fit: trainer with the live model.
        encoder: encoder for classification.
        report: called with a line of progress.

    Attributes:
        hit_time_limit: whether a detector was trained for nearly all of its time limit.
    """

    def __init__(
        self,
        session: ProjectSession,
        control: Control,
        fit: ModelTrainer,
        encoder: Encoder,
        report: LogCallback,
    ) -> None:
        self._session = session
        self._control = control
        self._live_detector: Detector | None = fit.live_model.detectors.get(control.name)
        self._encoder = encoder
        self._report = report
        self.hit_time_limit = False

    def compare(
        self, samples: Sequence[RegionSample], vectors: Floats, seconds: float
    ) -> tuple[str, LabelingComparison, LabelingComparison] | None:
        """Compare on the audit set if it is large enough, else by cross-validation.

        Args:
            samples: n labeled images.
            vectors: (n, d) embeddings of the images.
            seconds: time limit for training all folds.

        Returns:
            the evaluation method, and the comparisons of presence and of counts; None with too few
            images.
        """
        is_audit = np.array([sample.is_audit for sample in samples], dtype=bool)
        if (
            is_audit.sum() >= MIN_AUDIT_IMAGES
            and self._live_detector is not None
            and self._live_detector.class_mapping.learned
        ):
            audit_samples = [s for s in samples if s.is_audit]
            classification = self._classify_images(samples, vectors, ~is_audit, is_audit)
            result = (
                AUDIT_BASIS,
                audit_samples,
                classification,
                self._detect(self._live_detector, audit_samples),
            )
        else:
            rows = np.flatnonzero(~is_audit).tolist()
            training_samples = [samples[row] for row in rows]
            marked_count = sum(bool(sample.regions) for sample in training_samples)
            if len(training_samples) < MIN_LABELED_IMAGES or marked_count < MIN_LABELED_IMAGES // 2:
                return None
            result = (
                CROSS_VALIDATION_BASIS,
                training_samples,
                *self._cross_validate(training_samples, vectors[rows], seconds),
            )
        basis, evaluated, classification, detection = result
        truth = region_label_counts(evaluated, self._control)
        presence = labeling_advice.compare_presence_accuracy(classification, detection, truth)
        return (
            basis,
            presence,
            labeling_advice.compare_counting_errors(classification, detection, truth),
        )

    def _cross_validate(
        self, samples: Sequence[RegionSample], vectors: Floats, seconds: float
    ) -> tuple[LabelingPredictions, LabelingPredictions]:
        truth = region_label_counts(samples, self._control)
        fold_of = assign_folds(
            (truth > 0).astype(np.float32),
            CROSS_VALIDATION_FOLDS,
            np.random.default_rng(self._session.settings.seed),
        )
        classification, detection = _empty_result(truth.shape), _empty_result(truth.shape)
        for fold in range(CROSS_VALIDATION_FOLDS):
            held_out = fold_of == fold
            self._report(f"comparing: fold {fold + 1} of {CROSS_VALIDATION_FOLDS}")
            training_samples = [
                s for s, is_held_out in zip(samples, held_out, strict=True) if not is_held_out
            ]
            detector = self._train_detector(
                training_samples, seconds / CROSS_VALIDATION_FOLDS, fold
            )
            _fill_fold(
                classification,
                held_out,
                self._classify_images(samples, vectors, ~held_out, held_out),
            )
            _fill_fold(
                detection,
                held_out,
                self._detect(detector, [samples[i] for i in np.flatnonzero(held_out).tolist()]),
            )
        return classification, detection

    def _train_detector(
        self, samples: Sequence[RegionSample], seconds: float, fold: int
    ) -> Detector | None:
        resources, name = self._session.resources, self._control.name

        def report_epoch(done: int, total: int) -> None:
            self._report(
                f"comparing: fold {fold + 1} of {CROSS_VALIDATION_FOLDS}, {name} epoch {done} "
                f"of {total}"
            )

        started_at = time.monotonic()
        detector, _ = resources.compute.train_detector(
            DetectorTrainingJob(
                control=self._control,
                samples=samples,
                base_network=resources.base_network,
                previous=None,  # the live detector was trained on the held-out images
                input_size=self._session.settings.detector_size,
                max_seconds=seconds,
                seed=self._session.settings.seed,
                load_runner=resources.load_network_runner,
                prompts=self._session.prompts(),
                report=report_epoch,
                cancelled=lambda: False,
                base_setting=resources.base_weights.setting,
            )
        )
        self.hit_time_limit |= time.monotonic() - started_at >= TIME_LIMIT_SHARE * seconds
        return detector

    # -- classification and detection -----------------------------------------------------------

    def _classify_images(
        self,
        samples: Sequence[RegionSample],
        vectors: Floats,
        trained_on: Bools,
        held_out: Bools,
    ) -> LabelingPredictions:
        """Predict the presence and count of each label in held-out images by classification."""
        truth = region_label_counts(samples, self._control)
        control = replace(self._control, kind="choices", multiple=True)
        present_labels = [
            frozenset(n for n, c in zip(control.label_names, row, strict=True) if c)
            for row in truth
        ]
        probabilities = self._head_probabilities(
            control, present_labels, vectors, trained_on, held_out
        )
        columns = [
            self._classify_counts(column, vectors, trained_on, held_out) for column in truth.T
        ]
        return LabelingPredictions(probabilities >= 0.5, np.stack(columns, axis=1))

    def _classify_counts(
        self,
        column: Ints,
        vectors: Floats,
        trained_on: Bools,
        held_out: Bools,
    ) -> Ints:
        """Predict the counts of one label with a classifier that has a class per bin of counts."""
        bins = labeling_advice.choose_count_bins(column[trained_on])
        if len(bins) == 1:
            return np.full(int(held_out.sum()), bins[0], dtype=np.int64)
        names = tuple(Label(str(count_bin)) for count_bin in bins)
        control = replace(self._control, kind="choices", multiple=False, labels=names)
        binned_counts = [
            frozenset([str(labeling_advice.nearest_bin(int(c), bins))]) for c in column
        ]
        probabilities = self._head_probabilities(
            control, binned_counts, vectors, trained_on, held_out
        )
        return np.array([bins[index] for index in probabilities.argmax(axis=1)], dtype=np.int64)

    def _head_probabilities(
        self,
        control: Control,
        label_sets: Sequence[frozenset[str]],
        vectors: Floats,
        trained_on: Bools,
        held_out: Bools,
    ) -> Floats:
        """Return (h, K) probabilities of h held-out images from a head trained on the others."""
        rows = np.flatnonzero(trained_on).tolist()
        all_labels = frozenset(control.label_names)
        use_text = control.multiple  # counts have no useful text embedding
        head = train_head(
            HeadTrainingJob(
                control=control,
                examples=ChoiceExamples(
                    task_ids=tuple(rows),
                    vectors=vectors[rows],
                    answers=tuple(label_sets[row] for row in rows),
                    available_labels=(all_labels,) * len(rows),
                    audit_mask=np.zeros(len(rows), dtype=bool),
                ),
                pool=vectors,
                prototypes=self._session.resources.prototypes(self._encoder, control)
                if use_text
                else None,
                logit_scale=self._encoder.logit_scale,
                logit_bias=self._encoder.logit_bias,
                previous=None,
                seed=self._session.settings.seed,
            )
        )
        assert head is not None  # noqa: S101
        return head.probabilities(vectors[held_out])

    def _detect(
        self, detector: Detector | None, samples: Sequence[RegionSample]
    ) -> LabelingPredictions:
        """Predict the presence and count of each label by detection."""
        min_confidence = confidence_threshold(detector, self._control) if detector else 1.0
        images = predict_samples(detector, self._control, samples)
        published = [
            filter_regions(
                self._control.name,
                ScoredRegions(image.detections, image.confidence),
                min_confidence,
                UNKNOWN_IMAGE_SIZE,
            ).regions
            for image in images
        ]
        counts = _label_counts(published, self._control)
        return LabelingPredictions(counts > 0, counts)


def region_label_counts(samples: Sequence[RegionSample], control: Control) -> Ints:
    """Return the number of regions of each label in each image, (n, K)."""
    return _label_counts([sample.regions for sample in samples], control)


def _label_counts(region_lists: Sequence[Regions], control: Control) -> Ints:
    names = control.label_names
    rows = [[sum(p.label == name for p in regions) for name in names] for regions in region_lists]
    return np.array(rows, dtype=np.int64).reshape(len(region_lists), len(names))


def _empty_result(shape: tuple[int, ...]) -> LabelingPredictions:
    return LabelingPredictions(np.zeros(shape, dtype=bool), np.zeros(shape, dtype=np.int64))


def _fill_fold(
    target: LabelingPredictions, held_out: Bools, fold_result: LabelingPredictions
) -> None:
    target.is_present[held_out] = fold_result.is_present
    target.counts[held_out] = fold_result.counts
