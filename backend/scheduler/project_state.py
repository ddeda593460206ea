"""What the server remembers of a project."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from backend.records import ProjectStatus, RoundOutcome, RoundStatus
from backend.scheduler.capture_watch import CaptureWatcher
from backend.scheduler.worker_pool import WorkerProcess
from backend.store.projects import ProjectRecord

NEVER_LABELED = float("-inf")


@dataclass
class ProjectState:
    """A project as the server knows it.

    Attributes:
        record: who it is.
        live_version: its live version; empty before the first.
        outcome: the last round's.
        state: what the round does now.
        progress: of that, 0 to 1.
        detail: of that, for people.
        worker: the process that runs the round.
        training_paused: after a cancelled round, until a new label or Start Training.
        error: why the last round failed; empty when it did not.
        training_requested: somebody pressed Start Training.
        pending_events: events since the last look.
        last_labeled_at: when somebody last labeled, on the monotonic clock.
        quiet_round_done: the last look was already one that waits for no more labels.
        waiting_labels: labels that no version has seen.
        failures: rounds that failed in a row.
        locked_elsewhere: another process runs a round of the project.
        is_cleaning: predictions of retired versions are being removed.
        warmed_version: what smart tools were made ready for; None before that.
        capture_watcher: brings captured images back.
        wake_event: set by whatever wakes it.
        ready_event: set once there is a version.
        round_lock: held by a round, and by what must not be done beside one.
    """

    record: ProjectRecord
    capture_watcher: CaptureWatcher
    live_version: str = ""
    outcome: RoundOutcome = RoundOutcome()
    state: str = "idle"
    progress: float = 0.0
    detail: str = ""
    worker: WorkerProcess | None = None
    training_paused: bool = False
    error: str = ""
    training_requested: bool = False
    pending_events: int = 0
    last_labeled_at: float = NEVER_LABELED
    quiet_round_done: bool = False
    waiting_labels: int = 0
    failures: int = 0
    locked_elsewhere: bool = False
    is_cleaning: bool = False
    warmed_version: str | None = None
    wake_event: asyncio.Event = field(default_factory=asyncio.Event)
    ready_event: asyncio.Event = field(default_factory=asyncio.Event)
    round_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def wants_round(self) -> bool:
        """Whether one is under way, or about to be."""
        return self.wake_event.is_set() or self.state not in ("idle", "failed")

    def status(self) -> ProjectStatus:
        """Return the project as ``/api/projects/{id}`` shows it."""
        return replace(
            self.record.status(self.outcome),
            version=self.live_version or None,
            waiting=self.waiting_labels,
            round=RoundStatus(self.state, self.progress, self.detail or None, self.error or None),
            captured=self.capture_watcher.counts(),
        )
