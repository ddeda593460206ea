"""What a worker process keeps of a project's last full round, to skip work in the next one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from backend.loop.observe import ProjectFingerprint
from backend.loop.publish.publish import PublishResult
from backend.records import RoundOutcome, RoundRequest

TASK_UPDATE_DELAY = timedelta(minutes=1)
"""So long Label Studio may take from an annotation to the mark of its task."""


@dataclass
class RoundMemory:
    """What a process remembers of a project, to answer the next wake-up cheaply.

    Attributes:
        fingerprint: as the lists showed it.
        live_version: the live version then.
        outcome: of that look.
        publish_result: what Label Studio shows of the live version, and in which order.
        known_until: the moment up to which changes are known, ISO 8601.
        annotated_tasks: tasks that people labeled, or whose labels they changed, since the look.
        skipped_tasks: tasks that people skipped since the look.
        newly_answered: those among both that were open and not skipped before.
        own_changes: tasks that we changed since then, and when; a later change is somebody else's.
        over_budget: training waits for next month's money.
        annotation_counts: annotations and skips at the last wake-up.
    """

    fingerprint: ProjectFingerprint
    live_version: str
    outcome: RoundOutcome
    publish_result: PublishResult
    known_until: str
    over_budget: bool = False
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
        """Why a round is wanted, now that the counts are known.

        Where Label Studio's events do not arrive nothing else tells that somebody is labeling.
        """
        previous_counts, self.annotation_counts = (
            self.annotation_counts,
            (fingerprint.annotation_count, fingerprint.skip_count),
        )
        return replace(request, quiet=request.quiet and self.annotation_counts == previous_counts)

    def record_changes(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """People labeled or skipped some tasks.

        Args:
            rows: tasks of the list that changed lately; those known already do no harm.
        """
        for row in rows:
            if self._is_annotated(row):
                self.annotated_tasks.add(row["id"])
                self.newly_answered |= {row["id"]} & self._open_tasks
            elif self._is_newly_skipped(row):
                self.skipped_tasks.add(row["id"])
                self.newly_answered.add(row["id"])

    def is_up_to_date(self, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Whether nobody labeled or skipped a task that was not noticed."""
        known_tasks = self.annotated_tasks | self.skipped_tasks
        return all(
            row["id"] in known_tasks
            for row in rows
            if self._is_annotated(row) or self._is_newly_skipped(row)
        )

    def ignore_own_changes(self, rows: Iterable[Mapping[str, Any]], own_tasks: set[int]) -> None:
        """We touched some tasks: that is not for us to look at.

        Args:
            rows: all tasks that changed after ``known_until``.
            own_tasks: those among them that we touched.
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
        """Whether somebody else was the last to change a task."""
        return self.own_changes.get(row["id"]) != str(row["updated_at"])

    @property
    def _open_tasks(self) -> set[int]:
        """Tasks that nobody had labeled when the queue was last brought up to date."""
        return self.publish_result.order.open_tasks

    def _is_annotated(self, row: Mapping[str, Any]) -> bool:
        """Whether a person labeled an open task, or changed one that was labeled before."""
        edited = str(row["updated_at"]) > self.known_until and self.is_foreign_change(row)
        labeled = row["is_labeled"] and row["total_annotations"]
        return bool(labeled) and (row["id"] in self._open_tasks or edited)

    def _is_newly_skipped(self, row: Mapping[str, Any]) -> bool:
        """Whether somebody skipped an open task that nobody had skipped before."""
        already_skipped = self.publish_result.order.skipped_tasks
        return (
            _was_skipped(row) and row["id"] in self._open_tasks and row["id"] not in already_skipped
        )


def subtract_update_delay(timestamp: str) -> str:
    """A little before a moment of Label Studio's, ISO 8601.

    Label Studio dates a task when its annotation comes, and marks it as labeled or skipped a moment
    later without a new date: what changed shortly before is worth another look.
    """
    if not timestamp:
        return timestamp
    return (
        (datetime.fromisoformat(timestamp) - TASK_UPDATE_DELAY).isoformat().replace("+00:00", "Z")
    )


def _was_skipped(row: Mapping[str, Any]) -> bool:
    """Whether somebody skipped a task of the list that has no answer, or too few.

    A project that ignores skipped tasks marks them as labeled.
    """
    has_annotation = row["is_labeled"] and row["total_annotations"]
    return bool(row["cancelled_annotations"]) and not has_annotation
