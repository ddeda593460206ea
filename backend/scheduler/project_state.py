"""The scheduler's state of a project."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace

from backend.learning.audit import is_audit
from backend.records import ControlStatus, ProjectStatus, RoundOutcome, RoundStatus
from backend.scheduler.capture_watch import CaptureWatcher
from backend.scheduler.recent_labels import RecentLabels
from backend.scheduler.worker_pool import Turn, WorkerProcess
from backend.store.projects import ProjectRecord

TRAINING_REQUESTED_DETAIL = "Training was requested and starts in a moment"
NEVER_LABELED = float("-inf")


@dataclass
class ProjectState:
    """A project in the scheduler's memory.

    Attributes:
        record: the project's record.
        live_version: the live version; empty before the first.
        live_is_quick: the full training of the live version's detectors follows.
        outcome: outcome of the last round.
        state: state of the current round.
        progress: progress of this state, 0 to 1.
        detail: progress message.
        worker: the process that runs the round.
        is_waiting: the round waits for a free process.
        is_cancelling: its training was cancelled, and ends soon.
        recent_labels: labels that no round has read yet.
        training_paused: a training was cancelled; a new label or Start Training resumes training.
        error: error message of the last round; empty if it succeeded.
        training_requested: Start Training was pressed.
        untrained_reason: why the last Start Training used no new label; empty if it did, or after
            the labels changed.
        pending_events: number of events since the last full round.
        last_labeled_at: time of the last label, on the monotonic clock.
        pauses_done: number of the pauses in labeling (the short and the long one) that had passed
            when the last round began.
        waiting_labels: number of labels that no version was trained on.
        failures: number of consecutive failed rounds.
        locked_elsewhere: another process runs a round of the project.
        is_cleaning: predictions of retired versions are being removed.
        warmed_version: version whose models of smart tools were preloaded; None if none was.
        capture_watcher: starts jobs that import captured images.
        wake_event: set to start a round.
        ready_event: set once there is a version.
        round_lock: held by a round, and by jobs that must not run at the same time.
    """

    record: ProjectRecord
    capture_watcher: CaptureWatcher
    live_version: str = ""
    live_is_quick: bool = False
    outcome: RoundOutcome = RoundOutcome()
    state: str = "idle"
    progress: float = 0.0
    detail: str = ""
    worker: WorkerProcess | None = None
    is_waiting: bool = False
    is_cancelling: bool = False
    recent_labels: RecentLabels = field(default_factory=RecentLabels)
    training_paused: bool = False
    error: str = ""
    training_requested: bool = False
    untrained_reason: str = ""
    pending_events: int = 0
    last_labeled_at: float = NEVER_LABELED
    pauses_done: int = 0
    waiting_labels: int = 0
    failures: int = 0
    locked_elsewhere: bool = False
    is_cleaning: bool = False
    warmed_version: str | None = None
    wake_event: asyncio.Event = field(default_factory=asyncio.Event)
    ready_event: asyncio.Event = field(default_factory=asyncio.Event)
    round_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def is_busy(self) -> bool:
        """Whether a round is running or about to start."""
        return self.wake_event.is_set() or self.state not in ("idle", "failed")

    def set_state(self, state: str, detail: str = "", progress: float | None = None) -> None:
        """Set the state of the current round; None keeps the progress."""
        self.state, self.detail = state, detail
        self.progress = self.progress if progress is None else progress

    @property
    def is_unknown(self) -> bool:
        """Whether Label Studio never answered for the project: its title is not known."""
        return not self.record.title

    @property
    def turn(self) -> Turn:
        """The project's turn for a worker process."""
        return Turn(self.record.id, self.record.server, self.is_unknown)

    def status(self, waiting_detail: str = "") -> ProjectStatus:
        """Return the status of the project, as ``/api/projects/{id}`` returns it.

        Args:
            waiting_detail: what the project waits for; empty when it does not wait.
        """
        status = self.record.status(self.outcome)
        recent = self.recent_labels
        audit_tasks = {t for t in recent.tasks if is_audit(self.record.audit_identity, t)}
        return replace(
            status,
            version=self.live_version or None,
            controls=tuple(map(self._count_examples, status.controls)),
            audit_labels=status.audit_labels + len(audit_tasks),
            labels=max(status.labels, min(status.tasks, status.labels + len(recent))),
            waiting=self.waiting_labels + len(recent),
            new_in_round=recent.since_start if self.worker is not None else 0,
            round=self._round_status(waiting_detail),
            captured=self.capture_watcher.counts(),
            full_training_due=status.full_training_due and self.live_is_quick,
        )

    def _count_examples(self, control: ControlStatus) -> ControlStatus:
        """Return a control with the labels that its counts do not contain yet."""
        added = Counter(
            label
            for task, labels in self.recent_labels.uncounted.items()
            if not is_audit(self.record.audit_identity, task)
            for name, label in labels
            if name == control.name
        )
        counts = {name: count + added[name] for name, count in control.examples.items()}
        return replace(control, examples=counts)

    def _round_status(self, waiting_detail: str) -> RoundStatus:
        if waiting_detail:
            return RoundStatus("observing", 0.0, waiting_detail, waiting=True)
        if self.training_requested and self.wake_event.is_set() and self.worker is None:
            return RoundStatus("observing", 0.0, TRAINING_REQUESTED_DETAIL, waiting=True)
        return RoundStatus(
            self.state,
            self.progress,
            self.detail or None,
            self.error or None,
            cancelling=self.is_cancelling,
        )
