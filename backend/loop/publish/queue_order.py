"""Order the labeling queue: all open tasks after a round, and its front after each label.

Label Studio serves the lowest prediction score first, so the order is written as scores. After each
label between rounds, similar images move back without training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from backend.arrays import Floats
from backend.domain import Task
from backend.learning import coverage
from backend.learning.auto_accept import SpotChecks
from backend.learning.coverage import Coverage, is_last_in_cycle
from backend.learning.selection import (
    EXPLORATION_INTERVAL,
    front_score_changes,
    interleave_candidates,
    order_queue,
    rank_scores,
    search_interval,
    selection_weights,
)
from backend.loop.observe import Observation
from backend.runtime.connection import Connection
from backend.store.queue_front import DIFFERENT, RARE_LABEL, QueuedTask, QueueReason

QUEUE_HEAD_SIZE = 12
"""Number of tasks at the front that are reordered between rounds."""
GREEDY_PICK_COUNT = 100
"""Number of tasks that are picked greedily; the rest is sorted by gain."""


@dataclass
class QueueOrder:
    """The order of a project's open tasks.

    Attributes:
        project_identity: stable id of the project.
        pool_tasks: task of each row of ``coverage``, including tasks labeled since it was built.
        coverage: coverage of the open images by the labeled ones.
        open_tasks: all open tasks, including those that cannot be ranked.
        audit_tasks: open tasks of the audit set.
        labeled_count: number of labeled tasks, including audit tasks.
        audit_labeled_count: number of labeled audit tasks.
        diversity_interval: interval of exploration picks, least similar to all covered images,
            while a label is rare; 0: never.
        search_interval: interval of tasks from ``missing_label_tasks``; 0: never.
        overflow_tasks: tasks that exceed the limit of pairwise comparison, most uncertain first.
        missing_label_tasks: tasks most likely to show a label without an example, best first.
        skipped_tasks: open tasks that somebody skipped; they come last.
        prediction_scores: task → id and score of its prediction; fetched at first use.
        uncertainties: open task → uncertainty of the model, 0 to 1.
        is_trained: whether the uncertainties distinguish the open tasks.
        image_addresses: task near the front → URL of its image.
        checks: spot checks of auto-accept.
    """

    project_identity: str
    pool_tasks: list[int]
    coverage: Coverage
    open_tasks: set[int]
    audit_tasks: set[int]
    labeled_count: int
    audit_labeled_count: int
    diversity_interval: int
    search_interval: int
    overflow_tasks: list[int]
    missing_label_tasks: list[int]
    skipped_tasks: list[int] = field(default_factory=list)
    prediction_scores: dict[int, tuple[int, float]] = field(default_factory=dict)
    uncertainties: Mapping[int, float] = field(default_factory=dict)
    is_trained: bool = True
    image_addresses: dict[int, str] = field(default_factory=dict)
    checks: SpotChecks = field(default_factory=SpotChecks)

    def ranked_tasks(self, pick_count: int = GREEDY_PICK_COUNT) -> list[int]:
        """Return all rankable open tasks, first to last.

        Args:
            pick_count: number of tasks picked greedily.
        """
        return self._full_order(*self._pick(pick_count))

    @property
    def _labeled_pool_count(self) -> int:
        """Number of labeled tasks outside the audit set."""
        return self.labeled_count - self.audit_labeled_count

    @property
    def _active_search_interval(self) -> int:
        """Interval of tasks from ``missing_label_tasks``; 0: never."""
        return self.search_interval if self.missing_label_tasks else 0

    @property
    def _picked_count(self) -> int:
        """Number of labeled pool tasks that were regular picks, not missing-label candidates."""
        return self._labeled_pool_count - (
            self._labeled_pool_count // self._active_search_interval
            if self._active_search_interval
            else 0
        )

    def _pick(self, count: int) -> tuple[list[int], Coverage]:
        return coverage.pick_images(
            self.coverage, count, self.diversity_interval, self._picked_count
        )

    def _full_order(self, picked_rows: list[int], updated_coverage: Coverage) -> list[int]:
        """Return the order that begins with the picked rows and ends with skipped tasks."""
        ranked = [
            self.pool_tasks[row] for row in coverage.order_by_gain(updated_coverage, picked_rows)
        ]
        servable = self.open_tasks.difference(self.skipped_tasks)
        missing_label_tasks = [task for task in self.missing_label_tasks if task in servable]
        ranked = [task for task in [*ranked, *self.overflow_tasks] if task in servable]
        ranked = interleave_candidates(
            ranked, missing_label_tasks, self._active_search_interval, self._labeled_pool_count
        )
        audit = self.audit_tasks & servable
        queued = order_queue(
            self.project_identity, ranked, audit, self.labeled_count, self.audit_labeled_count
        )
        return [*self.checks.interleave_into(queued), *self.skipped_tasks]

    def first_tasks(self, count: int) -> list[QueuedTask]:
        """Return the first tasks, each with the reason for its position."""
        picked_rows, updated_coverage = self._pick(count)
        turns = range(self._picked_count, self._picked_count + count)
        outliers = {
            self.pool_tasks[row]
            for row, turn in zip(picked_rows, turns, strict=False)
            if is_last_in_cycle(turn, self.diversity_interval)
        }
        tasks = self._full_order(picked_rows, updated_coverage)[:count]
        reasons = [(task, self._selection_reason(task, outliers)) for task in tasks]
        return [
            QueuedTask(
                task,
                reason,
                round(self.uncertainties.get(task, 0.0), 4) if reason == "uncertain" else 0.0,
            )
            for task, reason in reasons
        ]

    def _selection_reason(self, task: int, outliers: set[int]) -> QueueReason:
        if task in self.audit_tasks:
            return "audit"
        if task in self.checks.pending:
            return "check"
        if self.search_interval and task in self.missing_label_tasks:
            return RARE_LABEL
        if task in outliers:
            return DIFFERENT
        return "uncertain" if self.is_trained else "typical"

    def mark_labeled(self, tasks: Iterable[int]) -> None:
        """Update the order after tasks were labeled; similar images move back."""
        newly_labeled = set(tasks) & self.open_tasks
        self._mark_covered(newly_labeled)
        self.labeled_count += len(newly_labeled)
        self.audit_labeled_count += len(newly_labeled & self.audit_tasks)
        self.open_tasks -= newly_labeled
        self.audit_tasks -= newly_labeled
        self.checks.record_labeled(newly_labeled)
        self.skipped_tasks = [task for task in self.skipped_tasks if task in self.open_tasks]

    def mark_skipped(self, tasks: Iterable[int]) -> None:
        """Move skipped tasks to the end; similar images move back."""
        newly_skipped = (set(tasks) & self.open_tasks).difference(self.skipped_tasks)
        self._mark_covered(newly_skipped)
        self.skipped_tasks += sorted(newly_skipped)

    def _mark_covered(self, tasks: set[int]) -> None:
        rows = [row for row, task in enumerate(self.pool_tasks) if task in tasks]
        self.coverage = coverage.mark_covered(self.coverage, rows)


def build_queue_order(
    observation: Observation,
    vectors: Mapping[int, Floats],
    uncertainties: Mapping[int, float],
    missing_label_tasks: Sequence[int],
    seed: int,
    rarities: Mapping[int, float] | None = None,
    needs_examples: bool = True,
) -> QueueOrder:
    """Build the order of a project's open tasks.

    Args:
        observation: the current tasks and labels.
        vectors: task → (d,) float32 embedding of unit length, of open and labeled tasks.
        uncertainties: open task → uncertainty, 0 to 1; empty before the first training, when all
            tasks have the same weight.
        missing_label_tasks: tasks most likely to show a label without an example, best first.
        seed: random seed.
        rarities: open task → how rare its likely labels are, 0 to 1; 1 if missing.
        needs_examples: the uncertainties mean little until each label has a few examples.
    """
    open_tasks = [task for task in observation.tasks if task.open]
    readable_tasks = [task for task in open_tasks if task.id in vectors]
    skipped = [task for task in readable_tasks if task.skipped]
    audit = {task.id for task in readable_tasks if observation.is_audit(task)}
    pool = _sort_by_content(
        [task.id for task in readable_tasks if task.id not in audit and not task.skipped], vectors
    )
    labeled_pool = _sort_by_content(
        [
            t.id
            for t in [*observation.labeled, *skipped]
            if t.id in vectors and not observation.is_audit(t)
        ],
        vectors,
    )
    frequencies = _label_frequencies(observation)
    weights = selection_weights(
        np.array([uncertainties.get(task, 0.0) for task in pool], dtype=np.float32),
        frequencies if needs_examples else (),
        np.array([(rarities or {}).get(task, 1.0) for task in pool], dtype=np.float32),
    )
    shortlisted = coverage.sample_candidates(
        weights, coverage.MAX_COMPARED_IMAGES, np.random.default_rng(seed)
    )
    rows = [pool[i] for i in shortlisted]
    overflow = np.setdiff1d(np.arange(len(pool)), shortlisted)
    return QueueOrder(
        project_identity=observation.identity,
        pool_tasks=rows,
        coverage=coverage.build_coverage(
            _stack_vectors(rows, vectors),
            weights[shortlisted],
            _stack_vectors(labeled_pool, vectors),
        ),
        open_tasks={task.id for task in open_tasks},
        audit_tasks=audit,
        labeled_count=len(observation.labeled),
        audit_labeled_count=sum(observation.is_audit(task) for task in observation.labeled),
        diversity_interval=search_interval(frequencies, EXPLORATION_INTERVAL),
        search_interval=search_interval(pair for pair in frequencies if not pair[0]),
        missing_label_tasks=[task for task in missing_label_tasks if task in set(rows)],
        skipped_tasks=[task.id for task in skipped],
        overflow_tasks=[pool[i] for i in overflow[np.argsort(-weights[overflow], kind="stable")]],
        uncertainties=uncertainties,
        is_trained=bool(uncertainties) and (len(pool) < 2 or bool(np.ptp(weights) > 0)),
    )


def refresh_queue(
    order: QueueOrder,
    connection: Connection,
    version: str,
    labeled: Iterable[int] = (),
    skipped: Iterable[int] = (),
) -> dict[int, float]:
    """Reorder the front of the queue after labels or skips; other predictions keep their score.

    Args:
        order: current order in Label Studio; updated in place.
        connection: connection to the project.
        version: the live version, whose predictions have the scores.
        labeled: newly labeled tasks.
        skipped: newly skipped tasks.

    Returns:
        task → new score, for changed scores.
    """
    client, project_number = connection.client, connection.project_number
    order.mark_labeled(labeled)
    order.mark_skipped(skipped)
    if not order.prediction_scores:
        order.prediction_scores = client.queue_scores(project_number, version)
    current = {
        task: order.prediction_scores[task]
        for task in order.open_tasks & order.prediction_scores.keys()
    }
    tasks = [task for task in order.ranked_tasks(QUEUE_HEAD_SIZE) if task in current]
    scores = {task: score for task, (_, score) in current.items()}
    rescored = front_score_changes(
        tasks[:QUEUE_HEAD_SIZE], rank_scores(tasks), scores, order.skipped_tasks
    )
    for task, score in rescored.items():
        prediction = current[task][0]
        client.update_prediction(prediction, {"score": score})
        order.prediction_scores[task] = (prediction, score)
    return rescored


def _label_frequencies(observation: Observation) -> list[tuple[int, int]]:
    """Return the number of training images with each label, and of those where it was available."""
    example_counts = count_examples(observation)
    available_counts = {name: dict.fromkeys(counts, 0) for name, counts in example_counts.items()}
    for task in observation.labeled:
        for control, labels in available_counts.items():
            if not observation.is_audit(task) and control in _labels_by_control(task):
                for label in (task.available_labels or {}).get(control, labels.keys()):
                    if label in labels:
                        labels[label] += 1
    return [
        (count, available_counts[control][label])
        for control, counts in example_counts.items()
        for label, count in counts.items()
    ]


def count_examples(observation: Observation) -> dict[str, dict[str, int]]:
    """Return control → label → number of training images that have it."""
    counts = {c.name: dict.fromkeys(c.label_names, 0) for c in observation.config.controls}
    for task in observation.labeled:
        if not observation.is_audit(task):
            for control, labels in _labels_by_control(task).items():
                for label in labels & counts[control].keys():
                    counts[control][label] += 1
    return counts


def _labels_by_control(task: Task) -> dict[str, frozenset[str]]:
    """Return control → annotated labels."""
    region_labels = {
        c: frozenset(p.label for p in regions) for c, regions in (task.regions or {}).items()
    }
    return {**(task.choices or {}), **region_labels}


def _sort_by_content(tasks: Sequence[int], vectors: Mapping[int, Floats]) -> list[int]:
    """Sort tasks so that ties between images are not resolved by id."""
    return [tasks[row] for row in coverage.content_order(_stack_vectors(tasks, vectors))]


def _stack_vectors(tasks: Sequence[int], vectors: Mapping[int, Floats]) -> Floats:
    if not tasks:
        return np.zeros((0, 0), dtype=np.float32)
    return np.stack([vectors[task] for task in tasks])
