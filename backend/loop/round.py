"""One round: observe, decide, train, evaluate, promote, push, point.

Level-triggered: a round compares what Label Studio holds with what the newest version saw and
acts on the difference. What woke it carries nothing; a round that dies is simply done again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from backend.callbacks import StateCallback
from backend.errors import ConfigError, OverBudget, PrelabelError
from backend.loop import card as cards
from backend.loop.observe import (
    Observation,
    ProjectFingerprint,
    count_changes,
    fetch_fingerprint,
    label_table,
    observe,
)
from backend.loop.publish import push as pushing
from backend.loop.publish.publish import Publisher, PublishResult
from backend.loop.publish.queue_order import refresh_queue
from backend.loop.publish.thumbnails import ThumbnailPublisher
from backend.loop.train_version import VersionTrainer
from backend.runtime.project_session import ProjectSession
from backend.store.acceptance import AcceptanceStore
from backend.store.versions import VersionCard

log = logging.getLogger("prelabel")
TASK_UPDATE_DELAY = timedelta(minutes=1)
"""So long Label Studio may take from an annotation to the mark of its task."""


@dataclass(frozen=True)
class RoundRequest:
    """Why a round is wanted.

    Attributes:
        forced: Start Training, or the command line: do not wait for more labels.
        quiet: nobody labeled for a while: do not wait for more labels either.
        hints: events since the last full look, which may be as many changed labels.
        full: look at everything, whatever the pulse says.
        held: somebody cancelled the last round: do not train unless forced.
    """

    forced: bool = False
    quiet: bool = False
    hints: int = 0
    full: bool = False
    held: bool = False


@dataclass(frozen=True)
class RoundOutcome:
    """What a round found and did; the project as ``/api/projects`` shows it.

    Attributes:
        title: the project's.
        version: the live version.
        tasks: how many tasks.
        labels: how many of them a person answered.
        audit: the live version's figure on the audit slice.
        controls: the served controls.
        left_out: what is not used, counted by reason.
        versions: all version names, newest first.
        trained: the version that this round made; empty when none.
        waiting: new or changed labels that no version has seen yet.
        estimate: accuracy by cross-validation while the audit slice is small.
        outlook: what more labels are expected to bring.
        accepting: from which confidence on answers need no person.
        accepted: tasks that were answered so.
        held: the newest version and why it is not live; empty where it is, or once was. Without
            a version: why none is trained.
        cleanup: retired versions may have predictions left.
    """

    title: str
    version: str
    tasks: int
    labels: int
    audit: Mapping[str, Any]
    controls: list[dict[str, Any]]
    left_out: Mapping[str, int]
    versions: list[str]
    trained: str = ""
    waiting: int = 0
    estimate: Mapping[str, Any] = field(default_factory=dict)
    outlook: Mapping[str, Any] = field(default_factory=dict)
    accepting: Mapping[str, Any] = field(default_factory=dict)
    accepted: int = 0
    held: Mapping[str, str] = field(default_factory=dict)
    cleanup: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)


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


class Round:
    """Runs rounds of one project.

    Args:
        session: of the project.
        report: told the state's name, the progress, 0 to 1, and details of it.
        memory: of the last full look by this process.
        cancelled: asked often while training; true ends the round.
    """

    def __init__(
        self,
        session: ProjectSession,
        report: StateCallback,
        memory: RoundMemory | None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings = session.settings
        self._session = session
        self._report = report
        self._cancelled = cancelled
        self._versions = session.versions
        self._stopwatch = cards.Stopwatch()
        self.memory: RoundMemory | None = memory

    def run(self, request: RoundRequest) -> RoundOutcome:
        """One turn of the loop.

        Raises:
            PrelabelError: it cannot go on; the live version stays as it was.
        """
        self._report("observing", 0.0, "")
        self._connection = self._session.connection
        fingerprint = fetch_fingerprint(self._connection)
        request = self.memory.adjust_request(request, fingerprint) if self.memory else request
        if self.memory and self._can_skip(self.memory, fingerprint, request):
            return self._reuse_outcome(self.memory, fingerprint)
        self._versions.remove_leftovers()
        observation = observe(self._connection, self._session.folder, fingerprint)
        self._session.resources.projects.set_title(self._session.id, fingerprint.title)
        self._check_controls(observation)
        self._stopwatch.lap("observe")
        trainer = VersionTrainer(self._session, self._report, self._cancelled, self._stopwatch)
        new_version = trainer.train_if_needed(
            observation,
            force=request.forced or request.quiet,
            on_hold=request.held and not request.forced,
        )
        live_version = self._versions.live() or ""
        publisher = Publisher(self._session, self._report)
        publish_result = publisher.publish(observation, live_version)
        rescored = (
            {} if new_version == live_version else self._update_queue(publish_result, live_version)
        )
        self._stopwatch.lap("push")
        self._upload_live_version()
        outcome = self._build_outcome(
            observation, live_version, new_version, publish_result.unreadable_counts
        )
        if trainer.budget_message:
            outcome = replace(outcome, held={"version": "", "reason": trainer.budget_message})
        self.memory = RoundMemory(
            observation.fingerprint,
            live_version,
            outcome,
            publish_result,
            observation.fingerprint.last_change,
            over_budget=bool(trainer.budget_message),
        )
        if rescored:
            client, project_number = self._connection.client, self._session.number
            self.memory.ignore_own_changes(
                client.iter_changed_tasks(project_number, self.memory.known_until), set(rescored)
            )
        return outcome

    def _update_queue(self, publish_result: PublishResult, live_version: str) -> dict[int, float]:
        """Predictions that are not new stand where they stood before: the front is brought up."""
        return (
            refresh_queue(publish_result.order, self._connection, live_version)
            if publish_result.has_predictions
            else {}
        )

    def _upload_live_version(self) -> None:
        """The endpoint elsewhere gets the live version; the next round tries again if not."""
        try:
            self._session.resources.compute.sync_endpoint()
        except PrelabelError as error:
            log.warning("project %s: %s", self._session.id, error)

    # -- deciding ---------------------------------------------------------------------------

    def _can_skip(
        self, memory: RoundMemory, fingerprint: ProjectFingerprint, request: RoundRequest
    ) -> bool:
        """Whether the pulse shows that a full look would find nothing worth a round."""
        if request.full or request.forced or memory.live_version != (self._versions.live() or ""):
            return False
        previous = memory.fingerprint
        if (fingerprint.config_hash, fingerprint.task_count) != (
            previous.config_hash,
            previous.task_count,
        ):
            return False
        added_annotations = fingerprint.annotation_count - previous.annotation_count
        has_new_counts = added_annotations or fingerprint.skip_count != previous.skip_count
        if (
            not (has_new_counts or request.hints or memory.annotated_tasks)
            and fingerprint.last_change <= memory.known_until
        ):
            should_train = memory.outcome.waiting and request.quiet and not request.held
            return not should_train or (memory.over_budget and self._is_over_budget())
        waiting_count = memory.outcome.waiting + max(1, request.hints, added_annotations)
        return (
            added_annotations >= 0
            and not request.quiet
            and waiting_count < self._settings.retrain_after
        )

    def _is_over_budget(self) -> bool:
        """Whether training still waits for money, as it did at the last full look."""
        try:
            self._session.resources.compute.check_budget()
        except OverBudget:
            return True
        return False

    def _reuse_outcome(self, memory: RoundMemory, fingerprint: ProjectFingerprint) -> RoundOutcome:
        """The last outcome, with the labels that came since counted as waiting.

        Their neighbours are asked for later: the front of the queue is brought up to date.
        """
        previous = memory.outcome
        if memory.publish_result.has_predictions:
            pushing.follow_version(self._connection, previous.version, fingerprint)
        new_annotations = fingerprint.annotation_count - memory.fingerprint.annotation_count
        if fingerprint.last_change > memory.known_until or new_annotations > len(
            memory.newly_answered
        ):
            self._record_new_labels(memory, previous.version)
        new_skips = fingerprint.skip_count - memory.fingerprint.skip_count
        new_labels = max(0, new_annotations - new_skips)
        return replace(
            previous,
            trained="",
            cleanup=False,
            waiting=previous.waiting + max(new_labels, len(memory.annotated_tasks)),
            labels=previous.labels + new_labels,
        )

    def _record_new_labels(self, memory: RoundMemory, live_version: str) -> None:
        """Learn which tasks people labeled or skipped, and let the queue know."""
        client, project_number = self._connection.client, self._session.number
        memory.record_changes(
            client.iter_changed_tasks(project_number, _subtract_delay(memory.known_until))
        )
        if memory.publish_result.has_predictions:
            order = memory.publish_result.order
            refresh_queue(
                order, self._connection, live_version, memory.annotated_tasks, memory.skipped_tasks
            )
            ThumbnailPublisher(self._session).publish_queue(order)
        latest_rows = list(
            client.iter_changed_tasks(project_number, _subtract_delay(memory.known_until))
        )
        if memory.is_up_to_date(latest_rows):  # what came meanwhile is for the next look
            memory.known_until = max(
                (str(row["updated_at"]) for row in latest_rows), default=memory.known_until
            )

    def _check_controls(self, observation: Observation) -> None:
        for name, reason in observation.config.unserved.items():
            log.info("project %s: control %s is not served: %s", self._session.id, name, reason)
        if not observation.config.controls:
            reasons = "; ".join(f"{n}: {r}" for n, r in observation.config.unserved.items())
            raise ConfigError(
                "The labeling config of the project has no control that Prelabel serves "
                f"({reasons or 'it has none for an Image'}): add Choices, RectangleLabels or "
                "KeyPointLabels for an Image."
            )

    def _held_back_version(self, newest: VersionCard | None, live_version: str) -> dict[str, str]:
        """The newest version, where the gate keeps it from going live."""
        if (
            newest is None
            or newest.version == live_version
            or newest.promotion.get("promoted", True)
        ):
            return {}
        return {"version": newest.version, "reason": str(newest.promotion["reason"])}

    def _build_outcome(
        self,
        observation: Observation,
        live_version: str,
        new_version: str,
        unreadable: Counter[str],
    ) -> RoundOutcome:
        card = self._versions.card(live_version)
        newest = self._versions.newest()
        labels = label_table(observation)
        waiting = count_changes(self._versions.labels(newest.version), labels) if newest else 0
        return RoundOutcome(
            title=observation.fingerprint.title,
            version=live_version,
            tasks=len(observation.tasks),
            labels=len(observation.labeled),
            audit=card.audit,
            controls=[
                cards.control_summary(control, card) for control in observation.config.controls
            ],
            left_out=dict(observation.left_out + unreadable),
            versions=self._versions.names(),
            trained=new_version,
            waiting=waiting,
            estimate=card.estimate,
            outlook=card.outlook,
            accepting=AcceptanceStore(self._session.folder).read().describe(card.accepting),
            accepted=sum(task.auto_accepted for task in observation.tasks),
            held=self._held_back_version(newest, live_version),
            cleanup=True,
            seconds=self._stopwatch.seconds(),
        )


def _subtract_delay(timestamp: str) -> str:
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
