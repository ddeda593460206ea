"""A model from a snapshot of labels: a head or a finder per control."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from backend.callbacks import StateCallback
from backend.domain import Control, ImageSize
from backend.errors import ImageError, NotFoundError, RoundError
from backend.inference.detections import RegionSample
from backend.inference.embed import EmbeddingResult
from backend.inference.images import ImageSource, ProjectImages
from backend.inference.model import Model
from backend.loop.label_table import choice_examples, label_table, stack_embeddings
from backend.loop.observe import Observation
from backend.runtime.compute import ComputeCost
from backend.runtime.project_session import ProjectSession
from backend.store.versions import VersionCard
from backend.training.detector import DetectorTrainingJob
from backend.training.head import ChoiceExamples, HeadTrainingJob, cross_validate_head
from backend.vision.detection.trained_detector import Detector
from backend.vision.encoders.base import Encoder
from backend.vision.heads.head import Head

log = logging.getLogger("prelabel")
RECIPE_VERSION = 5
"""Counts up when the way a version is made changes, so that the next start makes it anew."""


class ModelTrainer:
    """Fits a model to what was observed.

    Args:
        session: of the project.
        observation: the snapshot.
        encoder: of choices; None where there are none.
        embeddings: the images, by that encoder.
        report: told state, progress and details.
        cancelled: asked often.
    """

    def __init__(
        self,
        session: ProjectSession,
        observation: Observation,
        encoder: Encoder | None,
        embeddings: EmbeddingResult,
        report: StateCallback = lambda state, progress, detail: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings = session.settings
        self._session = session
        self._observation = observation
        self._encoder = encoder
        self._embeddings = embeddings
        self._report = report
        self._cancelled = cancelled
        self._versions = session.versions
        self._live = self._read_live_card()
        self._live_model = session.model(self._live.version) if self._live else Model({})
        self._examples: dict[str, ChoiceExamples] = {
            c.name: choice_examples(observation, c, embeddings)
            for c in self._controls_of("choices")
        }
        self._samples: dict[str, list[RegionSample]] = {}
        self.cost = ComputeCost()

    def train_model(self) -> Model:
        """Train what changed; the rest is taken from the live version.

        Raises:
            Cancelled: somebody cancelled it.
            PrelabelError: it did not work out.
        """
        heads = {c.name: self._train_head(c) for c in self._controls_of("choices")}
        controls = self._controls_of("boxes", "points")
        seconds = self._settings.train_seconds / max(1, len(controls))
        detectors = {c.name: self._train_detector(c, seconds) for c in controls}
        return Model(
            {name: head for name, head in heads.items() if head is not None},
            {name: detector for name, detector in detectors.items() if detector is not None},
        )

    @property
    def live_card(self) -> VersionCard | None:
        """The card of the live version, which the new one is compared with."""
        return self._live

    @property
    def live_model(self) -> Model:
        """The live version's model; an empty one where there is none."""
        return self._live_model

    def examples(self, control: Control) -> ChoiceExamples:
        """The labeled images of a control of choices."""
        return self._examples[control.name]

    def samples(self, control: Control) -> list[RegionSample]:
        """The marked images of a control of boxes or points."""
        if control.name not in self._samples:
            self._samples[control.name] = self._read_samples(control)
        return self._samples[control.name]

    def embedding_pool(self, control: Control) -> Any:
        """The embeddings of all images of a control of choices, labeled or not: (m, d)."""
        return self._head_job(control).pool

    def cross_validate(self, control: Control, head: Head) -> tuple[Any, Any]:
        """What a head says of labeled images that it did not see; see ``training.cross_validate``."""
        return cross_validate_head(self._head_job(control), head)

    def detector_dependencies(self, control: Control) -> list[Any]:
        """What a finder depends on besides labels and weights, as plain JSON."""
        labels = [[x.name, list(x.words), x.extent] for x in control.labels]
        dependencies = [
            RECIPE_VERSION,
            self._settings.detector_size,
            self._session.resources.prompt_files(),
        ]
        return [control.kind, labels, *dependencies]

    def _read_live_card(self) -> VersionCard | None:
        """The live version's; None where somebody removed it: training starts anew."""
        try:
            return self._versions.live_card()
        except NotFoundError:
            return None

    def _controls_of(self, *kinds: str) -> list[Control]:
        return [c for c in self._observation.config.controls if c.kind in kinds]

    # -- choices ----------------------------------------------------------------------------

    def _train_head(self, control: Control) -> Head | None:
        head, cost = self._session.resources.compute.train_head(self._head_job(control))
        self.cost += cost
        return head

    def _head_job(self, control: Control) -> HeadTrainingJob:
        encoder = self._encoder
        assert encoder is not None
        previous = self._live_model.heads.get(control.name)
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
        """Whether a new head may start from the live one."""
        if previous is None or self._live is None:
            return False
        same_encoder = self._live.encoder.get("id") == encoder.id
        same_kind = previous.multiple == control.multiple
        return same_encoder and same_kind and previous.labels == control.label_names

    # -- boxes and points -------------------------------------------------------------------

    def _train_detector(self, control: Control, seconds: float) -> Detector | None:
        samples = self.samples(control)
        if self.is_unchanged(control):
            return self._live_model.detectors.get(control.name)
        started_at = time.monotonic()

        def report_epoch(done: int, total: int) -> None:
            remaining_seconds = (time.monotonic() - started_at) / done * (total - done)
            detail = (
                f"{control.name}: epoch {done} of {total}, about {remaining_seconds:.0f} s left"
            )
            self._report("training", done / total, detail)

        detector, cost = self._session.resources.compute.train_detector(
            DetectorTrainingJob(
                control=control,
                samples=samples,
                base_network=self._session.resources.base_network,
                previous=self._live_model.detectors.get(control.name),
                input_size=self._settings.detector_size,
                max_seconds=seconds,
                seed=self._settings.seed,
                load_runner=self._session.resources.load_network_runner,
                prompts=self._session.prompts(),
                report=report_epoch,
                cancelled=self._cancelled,
                base_setting=self._session.resources.base_weights.setting,
            )
        )
        self.cost += cost
        return detector

    def is_unchanged(self, control: Control) -> bool:
        """Whether the live finder saw these very labels."""
        live_card = self._live
        if (
            live_card is None
            or live_card.detector.get("id") != self._session.resources.base_weights.id
        ):
            return False
        if live_card.controls.get(control.name, {}).get("made_from") != self.detector_dependencies(
            control
        ):
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
        """The marked images that can be read, in the order of their tasks."""
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


def _read_image(images: ProjectImages, source: ImageSource) -> Any:
    try:
        return images.load_copy(source)
    except ImageError as error:
        raise RoundError(f"The image of task {source.task_id} went away: {error}.") from error
