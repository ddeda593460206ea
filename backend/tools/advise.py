"""Recommend to classify whole images or to mark objects, based on a project's labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.callbacks import LogCallback
from backend.domain import Control
from backend.errors import RoundError
from backend.estimate import format_interval, format_percent
from backend.inference.detections import RegionSample
from backend.inference.embed import EmbeddingResult
from backend.inference.images import image_sources
from backend.learning import labeling_advice
from backend.learning.labeling_advice import ObjectStatistics
from backend.loop.model_trainer import ModelTrainer
from backend.loop.observe import Observation, fetch_fingerprint, observe
from backend.runtime.project_session import ProjectSession
from backend.tools.labeling_trial import (
    CROSS_VALIDATION_FOLDS,
    MIN_LABELED_IMAGES,
    LabelingTrial,
)
from backend.vision.encoders.base import Encoder


@dataclass(frozen=True)
class Advice:
    """The advice for one control.

    Attributes:
        control: name of the control.
        kind: current kind of the control.
        figures: measurements, as JSON.
        sentences: recommendation for the user.
    """

    control: str
    kind: str
    figures: dict[str, Any]
    sentences: list[str]

    def json(self) -> dict[str, Any]:
        """Return the advice as JSON."""
        return {
            "control": self.control,
            "kind": self.kind,
            **self.figures,
            "advice": self.sentences,
        }


class Adviser:
    """Recommends a labeling job for one project, without changing the project.

    Args:
        session: session of the project.
        seconds: total time limit for training the compared models.
        report: called with a line of progress.
    """

    def __init__(self, session: ProjectSession, seconds: float, report: LogCallback) -> None:
        self._session = session
        self._time_budget = seconds
        self._report = report

    def advise(self) -> list[Advice]:
        """Return advice for each control of boxes or points, else for each control of choices.

        Raises:
            RoundError: nothing is labeled yet.
            PrelabelError: Label Studio cannot be reached.
        """
        connection = self._session.connection
        folder = self._session.folder
        observation = observe(connection, folder, fetch_fingerprint(connection))
        if not observation.labeled:
            raise RoundError(
                f"Nothing is labeled yet: label about {MIN_LABELED_IMAGES} images first."
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
            lambda done, total: self._report(f"embedding images: {done} of {total}"),
        )

    # -- choices ------------------------------------------------------------------------------

    def _advise_choices(self, control: Control) -> Advice:
        card = self._session.versions.live_card()
        figure = card.control(control.name).audit if card else None
        current_accuracy = (
            f"This project classifies whole images: {format_percent(figure.value)} right "
            f"({format_interval(figure)}, on {figure.n} audit images)."
            if figure and figure.is_conclusive and figure.value is not None
            else "This project classifies whole images; it is too early to tell the accuracy."
        )
        suggestion = (
            "It has no boxes or points, so detection cannot be compared here. Where position or "
            "number matters, or a small part of the image decides, mark objects in "
            f"{2 * MIN_LABELED_IMAGES} of the images in a new project (prelabel init FOLDER --new "
            "--goal find), and run prelabel advise on it."
        )
        return Advice(
            control.name,
            control.kind,
            {"audit": figure.to_json() if figure else None},
            [current_accuracy, suggestion],
        )

    # -- boxes and points ---------------------------------------------------------------------

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
        trial = LabelingTrial(self._session, control, fit, encoder, self._report)
        vectors = np.array(
            [vector_by_address[address_by_task[s.task_id]] for s in samples], dtype=np.float32
        )
        result = trial.compare(samples, vectors, self._time_budget)
        if result is None:
            message = (
                f"{len(samples)} images are labeled. To compare classification and detection, at "
                f"least {MIN_LABELED_IMAGES} are needed, {MIN_LABELED_IMAGES // 2} of them with "
                "objects."
            )
            return Advice(control.name, control.kind, figures | {"by": None}, [message])
        basis, presence, count = result
        figures |= {"by": basis, "presence": presence.to_json(), "count": count.to_json()}
        sentences = labeling_advice.recommend_labeling(objects, presence, count, points)
        if trial.hit_time_limit:
            sentences.append(
                f"Each detector of this comparison was trained for only "
                f"{self._time_budget / CROSS_VALIDATION_FOLDS:.0f} seconds. A round trains for up "
                f"to {self._session.settings.train_seconds:.0f}, so detection may be more accurate "
                "than measured here. Increase --seconds for a better comparison."
            )
        figures["cut_short"] = trial.hit_time_limit
        return Advice(control.name, control.kind, figures, sentences)


def object_statistics(
    samples: Sequence[RegionSample], control: Control, label: str = ""
) -> ObjectStatistics:
    """Return statistics of the marked objects, of one label or of all labels ("").

    The sizes of points are those of boxes with the same label in other controls.
    """
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
