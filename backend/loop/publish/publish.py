"""Publish the live version: infer → rank → accept → push → follow → thumbnails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from backend.arrays import Floats
from backend.callbacks import StateCallback
from backend.domain import Prediction, Task
from backend.inference.embed import EmbeddingResult, task_vectors
from backend.inference.images import image_sources
from backend.inference.model import Model
from backend.inference.predict import InferenceResult, count_unreadable, infer_tasks, merge_max
from backend.learning.audit import hash_rank
from backend.learning.nearest_neighbours import rank_by_label_text
from backend.learning.selection import rank_scores
from backend.loop.observe import Observation
from backend.loop.publish import auto_accept
from backend.loop.publish import push as pushing
from backend.loop.publish.queue_order import QueueOrder, build_queue_order, count_examples
from backend.loop.publish.queue_settings import follow_version
from backend.loop.publish.thumbnails import ThumbnailPublisher
from backend.runtime.project_session import ProjectSession
from backend.store.acceptance import AcceptanceStore
from backend.store.record_files import read_cache, write_record

TASKS_PER_LABEL = 10
"""Number of candidate tasks for each label without an example."""
REGION_UNCERTAINTY_FILE = "unsure.json"


@dataclass(frozen=True)
class StoredUncertainty:
    """The uncertainty of regions by a version, from earlier rounds.

    Attributes:
        version: the version.
        tasks: uncertainty by task, 0 to 1.
        sure: confidence by task, 0 to 1.
    """

    version: str = ""
    tasks: Mapping[int, float] = field(default_factory=dict)
    sure: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PublishResult:
    """The result of publishing.

    Attributes:
        has_predictions: Label Studio has predictions of the live version.
        unreadable_counts: number of unreadable images, by reason.
        order: order of the open tasks.
    """

    has_predictions: bool
    unreadable_counts: Counter[str]
    order: QueueOrder


class Publisher:
    """Writes the live version's predictions and the queue order of one project to Label Studio.

    Args:
        session: the project's session.
        report: receives the progress.
    """

    def __init__(self, session: ProjectSession, report: StateCallback) -> None:
        self._session = session
        self._connection = session.connection
        self._report = report

    def publish(
        self, observation: Observation, live_version: str, limit: int | None = None
    ) -> PublishResult:
        """Push predictions of the live version for all open tasks, and order the queue.

        Args:
            observation: the current tasks and labels.
            live_version: the live version.
            limit: predict only so many tasks, the first of the queue.
        """
        self._report("pushing", 0.0, "")
        open_tasks = [task for task in observation.tasks if task.open]
        existing, missing_ids = pushing.missing_predictions(
            self._connection, live_version, (task.id for task in open_tasks)
        )
        new = [task for task in open_tasks if task.id in missing_ids]
        model = self._session.model(live_version)
        embeddings = self._embed(observation)
        if limit is not None:
            first = InferenceResult(model, observation.config.controls, embeddings)
            front = self._rank(observation, live_version, first).ranked_tasks()[:limit]
            new = [task for task in new if task.id in front]
        inference = self._infer(observation, model, embeddings, open_tasks, new)
        order = self._rank(observation, live_version, inference)
        to_accept = self._select_auto_accepts(observation, live_version, inference, order)
        if new:
            predictions = inference.predictions(new, rank_scores(order.ranked_tasks()))
            pushing.push_predictions(
                self._connection,
                live_version,
                predictions,
                observation.controls,
                self._report_push,
                existing,
            )
        if existing or new:
            follow_version(
                self._connection,
                self._session.folder,
                live_version,
                observation.fingerprint,
                is_trained=self._session.versions.card(live_version).labels.train > 0,
                keeps_settings=observation.config.keeps_settings,
            )
        order.open_tasks -= auto_accept.auto_accept(
            self._connection, observation.controls, to_accept
        )
        thumbnails = ThumbnailPublisher(self._session)
        thumbnails.publish_round(order, open_tasks)
        thumbnails.publish_labeled(observation, live_version)
        thumbnails.trim()
        errors = {**self._session.images.errors, **embeddings.errors}
        unreadable_counts = count_unreadable(observation.tasks, observation.config.controls, errors)
        return PublishResult(bool(existing or new), unreadable_counts, order)

    # -- infer ------------------------------------------------------------------------------

    def _embed(self, observation: Observation) -> EmbeddingResult:
        """Embed all images with the live version's encoder."""
        return self._session.embedder(self._session.live_encoder()).embed(
            image_sources(observation.tasks, observation.config.controls),
            lambda done, total: self._report("pushing", done / total if total else 1.0, ""),
        )

    def _infer(
        self,
        observation: Observation,
        model: Model,
        embeddings: EmbeddingResult,
        tasks: Sequence[Task],
        detector_tasks: Sequence[Task],
    ) -> InferenceResult:
        inference = infer_tasks(
            model,
            observation.config.controls,
            tasks,
            embeddings,
            self._session.images,
            detector_tasks=detector_tasks,
            progress=lambda done, total: self._report(
                "pushing", done / total, f"image {done} of {total}"
            ),
        )
        if model.detectors:
            self._session.resources.image_copies.trim()
        return inference

    # -- rank -------------------------------------------------------------------------------

    def _rank(
        self, observation: Observation, live_version: str, inference: InferenceResult
    ) -> QueueOrder:
        uncertainties = merge_max(
            inference.choice_uncertainties(),
            self._region_uncertainties(observation, live_version, inference),
        )
        vectors = task_vectors(observation.tasks, inference.embeddings)
        open_vectors = {
            t.id: vectors[t.id] for t in observation.tasks if t.open and t.id in vectors
        }
        return build_queue_order(
            observation,
            vectors,
            uncertainties,
            self._find_missing_labels(observation, open_vectors),
            self._session.settings.seed,
            inference.label_rarities(),
            needs_examples=_needs_examples(inference.model),
        )

    def _region_uncertainties(
        self, observation: Observation, live_version: str, inference: InferenceResult
    ) -> dict[int, float]:
        """Return the uncertainty of regions, including images of earlier rounds.

        A version's detectors run only once per image, so uncertainty and confidence are stored. The
        stored confidence is restored in ``inference.confidence``.
        """
        file = self._session.folder / REGION_UNCERTAINTY_FILE
        stored = read_cache(file, StoredUncertainty, StoredUncertainty())
        if stored.version != live_version:
            stored = StoredUncertainty()
        uncertainties, confidence = dict(stored.tasks), dict(stored.sure)
        new = inference.region_uncertainties(partial(hash_rank, observation.identity))
        uncertainties |= new
        inference.confidence = confidence | {t: float(v) for t, v in inference.confidence.items()}
        if new:
            confidences = {task: float(v) for task, v in inference.confidence.items()}
            write_record(file, StoredUncertainty(live_version, uncertainties, confidences))
        return uncertainties

    def _find_missing_labels(
        self, observation: Observation, vectors: Mapping[int, Floats]
    ) -> list[int]:
        """Return the tasks most similar to the text of labels without examples."""
        encoder = self._session.live_encoder()
        candidates: list[int] = []
        example_counts = count_examples(observation)
        for control in observation.config.controls:
            names = control.label_names
            missing_labels = [
                index for index, name in enumerate(names) if not example_counts[control.name][name]
            ]
            # without any example all labels are equally rare
            is_partial = 0 < len(missing_labels) < len(names)
            prototypes = (
                self._session.resources.prototypes(encoder, control)
                if is_partial and vectors
                else None
            )
            if prototypes is not None:
                tasks, matrix = list(vectors), np.stack(list(vectors.values()))
                rows = rank_by_label_text(matrix, prototypes, missing_labels)
                candidates += [tasks[row] for row in rows[: TASKS_PER_LABEL * len(missing_labels)]]
        return candidates

    # -- accept -----------------------------------------------------------------------------

    def _select_auto_accepts(
        self,
        observation: Observation,
        live_version: str,
        inference: InferenceResult,
        order: QueueOrder,
    ) -> Sequence[Prediction]:
        """Return the predictions to accept, if auto-accept is on.

        First, people's reviews are recorded, which may suspend auto-accept. Spot checks are added
        to the queue order.
        """
        error_bound = auto_accept.accept_error_bound(
            observation.config.controls, self._session.settings.accept_error
        )
        if not error_bound:
            return []
        versions, model = self._session.versions, inference.model
        store = AcceptanceStore(self._session.folder)
        previous = store.read()
        if previous.problem:
            return []
        state = auto_accept.record_reviews(previous, observation, model)
        state = auto_accept.suspend_if_broken(state, error_bound, versions.cards())
        card = versions.card(live_version)

        def predict_selected(is_selected: Callable[[int], bool]) -> list[Prediction]:
            confidence = inference.confidences()
            tasks = auto_accept.acceptable_tasks(
                card, state, observation, confidence, model, error_bound
            )
            tasks = [task for task in tasks if is_selected(task.id)]
            return inference.predictions(tasks, confidence, unfiltered=True)

        due_tasks = auto_accept.tasks_needing_predictions(
            state, observation, predict_selected(lambda task: True)
        )
        self._detect_missing(observation, due_tasks, inference)
        state, to_accept = auto_accept.plan_acceptance(
            state, observation, live_version, predict_selected(due_tasks.__contains__)
        )
        if state != previous:
            store.write(state)
        order.checks = auto_accept.spot_checks(state, observation)
        return to_accept

    def _detect_missing(
        self, observation: Observation, due_tasks: Set[int], inference: InferenceResult
    ) -> None:
        """Run the detectors on due tasks of earlier rounds, whose regions are not stored."""
        missing_ids = due_tasks - inference.unfiltered.keys()
        missing = [task for task in observation.tasks if task.id in missing_ids]
        new = self._infer(observation, inference.model, inference.embeddings, missing, missing)
        for task in missing:
            inference.confidence.pop(task.id, None)  # its image may no longer be readable
        inference.confidence |= new.confidence
        inference.unfiltered |= new.unfiltered

    # -- push -------------------------------------------------------------------------------

    def _report_push(self, done: int, total: int) -> None:
        self._report("pushing", done / total, "")


def _needs_examples(model: Model) -> bool:
    """Return whether uncertainty means little until each label has a few examples.

    This was measured for heads without text. Label names give the others a start, and a detector
    has to find the few images with objects early.
    """
    is_text_anchored = any(head.anchored == "text" for head in model.heads.values())
    return not model.detectors and not is_text_anchored
