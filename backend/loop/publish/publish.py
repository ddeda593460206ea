"""The live version's answers to all open tasks, in the order in which people shall see them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from backend.arrays import Floats
from backend.callbacks import StateCallback
from backend.domain import Prediction, Task
from backend.inference.detect import InferenceResult, run_detectors
from backend.inference.embed import EmbeddingResult, task_vectors
from backend.inference.model import Model
from backend.inference.predict import (
    build_predictions,
    choice_uncertainties,
    count_unreadable,
    image_sources,
    predict_probabilities,
    region_uncertainties,
    task_confidences,
)
from backend.learning.nearest_neighbours import rank_by_label_text
from backend.learning.selection import rank_scores
from backend.loop.observe import Observation
from backend.loop.publish import auto_accept
from backend.loop.publish import push as pushing
from backend.loop.publish.queue_order import QueueOrder, build_queue_order, count_examples
from backend.loop.publish.thumbnails import ThumbnailPublisher
from backend.runtime.project_session import ProjectSession
from backend.store.acceptance import AcceptanceStore
from backend.store.files import read_json, write_json

QUEUE_TAB_TITLE = "Prelabel: ask next"
"""The Data Manager's tab in this order, for projects that several people work in."""

TASKS_PER_LABEL = 10
"""Tasks that are put forward for each label without an example."""
QUEUE_TAB_VIEW = {
    "ordering": ["tasks:predictions_score"],
    "filters": {
        "conjunction": "and",
        "items": [
            {
                "filter": "filter:tasks:total_annotations",
                "operator": "equal",
                "type": "Number",
                "value": 0,
            }
        ],
    },
}


@dataclass(frozen=True)
class PublishResult:
    """What became of a push.

    Attributes:
        has_predictions: Label Studio has a prediction of the live version.
        unreadable_counts: images that could not be read, by reason.
        order: of the open tasks.
    """

    has_predictions: bool
    unreadable_counts: Counter[str]
    order: QueueOrder


class Publisher:
    """Presents the live version of one project.

    Args:
        session: of the project.
        report: told state, progress and details.
    """

    def __init__(
        self,
        session: ProjectSession,
        report: StateCallback,
    ) -> None:
        self._session = session
        self._connection = session.connection
        self._report = report

    def publish(self, observation: Observation, live_version: str) -> PublishResult:
        """Every open task has one prediction of the live version, and the queue follows it."""
        self._report("pushing", 0.0, "")
        controls = observation.config.controls
        embeddings = self._embed(observation)
        open_tasks = [task for task in observation.tasks if task.open]
        existing, missing_ids = pushing.missing_predictions(
            self._connection, live_version, (task.id for task in open_tasks)
        )
        model = self._session.model(live_version)
        new = [task for task in open_tasks if task.id in missing_ids]
        inference = self._run_detectors(observation, model, new)
        probabilities = predict_probabilities(model, controls, open_tasks, embeddings)
        uncertainties = self._open_uncertainties(
            observation, live_version, probabilities, inference
        )
        vectors = task_vectors(observation.tasks, embeddings)
        missing_label_tasks = self._find_missing_labels(
            observation, {t.id: vectors[t.id] for t in open_tasks if t.id in vectors}
        )
        order = build_queue_order(
            observation, vectors, uncertainties, missing_label_tasks, self._session.settings.seed
        )
        to_accept = self._select_auto_accepts(
            observation, live_version, model, probabilities, embeddings, inference, order
        )
        if new:
            scores = rank_scores(order.ranked_tasks())
            new_predictions = build_predictions(
                model, controls, new, probabilities, scores, embeddings, inference
            )
            pushing.push_predictions(
                self._connection,
                live_version,
                new_predictions,
                observation.controls,
                self._report_push,
            )
        if existing or new:
            pushing.follow_version(self._connection, live_version, observation.fingerprint)
            self._update_tab()
        order.open_tasks -= auto_accept.auto_accept(
            self._connection, observation.controls, to_accept
        )
        ThumbnailPublisher(self._session).publish_round(order, open_tasks)
        errors = {**self._session.images.errors, **embeddings.errors}
        return PublishResult(
            bool(existing or new), count_unreadable(observation.tasks, controls, errors), order
        )

    def _embed(self, observation: Observation) -> EmbeddingResult:
        """All images, by the live version's encoder."""
        encoder = self._session.live_encoder()
        return self._session.embedder(encoder).embed(
            image_sources(observation.tasks, observation.config.controls),
            lambda done, total: self._report("pushing", done / total if total else 1.0, ""),
        )

    def _find_missing_labels(
        self, observation: Observation, vectors: Mapping[int, Floats]
    ) -> list[int]:
        """The tasks that most likely show a label without an example, by the label's text."""
        encoder = self._session.live_encoder()
        candidates: list[int] = []
        example_counts = count_examples(observation)
        for control in observation.config.controls:
            names = control.label_names
            missing_labels = [
                index for index, name in enumerate(names) if not example_counts[control.name][name]
            ]
            is_partial = (
                0 < len(missing_labels) < len(names)
            )  # before any label nothing is rarer than others
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

    def _open_uncertainties(
        self,
        observation: Observation,
        live_version: str,
        probabilities: Mapping[str, Mapping[int, Floats]],
        inference: InferenceResult,
    ) -> dict[int, float]:
        """How much each open task would teach; of finds as they were when they were made.

        How sure those were is kept beside it, and given back: a version looks only once.
        """
        uncertainties = choice_uncertainties(observation.config.controls, probabilities)
        file = self._session.folder / "unsure.json"
        stored = read_json(file) or {}
        stored = stored if stored.get("version") == live_version else {}
        region_values, confidence = (
            {int(t): v for t, v in stored.get(key, {}).items()} for key in ("tasks", "sure")
        )
        new_values = region_uncertainties(observation.identity, inference)
        region_values |= new_values
        inference.confidence = confidence | {
            task: float(value) for task, value in inference.confidence.items()
        }
        if new_values:
            write_json(
                file,
                {"version": live_version, "tasks": region_values, "sure": inference.confidence},
            )
        for task, value in region_values.items():
            uncertainties[task] = max(uncertainties.get(task, 0.0), value)
        return uncertainties

    def _run_detectors(
        self, observation: Observation, model: Model, tasks: Sequence[Task]
    ) -> InferenceResult:
        if not model.detectors:
            return InferenceResult()
        inference = run_detectors(
            model,
            observation.config.controls,
            tasks,
            self._session.images,
            lambda done, total: self._report("pushing", done / total, f"image {done} of {total}"),
        )
        self._session.resources.image_copies.trim()
        return inference

    def _select_auto_accepts(
        self,
        observation: Observation,
        live_version: str,
        model: Model,
        probabilities: Mapping[str, Mapping[int, Floats]],
        embeddings: EmbeddingResult,
        inference: InferenceResult,
        order: QueueOrder,
    ) -> Sequence[Prediction]:
        """Answers to be given without a person, where the project wants that.

        What people found of those given before counts first; those that go to people all the same
        get their places in the order.
        """
        controls = observation.config.controls
        error_bound = auto_accept.accept_error_bound(controls, self._session.settings.accept_error)
        if not error_bound:
            return []
        versions = self._session.versions
        store = AcceptanceStore(self._session.folder)
        previous = store.read()
        state = auto_accept.record_reviews(previous, observation, model)
        state = auto_accept.suspend_if_broken(state, error_bound, versions.cards())
        card = versions.card(live_version)

        def predict_selected(is_selected: Callable[[int], bool]) -> list[Prediction]:
            confidence = task_confidences(model, controls, probabilities, inference)
            tasks = auto_accept.acceptable_tasks(
                card, state, observation, confidence, model, error_bound
            )
            tasks = [task for task in tasks if is_selected(task.id)]
            return build_predictions(
                model,
                controls,
                tasks,
                probabilities,
                confidence,
                embeddings,
                inference,
                unfiltered=True,
            )

        due_tasks = auto_accept.tasks_needing_predictions(
            state, observation, predict_selected(lambda task: True)
        )
        self._detect_missing(observation, model, due_tasks, inference)
        state, to_accept = auto_accept.plan_acceptance(
            state, observation, live_version, predict_selected(due_tasks.__contains__)
        )
        if state != previous:
            store.write(state)
        order.checks = auto_accept.spot_checks(state, observation)
        return to_accept

    def _detect_missing(
        self,
        observation: Observation,
        model: Model,
        due_tasks: Set[int],
        inference: InferenceResult,
    ) -> None:
        """At what is answered now and was looked at by an earlier round, which kept no places."""
        missing_tasks = [
            task for task in observation.tasks if task.id in due_tasks - inference.unfiltered.keys()
        ]
        new_inference = self._run_detectors(observation, model, missing_tasks)
        for task in missing_tasks:
            inference.confidence.pop(task.id, None)  # its image may be gone
        inference.confidence |= new_inference.confidence
        inference.unfiltered |= new_inference.unfiltered

    def _update_tab(self) -> None:
        """Several people may prefer to pick from a list: the same order as a tab."""
        client = self._connection.client
        if client.count_users() > 1:
            client.ensure_tab(self._session.number, QUEUE_TAB_TITLE, QUEUE_TAB_VIEW)

    def _report_push(self, done: int, total: int) -> None:
        self._report("pushing", done / total, "")
