"""State of a project's last full round, which lets the next round skip work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from backend.loop.observe import ProjectFingerprint
from backend.loop.publish.publish import PublishResult
from backend.records import RoundOutcome, RoundRequest

TASK_UPDATE_DELAY = timedelta(minutes=1)
"""Maximum time that Label Studio takes to mark a task as labeled after its annotation."""


@dataclass
class RoundMemory:
    """A project's state after its last full round.

    Attributes:
        fingerprint: fingerprint of the project at that round.
        live_version: the live version at that round.
        outcome: its outcome.
        publish_result: the published predictions and their order.
        known_until: time up to which changes are known, ISO 8601.
        annotated_tasks: tasks that people labeled or relabeled since then.
        skipped_tasks: tasks that people skipped since then.
        newly_answered: tasks of both sets that were neither labeled nor skipped before.
        own_changes: task → time of Prelabel's own last change; later changes are by people.
        awaits_pause: training waits for more labels or a longer pause.
        over_budget: training waits because the monthly budget is spent.
        annotation_counts: numbers of annotations and skips at the last wake-up.
    """

    fingerprint: ProjectFingerprint
    live_version: str
    outcome: RoundOutcome
    publish_result: PublishResult
    known_until: str
    over_budget: bool = False
    awaits_pause: bool = False
    annotated_tasks: set[int] = field(default_factory=set)
    skipped_tasks: set[int] = field(default_factory=set)
    newly_answered: set[int] = field(default_factory=set)
    own_changes: dict[int, str] = field(default_factory=dict)
    annotation_counts: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.annotation_counts = (self.fingerprint.annotation_count, self.fingerprint.skip_count)

    def adjust_request(
        self, request: RoundRequest, fingerprint: ProjectFingerprint
    ) -> RoundRequest:
        """Return the request, not quiet if annotations were added since the last wake-up.

        Without webhooks only the counts show that people are labeling.
        """
        previous_counts, self.annotation_counts = (
            self.annotation_counts,
            (fingerprint.annotation_count, fingerprint.skip_count),
        )
        is_still = self.annotation_counts == previous_counts
        return replace(
            request,
            quiet=request.quiet and is_still,
            long_quiet=request.long_quiet and is_still,
        )

    def record_changes(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Record tasks that people labeled or skipped.

        Args:
            rows: recently changed tasks; already recorded ones are ignored.
        """
        for row in rows:
            if self._is_annotated(row):
                self.annotated_tasks.add(row["id"])
                self.newly_answered |= {row["id"]} & self._open_tasks
            elif self._is_newly_skipped(row):
                self.skipped_tasks.add(row["id"])
                self.newly_answered.add(row["id"])

    def is_up_to_date(self, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Return whether all newly labeled and skipped tasks among the rows are recorded."""
        known_tasks = self.annotated_tasks | self.skipped_tasks
        return all(
            row["id"] in known_tasks
            for row in rows
            if self._is_annotated(row) or self._is_newly_skipped(row)
        )

    def ignore_own_changes(self, rows: Iterable[Mapping[str, Any]], own_tasks: set[int]) -> None:
        """Record Prelabel's own changes, so that they do not count as labels.

        Args:
            rows: all tasks that changed after ``known_until``.
            own_tasks: the ids of those that Prelabel changed.
        """
        changed_rows = list(rows)
        self.own_changes |= {
            r["id"]: str(r["updated_at"]) for r in changed_rows if r["id"] in own_tasks
        }
        if not any(self.is_foreign_change(row) for row in changed_rows):
            self.known_until = max(
                (str(row["updated_at"]) for row in changed_rows), default=self.known_until
            )

    def is_foreign_change(self, row: Mapping[str, Any]) -> bool:
        """Return whether the last change of a task was not Prelabel's own."""
        return self.own_changes.get(row["id"]) != str(row["updated_at"])

    @property
    def _open_tasks(self) -> set[int]:
        """The open tasks at the last update of the queue."""
        return self.publish_result.order.open_tasks

    def _is_annotated(self, row: Mapping[str, Any]) -> bool:
        """Return whether a person labeled an open task or changed a labeled one."""
        edited = str(row["updated_at"]) > self.known_until and self.is_foreign_change(row)
        labeled = row["is_labeled"] and row["total_annotations"]
        return bool(labeled) and (row["id"] in self._open_tasks or edited)

    def _is_newly_skipped(self, row: Mapping[str, Any]) -> bool:
        """Return whether a person skipped an open task for the first time."""
        already_skipped = self.publish_result.order.skipped_tasks
        return (
            _was_skipped(row) and row["id"] in self._open_tasks and row["id"] not in already_skipped
        )


def subtract_update_delay(timestamp: str) -> str:
    """Return a timestamp of Label Studio minus ``TASK_UPDATE_DELAY``, ISO 8601.

    Label Studio updates a task's timestamp when an annotation arrives, but marks the task as
    labeled or skipped a moment later. So recent changes have to be fetched again.
    """
    if not timestamp:
        return timestamp
    return (
        (datetime.fromisoformat(timestamp) - TASK_UPDATE_DELAY).isoformat().replace("+00:00", "Z")
    )


def _was_skipped(row: Mapping[str, Any]) -> bool:
    """Return whether a task was skipped and is not labeled.

    Label Studio also marks skipped tasks as labeled if the project ignores skipped tasks.
    """
    has_annotation = row["is_labeled"] and row["total_annotations"]
    return bool(row["cancelled_annotations"]) and not has_annotation
