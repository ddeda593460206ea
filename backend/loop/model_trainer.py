"""Train a model on a snapshot of labels: a head or a detector per control."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from backend.arrays import Floats, Indices
from backend.callbacks import StateCallback
from backend.card_records import ComputeCost
from backend.domain import Control, ImageSize
from backend.errors import (
    DamagedFileError,
    ImageError,
    LongRoundError,
    NotFoundError,
    RoundError,
)
from backend.inference.detections import RegionSample
from backend.inference.embed import EmbeddingResult
from backend.inference.images import ImageSource, ProjectImages
from backend.inference.model import Model
from backend.loop.observe import Observation, label_table
from backend.loop.training_progress import TrainingProgress
from backend.runtime.project_session import ProjectSession
from backend.store.versions import VersionCard
from backend.training.detector import (
    DetectorTrainingJob,
    choose_input_size,
    suits_quick_training,
    warm_start_detector,
)
from backend.training.head import ChoiceExamples, HeadTrainingJob, cross_validate_head
from backend.training.quick_detector import QuickTrainingJob, train_quick_detector
from backend.vision.detection.probe_detector import ProbeDetector
from backend.vision.detection.trained_detector import Detector
from backend.vision.encoders.base import Encoder
from backend.vision.heads.head import Head

log = logging.getLogger("prelabel")
RECIPE_VERSION = 5
"""Increment it if training changes, so that the next round trains a new version."""


class ModelTrainer:
    """Trains a model on an observation.

    Args:
        session: the project's session.
        observation: tasks and labels.
        encoder: encoder of the choices controls; None without one.
        embeddings: embeddings of the images by that encoder.
        report: receives the progress.
        cancelled: polled during training; training stops when it returns True.
        quick: raise :class:`LongRoundError` instead of training a detector.
        between_epochs: called after each epoch of a detector's training.

    Attributes:
        live_card: card of the live version; None without one.
        live_model: model of the live version; empty without one.
        cost: cost of the training so far.
    """

    def __init__(
        self,
        session: ProjectSession,
        observation: Observation,
        encoder: Encoder | None,
        embeddings: EmbeddingResult,
        report: StateCallback = lambda state, progress, detail: None,
        cancelled: Callable[[], bool] = lambda: False,
        quick: bool = False,
        between_epochs: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = session.settings
        self._session = session
        self._quick = quick
        self._observation = observation
        self._encoder = encoder
        self._embeddings = embeddings
        self._report = report
        self._cancelled = cancelled
        self._between_epochs = between_epochs
        self._versions = session.versions
        self.live_card = self._read_live_card()
        self.live_model = session.model(self.live_card.version) if self.live_card else Model({})
        self._examples: dict[str, ChoiceExamples] = {
            c.name: choice_examples(observation, c, embeddings)
            for c in self._controls_of("choices")
        }
        self._samples: dict[str, list[RegionSample]] = {}
        self.cost = ComputeCost()

    def train_model(self) -> Model:
        """Train a head for each choices control, and detectors where labels or setup changed.

        Raises:
            LongRoundError: a detector must be trained, which takes minutes.
            RoundCancelledError: training was cancelled.
            PrelabelError: training failed.
        """
        heads = {c.name: self._train_head(c) for c in self._controls_of("choices")}
        controls = self._controls_of("boxes", "points")
        seconds = self._settings.train_seconds / max(1, len(controls))
        detectors = {c.name: self._train_detector(c, seconds) for c in controls}
        return Model(
            {name: head for name, head in heads.items() if head is not None},
            {name: detector for name, detector in detectors.items() if detector is not None},
        )

    def train_quick_model(self) -> Model | None:
        """Train all heads, and quick detectors for the controls whose training takes minutes.

        The other detectors are those of the live version.

        Returns:
            None if no control would get a quick detector.

        Raises:
            RoundCancelledError: training was cancelled.
            PrelabelError: training failed.
        """
        quick_controls = [
            c
            for c in self._controls_of("boxes", "points")
            if not self.is_unchanged(c) and suits_quick_training(self._detector_job(c, 0.0))
        ]
        jobs = {c.name: self._quick_job(c) for c in quick_controls}
        trained = {name: train_quick_detector(job) for name, job in jobs.items() if job is not None}
        quick_detectors = {name: d for name, d in trained.items() if d is not None}
        if not quick_detectors:
            return None
        heads = {c.name: self._train_head(c) for c in self._controls_of("choices")}
        detectors = {**self.live_model.detectors, **quick_detectors}
        return Model({name: head for name, head in heads.items() if head is not None}, detectors)

    def examples(self, control: Control) -> ChoiceExamples:
        """Return the labeled images of a choices control."""
        return self._examples[control.name]

    def samples(self, control: Control) -> list[RegionSample]:
        """Return the labeled images of a box or point control."""
        if control.name not in self._samples:
            self._samples[control.name] = self._read_samples(control)
        return self._samples[control.name]

    def embedding_pool(self, control: Control) -> Floats:
        """Return the embeddings of all images of a control, labeled or not: (m, d)."""
        return self._head_job(control).pool

    def cross_validate(self, control: Control, head: Head) -> tuple[Indices, Floats]:
        """Return out-of-fold probabilities of a head; see `cross_validate_head`."""
        return cross_validate_head(self._head_job(control), head)

    def detector_dependencies(self, control: Control) -> list[Any]:
        """Return the inputs of a detector's training besides labels and base weights, as JSON."""
        labels = [[x.name, list(x.words), x.extent] for x in control.labels]
        dependencies = [
            RECIPE_VERSION,
            self._settings.detector_size,
            self._session.resources.prompt_files(),
        ]
        return [control.kind, labels, *dependencies]

    def refresh_live(self) -> bool:
        """Read the live version again, and return whether it changed during the training."""
        live_card, previous = self._read_live_card(), self.live_card
        if (live_card.version if live_card else "") == (previous.version if previous else ""):
            return False
        self.live_card = live_card
        self.live_model = self._session.model(live_card.version) if live_card else Model({})
        return True

    def _read_live_card(self) -> VersionCard | None:
        """Return the live version's card; None before the first version."""
        return self._versions.live_card()

    def _controls_of(self, *kinds: str) -> list[Control]:
        return [c for c in self._observation.config.controls if c.kind in kinds]

    # -- choices ----------------------------------------------------------------------------

    def _train_head(self, control: Control) -> Head | None:
        head, cost = self._session.resources.compute.train_head(self._head_job(control))
        self.cost += cost
        return head

    def _head_job(self, control: Control) -> HeadTrainingJob:
        encoder = self._encoder
        assert encoder is not None  # noqa: S101
        previous = self.live_model.heads.get(control.name)
        return HeadTrainingJob(
            control=control,
            examples=self._examples[control.name],
            pool=stack_embeddings(self._observation, control, self._embeddings, encoder.dim),
            prototypes=self._session.resources.prototypes(encoder, control),
            logit_scale=encoder.logit_scale,
            logit_bias=encoder.logit_bias,
            previous=previous if self._can_warm_start(previous, control, encoder) else None,
            seed=self._settings.seed,
        )

    def _can_warm_start(self, previous: Head | None, control: Control, encoder: Encoder) -> bool:
        """Return whether training can warm-start from the live head."""
        if previous is None or self.live_card is None:
            return False
        same_encoder = self.live_card.encoder.id == encoder.id
        same_kind = previous.multiple == control.multiple
        return same_encoder and same_kind and previous.labels == control.label_names

    # -- boxes and points -------------------------------------------------------------------

    def _train_detector(self, control: Control, seconds: float) -> Detector | None:
        samples = self.samples(control)
        if self.is_unchanged(control):
            return self.live_model.detectors.get(control.name)
        if self._quick and samples:
            raise LongRoundError(f"{control.name} needs a training that takes minutes.")
        progress = TrainingProgress(self._report, self._progress_prefix(control))

        def report_epoch(done: int, total: int) -> None:
            progress.update(done, total)
            self._between_epochs()

        job = replace(self._detector_job(control, seconds), report=report_epoch)
        detector, cost = self._session.resources.compute.train_detector(job)
        self.cost += cost
        return detector

    def _detector_job(self, control: Control, seconds: float) -> DetectorTrainingJob:
        resources = self._session.resources
        return DetectorTrainingJob(
            control=control,
            samples=self.samples(control),
            base_network=resources.base_network,
            previous=self.live_model.detectors.get(control.name),
            input_size=self._settings.detector_size,
            max_seconds=seconds,
            seed=self._settings.seed,
            load_runner=resources.load_network_runner,
            prompts=self._session.prompts(),
            report=lambda done, total: None,
            cancelled=self._cancelled,
            base_setting=resources.base_weights.setting,
        )

    def _quick_job(self, control: Control) -> QuickTrainingJob | None:
        """Return the job; None if it is unknown which images the live network was trained on."""
        samples, resources = self.samples(control), self._session.resources
        live_detector = self.live_model.detectors.get(control.name)
        tuned_detector = warm_start_detector(self._detector_job(control, 0.0))
        network_tasks = self._network_tasks() if tuned_detector else frozenset()
        if network_tasks is None:
            return None
        is_quick = isinstance(live_detector, ProbeDetector)  # with the same network, fewer labels

        prefix = self._progress_prefix(control)

        def report_images(done: int, total: int) -> None:
            self._report("training", done / total, f"{prefix}image {done} of {total}")

        return QuickTrainingJob(
            control=control,
            samples=samples,
            network=tuned_detector.network if tuned_detector else resources.base_network,
            network_tasks=network_tasks,
            rival=None if is_quick else live_detector,
            input_size=self._settings.detector_size or choose_input_size(samples),
            seed=self._settings.seed,
            load_feature_runner=resources.load_feature_runner,
            report=report_images,
            cancelled=self._cancelled,
        )

    def _progress_prefix(self, control: Control) -> str:
        """Return the name of a control for its progress, if the project has several detectors."""
        is_only_one = len(self._controls_of("boxes", "points")) == 1
        return "" if is_only_one else f"{control.name}: "

    def _full_card(self) -> VersionCard | None:
        """Return the card of the full version that the live one is, or was quickly trained on.

        Returns:
            None without a live version, or if the full one cannot be read.
        """
        card = self.live_card
        with suppress(DamagedFileError, NotFoundError):
            while card is not None and card.is_quick:
                card = self._versions.card(card.parent) if card.parent else None
            return card
        return None

    def _network_tasks(self) -> frozenset[int] | None:
        """Return the tasks that the networks of the live version were trained on.

        Returns:
            None if that cannot be read.
        """
        card = self._full_card()
        if card is None:
            return None
        try:
            return frozenset(map(int, self._versions.labels(card.version)))
        except DamagedFileError:
            return None

    def is_unchanged(self, control: Control) -> bool:
        """Return whether the live detector was trained with the same labels and inputs."""
        if isinstance(self.live_model.detectors.get(control.name), ProbeDetector):
            return False  # its full training is due
        live_card = self._full_card()  # a quick version keeps its other detectors
        if live_card is None or live_card.detector.id != self._session.resources.base_weights.id:
            return False
        if live_card.control(control.name).made_from != self.detector_dependencies(control):
            return False
        current_labels, live_labels = (
            label_table(self._observation),
            self._versions.labels(live_card.version),
        )
        return all(
            current_labels.get(task, {}).get(control.name)
            == live_labels.get(task, {}).get(control.name)
            for task in current_labels.keys() | live_labels.keys()
        )

    def _read_samples(self, control: Control) -> list[RegionSample]:
        """Return the readable labeled images, in the order of their tasks."""
        labeled_tasks = [
            task
            for task in self._observation.labeled
            if control.name in (task.regions or {}) and control.image_key in task.images
        ]
        images = self._session.images
        sizes: dict[str, ImageSize] = {}
        sources = [ImageSource(task.images[control.image_key], task.id) for task in labeled_tasks]
        for batch in images.iter_batches(sources):
            sizes |= batch.sizes
        digests = images.digests(sizes)
        box_controls = [
            c.name
            for c in self._controls_of("boxes")
            if c.name != control.name and c.to_name == control.to_name
        ]
        return [
            RegionSample(
                task_id=task.id,
                load_image=partial(
                    _read_image, images, ImageSource(task.images[control.image_key], task.id)
                ),
                size=sizes[task.images[control.image_key]],
                regions=(task.regions or {})[control.name],
                other_boxes=tuple(
                    p for name in box_controls for p in (task.regions or {}).get(name, ())
                ),
                is_audit=self._observation.is_audit(task),
                digest=digests.get(task.images[control.image_key], ""),
            )
            for task in labeled_tasks
            if task.images[control.image_key] in sizes
        ]


def choice_examples(
    observation: Observation, control: Control, embeddings: EmbeddingResult
) -> ChoiceExamples:
    """Return the readable labeled images of a control, in the order of their tasks."""
    readable_tasks = [
        task
        for task in observation.labeled
        if control.name in (task.choices or {})
        and task.images.get(control.image_key) in embeddings.vectors
    ]
    vectors = [embeddings.vectors[task.images[control.image_key]] for task in readable_tasks]
    return ChoiceExamples(
        task_ids=tuple(task.id for task in readable_tasks),
        vectors=np.stack(vectors) if vectors else np.zeros((0, 0), dtype=np.float32),
        answers=tuple((task.choices or {})[control.name] for task in readable_tasks),
        available_labels=tuple(
            (task.available_labels or {})[control.name] for task in readable_tasks
        ),
        audit_mask=np.array([observation.is_audit(task) for task in readable_tasks], dtype=bool),
    )


def stack_embeddings(
    observation: Observation, control: Control, embeddings: EmbeddingResult, dim: int
) -> Floats:
    """Return the embeddings of all images of a control, labeled or not: (m, d) float32."""
    vectors = [
        embeddings.vectors[task.images[control.image_key]]
        for task in observation.tasks
        if task.images.get(control.image_key) in embeddings.vectors
    ]
    return np.stack(vectors) if vectors else np.zeros((0, dim), dtype=np.float32)


def _read_image(images: ProjectImages, source: ImageSource) -> Image.Image:
    try:
        return images.load_copy(source)
    except ImageError as error:
        raise RoundError(
            f"The image of task {source.task_id} is no longer readable: {error}."
        ) from error
