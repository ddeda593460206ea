"""The live version's answers to all open tasks, in the order in which people shall see them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from backend.arrays import Floats
from backend.callbacks import StateCallback
from backend.domain import Prediction, Task
from backend.inference.detect import Looked, look
from backend.inference.embed import Embedded, vectors_of
from backend.inference.model import Model
from backend.inference.predict import (
    certainties,
    confidences,
    place_uncertainties,
    predictions,
    sources,
    task_uncertainty,
    unreadable,
)
from backend.learning.nearest_neighbours import looked_for
from backend.learning.selection import rank_scores
from backend.loop.observe import Observation
from backend.loop.publish import auto_accept
from backend.loop.publish import push as pushing
from backend.loop.publish.queue_order import Order, examples, order_of
from backend.loop.publish.thumbnails import Showcase
from backend.runtime.connection import Connection
from backend.runtime.resources import Resources
from backend.store.acceptance import Acceptances
from backend.store.files import read_json, write_json
from backend.store.projects import ProjectRecord

TAB = "Prelabel: ask next"
"""The Data Manager's tab in this order, for projects that several people work in."""

SOUGHT = 10
"""Tasks that are put forward for each label without an example."""
IN_ORDER = {
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
class Presented:
    """What became of a push.

    Attributes:
        any: Label Studio has a prediction of the live version.
        unread: images that could not be read, by reason.
        order: of the open tasks.
    """

    any: bool
    unread: Counter[str]
    order: Order


class Presenter:
    """Presents the live version of one project.

    Args:
        resources: of this process.
        record: the project.
        connection: to its Label Studio.
        report: told state, progress and details.
    """

    def __init__(
        self,
        resources: Resources,
        record: ProjectRecord,
        connection: Connection,
        report: StateCallback,
    ) -> None:
        self._resources = resources
        self._record = record
        self._connection = connection
        self._report = report

    def present(self, seen: Observation, live: str) -> Presented:
        """Every open task has one prediction of the live version, and the queue follows it."""
        self._report("pushing", 0.0, "")
        controls = seen.config.controls
        embedded = self._embed(seen)
        open_tasks = [task for task in seen.tasks if task.open]
        there, wanted = pushing.missing(self._connection, live, (task.id for task in open_tasks))
        model = self._resources.model(self._record, live)
        new = [task for task in open_tasks if task.id in wanted]
        looked = self._look(seen, model, new)
        beliefs = confidences(model, controls, open_tasks, embedded)
        unsure = self._unsure(seen, live, beliefs, looked)
        vectors = vectors_of(seen.tasks, embedded)
        sought = self._sought(seen, {t.id: vectors[t.id] for t in open_tasks if t.id in vectors})
        order = order_of(seen, vectors, unsure, sought, self._resources.settings.seed)
        accepted = self._acceptable(seen, live, model, beliefs, embedded, looked, order)
        if new:
            ranks = rank_scores(order.tasks())
            made = predictions(model, controls, new, beliefs, ranks, embedded, looked)
            pushing.push(self._connection, live, made, seen.controls, self._pushed)
        if there or new:
            pushing.point(self._connection, live, seen.pulse)
            self._keep_tab()
        order.open -= auto_accept.accept(self._connection, seen.controls, accepted)
        Showcase(self._resources, self._record).show_round(order, open_tasks)
        failed = {**self._resources.pictures(self._record).failed, **embedded.failed}
        return Presented(bool(there or new), unreadable(seen.tasks, controls, failed), order)

    def _embed(self, seen: Observation) -> Embedded:
        """All images, by the live version's encoder."""
        encoder = self._resources.viewer(self._record)
        return self._resources.embedder(self._record, encoder).embed(
            sources(seen.tasks, seen.config.controls),
            lambda done, of: self._report("pushing", done / of if of else 1.0, ""),
        )

    def _sought(self, seen: Observation, vectors: Mapping[int, Floats]) -> list[int]:
        """The tasks that most likely show a label without an example, by the label's text."""
        encoder = self._resources.viewer(self._record)
        found: list[int] = []
        given = examples(seen)
        for control in seen.config.controls:
            names = control.label_names
            wanted = [k for k, name in enumerate(names) if not given[control.name][name]]
            known = 0 < len(wanted) < len(names)  # before any label nothing is rarer than others
            text = self._resources.prototypes(encoder, control) if known and vectors else None
            if text is not None:
                tasks, stack = list(vectors), np.stack(list(vectors.values()))
                rows = looked_for(stack, text, wanted)
                found += [tasks[row] for row in rows[: SOUGHT * len(wanted)]]
        return found

    def _unsure(
        self,
        seen: Observation,
        live: str,
        beliefs: Mapping[str, Mapping[int, Floats]],
        looked: Looked,
    ) -> dict[int, float]:
        """How much each open task would teach; of finds as they were when they were made.

        How sure those were is kept beside it, and given back: a version looks only once.
        """
        unsure = task_uncertainty(seen.config.controls, beliefs)
        file = self._resources.folder(self._record) / "unsure.json"
        kept = read_json(file) or {}
        kept = kept if kept.get("version") == live else {}
        found, sure = (
            {int(t): v for t, v in kept.get(key, {}).items()} for key in ("tasks", "sure")
        )
        new = place_uncertainties(seen.identity, looked)
        found |= new
        looked.sure = sure | {task: float(value) for task, value in looked.sure.items()}
        if new:
            write_json(file, {"version": live, "tasks": found, "sure": looked.sure})
        for task, value in found.items():
            unsure[task] = max(unsure.get(task, 0.0), value)
        return unsure

    def _look(self, seen: Observation, model: Model, tasks: Sequence[Task]) -> Looked:
        if not model.finders:
            return Looked()
        looked = look(
            model,
            seen.config.controls,
            tasks,
            self._resources.pictures(self._record),
            lambda done, of: self._report("pushing", done / of, f"image {done} of {of}"),
        )
        self._resources.picture_files.trim()
        return looked

    def _acceptable(
        self,
        seen: Observation,
        live: str,
        model: Model,
        beliefs: Mapping[str, Mapping[int, Floats]],
        embedded: Embedded,
        looked: Looked,
        order: Order,
    ) -> Sequence[Prediction]:
        """Answers to be given without a person, where the project wants that.

        What people found of those given before counts first; those that go to people all the same
        get their places in the order.
        """
        controls = seen.config.controls
        error = auto_accept.wanted(controls, self._resources.settings.accept_error)
        if not error:
            return []
        versions = self._resources.versions(self._record)
        kept = Acceptances(self._resources.folder(self._record))
        before = kept.read()
        state = auto_accept.reviewed(before, seen, model)
        state = auto_accept.suspended(state, error, versions.cards())
        card = versions.card(live)

        def answers(among: Callable[[int], bool]) -> list[Prediction]:
            sure = certainties(model, controls, beliefs, looked)
            tasks = auto_accept.acceptable(card, state, seen, sure, model, error)
            tasks = [task for task in tasks if among(task.id)]
            return predictions(model, controls, tasks, beliefs, sure, embedded, looked, whole=True)

        due = auto_accept.due(state, seen, answers(lambda task: True))
        self._look_again(seen, model, due, looked)
        state, give = auto_accept.remembered(state, seen, live, answers(due.__contains__))
        if state != before:
            kept.write(state)
        order.checks = auto_accept.checks_of(state, seen)
        return give

    def _look_again(self, seen: Observation, model: Model, due: Set[int], looked: Looked) -> None:
        """At what is answered now and was looked at by an earlier round, which kept no places."""
        missing = [task for task in seen.tasks if task.id in due - looked.whole.keys()]
        again = self._look(seen, model, missing)
        for task in missing:
            looked.sure.pop(task.id, None)  # its image may be gone
        looked.sure |= again.sure
        looked.whole |= again.whole

    def _keep_tab(self) -> None:
        """Several people may prefer to pick from a list: the same order as a tab."""
        client = self._connection.client
        if client.people() > 1:
            client.keep_tab(self._record.number, TAB, IN_ORDER)

    def _pushed(self, done: int, of: int) -> None:
        self._report("pushing", done / of, "")
