"""Train a version after labels changed: fit → evaluate → gate → save."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from backend.callbacks import StateCallback
from backend.card_records import ModelSource, Promotion
from backend.errors import OverBudgetError
from backend.inference.embed import EMPTY_EMBEDDINGS, EmbeddingResult
from backend.inference.images import image_sources
from backend.inference.model import save_model
from backend.loop import card as cards
from backend.loop.evaluate.assess import Assessor
from backend.loop.evaluate.drift_reference import build_reference
from backend.loop.evaluate.past_versions import LOOP_ACTOR
from backend.loop.model_trainer import RECIPE_VERSION, ModelTrainer
from backend.loop.observe import Observation, count_changes, label_table
from backend.loop.training_pause import awaits_more_labels
from backend.runtime.project_session import ProjectSession
from backend.store.audit_predictions import save_audit_predictions
from backend.store.drift_reference import save_reference
from backend.store.queue_front import QueueFront
from backend.store.version_card import Stage
from backend.store.versions import LabelSnapshot, VersionCard, content_hash
from backend.vision.encoders.base import Encoder

log = logging.getLogger("prelabel")
NO_MODEL_MESSAGE = "the images are ranked ({}); nothing predicts the labels yet"


class VersionInputs(NamedTuple):
    """What a version is trained on.

    Attributes:
        observation: the current tasks and labels.
        encoder: encoder of the choices controls; None without one.
        labels: the labels, to compare them with those of other versions.
        identity: hash of the labels and the setup.
    """

    observation: Observation
    encoder: Encoder | None
    labels: LabelSnapshot
    identity: str


class VersionTrainer:
    """Trains versions of one project.

    If the training of a detector takes minutes and a quick one can serve meanwhile, a quick version
    is trained first. The next call trains the full version.

    Args:
        session: the project's session.
        report: receives the progress.
        cancelled: polled during training; training stops when it returns True.
        stopwatch: records the duration of each step.
        quick: train no detector in full, see :class:`ModelTrainer`.
        between_epochs: called after each epoch of a detector's training.

    Attributes:
        budget_message: message that the monthly budget is spent; empty otherwise.
        awaits_pause: a training that takes minutes waits for more labels or a longer pause.
    """

    def __init__(
        self,
        session: ProjectSession,
        report: StateCallback,
        cancelled: Callable[[], bool],
        stopwatch: cards.Stopwatch,
        quick: bool = False,
        between_epochs: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = session.settings
        self._session = session
        self._report = report
        self._cancelled = cancelled
        self._stopwatch = stopwatch
        self._quick = quick
        self._between_epochs = between_epochs
        self._versions = session.versions
        self.budget_message = ""
        self.awaits_pause = False

    def train_if_needed(
        self, observation: Observation, *, force: bool, on_hold: bool, is_pause: bool = False
    ) -> str:
        """Train a version if enough labels, or the setup, changed.

        Args:
            observation: the current tasks and labels.
            force: train after any change.
            is_pause: people paused; train after any change, unless it takes minutes and little is
                new.
            on_hold: do not train, because the last round was cancelled.

        Returns:
            the name of the new version, live or not; empty if none was trained.

        Raises:
            PrelabelError: training failed; the live version stays.
        """
        self._finish_promotion()
        encoder = self._load_encoder(observation)
        labels = label_table(observation)
        identity = self._version_identity(observation, labels, encoder)
        newest, is_lost = self._versions.newest(), self._versions.lacks_newest()
        if newest is not None and on_hold:
            return ""
        if newest is not None and newest.identity == identity and not (is_lost and newest.is_held):
            return ""
        is_full_due = newest is not None and newest.is_quick
        force = force or is_lost or is_full_due
        if newest is not None and not force and self._has_same_setup(observation, encoder, newest):
            trained = self._versions.labels(newest.version)
            if 0 < count_changes(trained, labels) < self._settings.retrain_after:
                regions = [c.name for c in observation.config.controls if not c.is_choices]
                self.awaits_pause = is_pause and awaits_more_labels(
                    self._versions.cards(), trained, labels, regions
                )
                if self.awaits_pause or not is_pause:
                    return ""
        if newest is not None and self._is_over_budget():
            return ""
        inputs = VersionInputs(observation, encoder, labels, identity)
        if not is_full_due and (quick_version := self._train_version(inputs, "quick")):
            return quick_version
        return self._train_version(inputs, "full")

    def train_quick_version(self, observation: Observation) -> str:
        """Train a quick version, during the full training of one with fewer labels.

        Returns:
            its name; empty if no detector would be trained quickly.

        Raises:
            PrelabelError: training failed; the live version stays.
        """
        encoder, labels = self._load_encoder(observation), label_table(observation)
        identity = self._version_identity(observation, labels, encoder)
        return self._train_version(VersionInputs(observation, encoder, labels, identity), "quick")

    def _finish_promotion(self) -> None:
        """Promote a version that passed the gate but was not promoted because of a crash."""
        card = self._versions.promote_pending(LOOP_ACTOR)
        if card is not None:
            self._log_live(card)

    def _log_live(self, card: VersionCard) -> None:
        if card.has_model:
            summary = cards.version_summary(card)
            log.info("project %s: version %s is live (%s)", self._session.id, card.version, summary)
        else:
            log.info("project %s: %s", self._session.id, NO_MODEL_MESSAGE.format(card.version))

    def _is_over_budget(self) -> bool:
        """Return whether the monthly budget is spent, and store the message."""
        try:
            self._session.resources.compute.check_budget()
        except OverBudgetError as error:
            log.warning("project %s: %s", self._session.id, error)
            self.budget_message = str(error)
        return bool(self.budget_message)

    def _embed_images(self, observation: Observation, encoder: Encoder | None) -> EmbeddingResult:
        """Return the embeddings of all images of choices controls; empty without an encoder."""
        if encoder is None:
            return EMPTY_EMBEDDINGS
        choices = [control for control in observation.config.controls if control.is_choices]
        embedder = self._session.embedder(encoder)
        return embedder.embed(
            image_sources(observation.tasks, choices),
            lambda done, total: self._report("training", done / total if total else 1.0, ""),
        )

    def _load_encoder(self, observation: Observation) -> Encoder | None:
        """Return the encoder; None without a choices control."""
        is_needed = any(control.is_choices for control in observation.config.controls)
        return self._session.resources.encoder() if is_needed else None

    def _base_detector_id(self, observation: Observation) -> str:
        """Return the id of the base weights of detectors; empty without a box or point control."""
        is_needed = any(not control.is_choices for control in observation.config.controls)
        return self._session.resources.base_weights.id if is_needed else ""

    def _has_same_setup(
        self, observation: Observation, encoder: Encoder | None, newest: VersionCard
    ) -> bool:
        current_labels = {
            control.name: list(control.label_names) for control in observation.config.controls
        }
        trained_labels = {name: list(card.examples) for name, card in newest.controls.items()}
        ids = (encoder.id if encoder else "", self._base_detector_id(observation))
        return current_labels == trained_labels and ids == (newest.encoder.id, newest.detector.id)

    def _version_identity(
        self, observation: Observation, labels: LabelSnapshot, encoder: Encoder | None
    ) -> str:
        controls = [
            [
                *(c.name, c.image_key, c.kind, c.multiple, c.precision, c.accept_error),
                [[x.name, x.words, x.hint, x.extent] for x in c.labels],
            ]
            for c in observation.config.controls
        ]
        dependencies = [
            encoder.id if encoder else "",
            self._base_detector_id(observation),
            self._settings.detector_size,
            self._settings.precision,
            self._settings.accept_error,
            self._session.resources.prompt_files() if self._base_detector_id(observation) else [],
        ]
        return content_hash(
            [
                RECIPE_VERSION,
                observation.identity,
                controls,
                labels,
                dependencies,
                self._settings.seed,
            ]
        )

    def _train_version(self, inputs: VersionInputs, stage: Stage) -> str:
        """Train, assess and save a version.

        Returns:
            its name; empty if the stage is ``quick`` and no detector would be trained quickly.
        """
        observation, encoder, labels, identity = inputs
        self._report("training", 0.0, "")
        embeddings = self._embed_images(observation, encoder)
        self._stopwatch.lap("embed")
        live_version = self._versions.live()
        trainer = ModelTrainer(
            self._session,
            observation,
            encoder,
            embeddings,
            self._report,
            self._cancelled,
            self._quick,
            self._between_epochs,
        )
        model = trainer.train_quick_model() if stage == "quick" else trainer.train_model()
        if model is None:
            return ""
        self._stopwatch.lap("train")
        self._report("evaluating", 0.0, "")
        trainer.refresh_live()
        assessment = Assessor(self._session, observation, trainer, model).assess()
        while trainer.refresh_live():  # a person made another version live meanwhile
            assessment = Assessor(self._session, observation, trainer, model).assess()
        model = replace(
            model, thresholds=assessment.thresholds, controls=observation.config.controls
        )
        self._stopwatch.lap("evaluate")
        identity = content_hash([identity, stage]) if stage == "quick" else identity
        number, name = self._versions.next_name(identity)
        card = VersionCard(
            version=name,
            identity=identity,
            number=number,
            parent=trainer.live_card.version if trainer.live_card else live_version,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            labels=cards.split_sizes(observation),
            audit=assessment.figure,
            controls=assessment.controls,
            encoder=self._encoder_source(encoder),
            seconds=self._stopwatch.seconds(),
            seed=self._settings.seed,
            packages=cards.package_versions(),
            promotion=Promotion(
                assessment.verdict.is_passed,
                assessment.verdict.reason,
                assessment.verdict.evidence,
            ),
            detector=self._detector_source(observation),
            estimate=assessment.estimate,
            outlook=assessment.outlook,
            accepting=assessment.accepting,
            compute=trainer.cost,
            uncertain_labels=cards.count_uncertain_labels(
                observation, QueueFront(self._session.folder).uncertain_labeled()
            ),
            stage=stage,
        )
        reference = build_reference(observation, trainer, model, embeddings)

        def write_files(folder: Path) -> None:
            save_model(model, folder)
            save_reference(reference, folder)
            save_audit_predictions(assessment.audit_predictions, folder)

        self._log_result(self._versions.save_and_promote(card, labels, write_files, LOOP_ACTOR))
        return name

    def _log_result(self, card: VersionCard) -> None:
        if card.is_held:
            log.warning(
                "project %s: version %s is not live. %s",
                self._session.id,
                card.version,
                card.promotion_reason,
            )
        else:
            self._log_live(card)

    def _encoder_source(self, encoder: Encoder | None) -> ModelSource:
        """Return the encoder with the setting that loads it again, even if ``auto`` chose it."""
        if encoder is None:
            return ModelSource()
        setting = self._settings.encoder
        return ModelSource(encoder.name if setting == "auto" else setting, encoder.id, encoder.name)

    def _detector_source(self, observation: Observation) -> ModelSource:
        id = self._base_detector_id(observation)
        return (
            ModelSource(self._session.resources.base_weights.setting, id) if id else ModelSource()
        )
