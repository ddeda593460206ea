"""Whether a project asks the right question, by its own labels: see ``learning.advising``."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backend.arrays import Bools, Floats, Ints
from backend.callbacks import LogCallback
from backend.domain import Control, Label, Regions
from backend.errors import RoundError
from backend.inference.detections import RegionSample, confidence_threshold, predict_samples
from backend.inference.embed import EmbeddingResult
from backend.inference.images import image_sources
from backend.learning import labeling_advice
from backend.learning.labeling_advice import (
    LabelingComparison,
    LabelingPredictions,
    ObjectStatistics,
)
from backend.loop.fit import ModelTrainer
from backend.loop.observe import Observation, fetch_fingerprint, observe
from backend.runtime.project_session import ProjectSession
from backend.training.detector import DetectorTrainingJob
from backend.training.head import ChoiceExamples, HeadTrainingJob, train_head
from backend.vision.detection.trained_detector import Detector
from backend.vision.encoders.base import Encoder
from backend.vision.heads.calibration import assign_folds

MIN_AUDIT_IMAGES = 20
"""Labeled audit images from which on they are what both ways are compared on."""
MIN_LABELED_IMAGES = 12
"""Labeled images below which nothing is compared."""
CROSS_VALIDATION_FOLDS = 3
"""Parts of the cross-validation: a detector is trained for each."""
TIME_LIMIT_SHARE = 0.8
"""Share of the time from which on training counts as cut short by it."""
AUDIT_BASIS, CROSS_VALIDATION_BASIS = "the audit slice", "cross-validation"


@dataclass(frozen=True)
class Advice:
    """What is advised for one control.

    Attributes:
        control: its name.
        kind: how it is answered today.
        figures: all figures, as plain JSON.
        sentences: the recommendation in plain words.
    """

    control: str
    kind: str
    figures: dict[str, Any]
    sentences: list[str]

    def json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "control": self.control,
            "kind": self.kind,
            **self.figures,
            "advice": self.sentences,
        }


class Adviser:
    """Advises on one project; changes nothing of it.

    Args:
        session: of the project.
        seconds: that training for the comparison may take in all.
        report: told what it does now.
    """

    def __init__(self, session: ProjectSession, seconds: float, report: LogCallback) -> None:
        self._session = session
        self._time_budget = seconds
        self._report = report

    def advise(self) -> list[Advice]:
        """By control of boxes or points; where there is none, by control of choices.

        Raises:
            RoundError: nothing is labeled yet.
            PrelabelError: Label Studio or an image cannot be reached.
        """
        connection = self._session.connection
        folder = self._session.folder
        observation = observe(connection, folder, fetch_fingerprint(connection))
        if not observation.labeled:
            raise RoundError(
                f"Nothing is labeled yet: label about {MIN_LABELED_IMAGES} images, then ask again."
            )
        region_controls = [c for c in observation.config.controls if not c.is_choices]
        if not region_controls:
            return [self._advise_choices(control) for control in observation.config.controls]
        encoder = self._session.live_encoder()
        embeddings = self._embed(observation, encoder)
        fit = ModelTrainer(
            self._session,
            observation,
            encoder,
            embeddings,
            lambda state, progress, detail: self._report(detail or state),
        )
        return [
            self._advise_regions(control, fit, observation, encoder, embeddings)
            for control in region_controls
        ]

    def _embed(self, observation: Observation, encoder: Encoder) -> EmbeddingResult:
        return self._session.embedder(encoder).embed(
            image_sources(observation.tasks, observation.config.controls),
            lambda done, total: self._report(f"looking at images: {done} of {total}"),
        )

    # -- whole images -------------------------------------------------------------------------

    def _advise_choices(self, control: Control) -> Advice:
        card = self._session.versions.live_card()
        figure = card.control(control.name).audit if card else None
        current = (
            f"Whole images are sorted in this project: {figure.value:.0%} right "
            f"({figure.low:.0%} to {figure.high:.0%}, on {figure.n} audit images)."
            if figure and figure.value is not None
            else "Whole images are sorted in this project; how well is not known yet."
        )
        suggestion = (
            "Nothing is marked in it, so whether marks would do better cannot be measured here. "
            "Where place or number matters, or what decides is a small part of the picture, mark "
            f"{2 * MIN_LABELED_IMAGES} of the images in a project of their own "
            "(prelabel init FOLDER --new "
            "--goal find), and ask this of that project."
        )
        return Advice(
            control.name,
            control.kind,
            {"audit": figure.to_json() if figure else None},
            [current, suggestion],
        )

    # -- marks --------------------------------------------------------------------------------

    def _advise_regions(
        self,
        control: Control,
        fit: ModelTrainer,
        observation: Observation,
        encoder: Encoder,
        embeddings: EmbeddingResult,
    ) -> Advice:
        address_by_task = {
            task.id: task.images.get(control.image_key, "") for task in observation.tasks
        }
        vector_by_address = embeddings.vectors
        samples = [
            s for s in fit.samples(control) if address_by_task[s.task_id] in vector_by_address
        ]
        objects = object_statistics(samples, control)
        points = control.is_points
        figures: dict[str, Any] = {
            "things": objects.to_json(),
            "labels": {
                name: object_statistics(samples, control, name).to_json()
                for name in control.label_names
            },
        }
        comparison = _ApproachComparison(self._session, control, fit, encoder, self._report)
        vectors = np.array(
            [vector_by_address[address_by_task[s.task_id]] for s in samples], dtype=np.float32
        )
        result = comparison.compare(samples, vectors, self._time_budget)
        if result is None:
            message = (
                f"{len(samples)} images are labeled; from {MIN_LABELED_IMAGES} on, with things in "
                f"{MIN_LABELED_IMAGES // 2} of them, sorting and marking are compared."
            )
            return Advice(control.name, control.kind, figures | {"by": None}, [message])
        basis, presence, count = result
        figures |= {"by": basis, "presence": presence.to_json(), "count": count.to_json()}
        sentences = labeling_advice.recommend_labeling(objects, presence, count, points)
        if comparison.hit_time_limit:
            sentences.append(
                "The detectors of this comparison had "
                f"{self._time_budget / CROSS_VALIDATION_FOLDS:.0f} seconds of "
                f"training each, a round has {self._session.settings.train_seconds:.0f}: marks "
                f"may do better than they look here. Give them more with --seconds."
            )
        figures["cut_short"] = comparison.hit_time_limit
        return Advice(control.name, control.kind, figures, sentences)


class _ApproachComparison:
    """Both ways, tried on images that they did not learn from.

    Attributes:
        hit_time_limit: a detector that was trained for it took nearly all the time it might.
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
        """On the audit slice where it is large enough, else by cross-validation on the others.

        Returns:
            on what, "is it there?", "how many?"; None where too few images are labeled.
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
            self._report(f"comparing: part {fold + 1} of {CROSS_VALIDATION_FOLDS}")
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
                f"comparing: part {fold + 1} of {CROSS_VALIDATION_FOLDS}, "
                f"{name} epoch {done} of {total}"
            )

        started_at = time.monotonic()
        detector, _ = resources.compute.train_detector(
            DetectorTrainingJob(
                control=self._control,
                samples=samples,
                base_network=resources.base_network,
                previous=None,  # the live one has seen what is held out
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

    # -- the two ways ---------------------------------------------------------------------------

    def _classify_images(
        self,
        samples: Sequence[RegionSample],
        vectors: Floats,
        trained_on: Bools,
        held_out: Bools,
    ) -> LabelingPredictions:
        """Classify whole images: is each label there, and how often."""
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
        """Counting as sorting: a bucket for each number."""
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
        """(held, K) confidence of a head that learned from the other images."""
        rows = np.flatnonzero(trained_on).tolist()
        all_labels = frozenset(control.label_names)
        use_text = control.multiple  # numbers look like nothing in words
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
        assert head is not None  # noqa: S101 - the caller checked
        return head.probabilities(vectors[held_out])

    def _detect(
        self, detector: Detector | None, samples: Sequence[RegionSample]
    ) -> LabelingPredictions:
        """Count what a finder finds."""
        min_confidence = confidence_threshold(detector, self._control) if detector else 1.0
        images = predict_samples(detector, self._control, samples)
        shown_regions = [
            tuple(
                p
                for p, c in zip(image.detections, image.confidence, strict=True)
                if c >= min_confidence
            )
            for image in images
        ]
        counts = _label_counts(shown_regions, self._control)
        return LabelingPredictions(counts > 0, counts)


def object_statistics(
    samples: Sequence[RegionSample], control: Control, label: str = ""
) -> ObjectStatistics:
    """What is marked, of one label or of all; points have the size of boxes of the same label."""
    region_lists = [[p for p in s.regions if label in ("", p.label)] for s in samples]
    box_lists = [s.regions if control.kind == "boxes" else s.other_boxes for s in samples]
    sides = [
        math.sqrt((p.x1 - p.x0) * (p.y1 - p.y0))
        for regions in box_lists
        for p in regions
        if label in ("", p.label)
    ]
    counts = np.array([len(regions) for regions in region_lists], dtype=np.float64)
    return ObjectStatistics(
        len(samples), int((counts == 0).sum()), counts, np.array(sides, dtype=np.float64)
    )


def region_label_counts(samples: Sequence[RegionSample], control: Control) -> Ints:
    """(n, K) how often each label of a control is marked in each image."""
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
