"""Which open task is asked for next: the whole order after a round, the front of it after a label.

Label Studio serves the lowest score first, so the order is written into the scores. A label that
comes between rounds lowers the value of similar images at once, without training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from backend.arrays import Floats
from backend.domain import Task
from backend.learning import coverage
from backend.learning.auto_accept import Checks
from backend.learning.coverage import Coverage, is_turn
from backend.learning.selection import UNLIKE, mixed, moves, queue, rank_scores, seeking
from backend.loop.observe import Observation
from backend.runtime.connection import Connection
from backend.store.queue_front import Asked, Why

HEAD = 12
"""Tasks at the front that are kept in order between rounds."""
PICKED = 100
"""Tasks that are chosen one by one, each with those before it in mind; the rest by their gain."""


@dataclass
class Order:
    """The order of a project's open tasks.

    Attributes:
        project: its identity.
        rows: the tasks of the pool, by row of the coverage; those labeled since too.
        coverage: what the labeled images already show of the others.
        open: every open task, also those that cannot be ranked.
        audit: open tasks of the audit slice.
        labeled: tasks labeled so far, the audit ones among them.
        audit_labeled: audit tasks labeled so far.
        seeking: one pick in so many is the image least like any, because some label has hardly an
            example; 0: none is.
        searching: one task in so many is a sought one, while some label has no example; 0: none.
        others: tasks of a pool that is too large to compare each with each, least certain first.
        sought: tasks that most likely show a label without an example, best first.
        skipped: open tasks that somebody skipped: they may be served to others, after all others.
        places: task → its prediction in Label Studio, its score; asked for when first needed.
        learned_before: the model has learned something, so that being unsure means something.
        images: by task near the front, its image's address.
        checks: tasks that could have been accepted and go to people.
    """

    project: str
    rows: list[int]
    coverage: Coverage
    open: set[int]
    audit: set[int]
    labeled: int
    audit_labeled: int
    seeking: int
    searching: int
    others: list[int]
    sought: list[int]
    skipped: list[int] = field(default_factory=list)
    places: dict[int, tuple[int, float]] = field(default_factory=dict)
    learned_before: bool = True
    images: dict[int, str] = field(default_factory=dict)
    checks: Checks = field(default_factory=Checks)

    def tasks(self, picked: int = PICKED) -> list[int]:
        """All open tasks that can be ranked, first to last.

        Args:
            picked: how many are chosen with those before them in mind.
        """
        return self._whole(*self._pick(picked))

    @property
    def _taught(self) -> int:
        """Tasks of the pool that were labeled."""
        return self.labeled - self.audit_labeled

    @property
    def _every(self) -> int:
        """One place of the pool in so many is a sought task's."""
        return self.searching if self.sought else 0

    @property
    def _picked(self) -> int:
        """How many of the labeled ones were picked, and not sought."""
        return self._taught - (self._taught // self._every if self._every else 0)

    def _pick(self, count: int) -> tuple[list[int], Coverage]:
        return coverage.pick(self.coverage, count, self.seeking, self._picked)

    def _whole(self, head: list[int], after: Coverage) -> list[int]:
        """The order that begins with rows that were picked, and ends with what was skipped."""
        ranked = [self.rows[row] for row in coverage.ordered(after, head)]
        wanted = self.open.difference(self.skipped)
        sought = [task for task in self.sought if task in wanted]
        ranked = [task for task in [*ranked, *self.others] if task in wanted]
        ranked = mixed(ranked, sought, self._every, self._taught)
        audit = self.audit & wanted
        served = queue(self.project, ranked, audit, self.labeled, self.audit_labeled)
        return [*self.checks.among(served), *self.skipped]

    def front(self, count: int) -> list[Asked]:
        """The first tasks, and why each of them is there."""
        head, after = self._pick(count)
        turns = range(self._picked, self._picked + count)
        unlike = {
            self.rows[row]
            for row, turn in zip(head, turns, strict=False)
            if is_turn(turn, self.seeking)
        }
        weights = dict(zip(self.rows, self.coverage.weights.tolist(), strict=True))
        tasks = self._whole(head, after)[:count]
        asked = [(task, self._why(task, unlike)) for task in tasks]
        return [
            Asked(task, why, round(weights.get(task, 0.0), 4) if why == "uncertain" else 0.0)
            for task, why in asked
        ]

    def _why(self, task: int, unlike: set[int]) -> Why:
        if task in self.audit:
            return "audit"
        if task in self.checks.waiting:
            return "check"
        if self.searching and task in self.sought:
            return "sought"
        if task in unlike:
            return "unlike"
        return "uncertain" if self.learned_before else "typical"

    def learned(self, tasks: Iterable[int]) -> None:
        """Somebody labeled tasks: what is like them is worth less now."""
        done = set(tasks) & self.open
        self._cover(done)
        self.labeled += len(done)
        self.audit_labeled += len(done & self.audit)
        self.open -= done
        self.audit -= done
        self.checks.learned(done)
        self.skipped = [task for task in self.skipped if task in self.open]

    def passed(self, tasks: Iterable[int]) -> None:
        """Somebody skipped tasks: they, and what is like them, are not put before people again."""
        gone = (set(tasks) & self.open).difference(self.skipped)
        self._cover(gone)
        self.skipped += sorted(gone)

    def _cover(self, tasks: set[int]) -> None:
        rows = [row for row, task in enumerate(self.rows) if task in tasks]
        self.coverage = coverage.covered(self.coverage, rows)


def order_of(
    seen: Observation,
    vectors: Mapping[int, Floats],
    unsure: Mapping[int, float],
    sought: Sequence[int],
    seed: int,
) -> Order:
    """The order of a project's open tasks.

    Args:
        seen: the project.
        vectors: by task, (d,) float32 of unit length; of labeled tasks too.
        unsure: by open task, how much its label would teach, 0 to 1; empty before anything is
            learned: then all count alike.
        sought: tasks that most likely show a label without an example, best first.
        seed: of everything random.
    """
    open_tasks = [task for task in seen.tasks if task.open]
    known = [task for task in open_tasks if task.id in vectors]
    skipped = [task for task in known if task.skipped]
    audit = {task.id for task in known if seen.is_audit(task)}
    pool = [task.id for task in known if task.id not in audit and not task.skipped]
    taught = [t.id for t in [*seen.labeled, *skipped] if t.id in vectors and not seen.is_audit(t)]
    weights = np.array([unsure.get(t, 0.0) if unsure else 1.0 for t in pool], dtype=np.float32)
    chosen = coverage.shortlist(weights, coverage.LARGEST, np.random.default_rng(seed))
    rows = [pool[i] for i in chosen]
    rest = np.setdiff1d(np.arange(len(pool)), chosen)
    found = _found(seen)
    return Order(
        project=seen.identity,
        rows=rows,
        coverage=coverage.survey(_stack(rows, vectors), weights[chosen], _stack(taught, vectors)),
        open={task.id for task in open_tasks},
        audit=audit,
        labeled=len(seen.labeled),
        audit_labeled=sum(seen.is_audit(task) for task in seen.labeled),
        seeking=seeking(found, UNLIKE),
        searching=seeking(pair for pair in found if not pair[0]),
        sought=[task for task in sought if task in set(rows)],
        skipped=[task.id for task in skipped],
        others=[pool[i] for i in rest[np.argsort(-weights[rest], kind="stable")]],
        learned_before=bool(unsure),
    )


def refresh(
    order: Order,
    connection: Connection,
    version: str,
    labeled: Iterable[int] = (),
    skipped: Iterable[int] = (),
) -> dict[int, float]:
    """Bring the front of the queue up to date with labels that came since.

    Args:
        order: as it stands in Label Studio; is changed.
        connection: the project.
        version: the live one, whose predictions carry the scores.
        labeled: tasks that were labeled.
        skipped: tasks that were skipped.

    Returns:
        the scores that were changed, by task.
    """
    client, number = connection.client, connection.number
    order.learned(labeled)
    order.passed(skipped)
    if not order.places:
        order.places = client.places(number, version)
    there = {task: order.places[task] for task in order.open & order.places.keys()}
    tasks = [task for task in order.tasks(HEAD) if task in there]
    scores = {task: score for task, (_, score) in there.items()}
    changed = moves(tasks[:HEAD], rank_scores(tasks), scores, order.skipped)
    for task, score in changed.items():
        prediction = there[task][0]
        client.change_prediction(prediction, {"score": score})
        order.places[task] = (prediction, score)
    return changed


def _found(seen: Observation) -> list[tuple[int, int]]:
    """Of each label: in how many images that are learned from it was given, and was asked for."""
    given = examples(seen)
    asked = {name: dict.fromkeys(counts, 0) for name, counts in given.items()}
    for task in seen.labeled:
        for control, labels in asked.items():
            if not seen.is_audit(task) and control in _given(task):
                for label in (task.asked or {}).get(control, labels.keys()):
                    if label in labels:
                        labels[label] += 1
    return [
        (count, asked[control][label])
        for control, counts in given.items()
        for label, count in counts.items()
    ]


def examples(seen: Observation) -> dict[str, dict[str, int]]:
    """By control and label, in how many images that are learned from it was given."""
    counts = {c.name: dict.fromkeys(c.label_names, 0) for c in seen.config.controls}
    for task in seen.labeled:
        if not seen.is_audit(task):
            for control, labels in _given(task).items():
                for label in labels & counts[control].keys():
                    counts[control][label] += 1
    return counts


def _given(task: Task) -> dict[str, frozenset[str]]:
    """By control, the labels that a person gave."""
    places = {c: frozenset(p.label for p in found) for c, found in (task.places or {}).items()}
    return {**(task.answers or {}), **places}


def _stack(tasks: Sequence[int], vectors: Mapping[int, Floats]) -> Floats:
    if not tasks:
        return np.zeros((0, 0), dtype=np.float32)
    return np.stack([vectors[task] for task in tasks])
