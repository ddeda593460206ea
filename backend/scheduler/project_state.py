"""What the server remembers of a project."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from backend.scheduler.capture_watch import Homecoming
from backend.scheduler.worker_pool import WorkerProcess
from backend.store.projects import ProjectRecord

NEVER = float("-inf")


@dataclass
class Watched:
    """A project as the server knows it.

    Attributes:
        record: who it is.
        live: its live version; empty before the first.
        summary: the last round's outcome.
        state: what the round does now.
        progress: of that, 0 to 1.
        detail: of that, for people.
        worker: the process that runs the round.
        held: somebody cancelled a round: the next waits for a new label, or for Start Training.
        error: why the last round failed; empty when it did not.
        forced: somebody pressed Start Training.
        hints: events since the last look.
        last_event: when somebody last labeled, on the monotonic clock.
        quieted: the last look was already one that waits for no more labels.
        waiting: labels that no version has seen.
        failures: rounds that failed in a row.
        barred: another process runs a round of the project.
        cleaning: predictions of retired versions are being removed.
        warmed: what smart tools were made ready for; None before that.
        home: brings captured images back.
        awake: set by whatever wakes it.
        ready: set once there is a version.
        turn: held by a round, and by what must not be done beside one.
    """

    record: ProjectRecord
    home: Homecoming
    live: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    state: str = "idle"
    progress: float = 0.0
    detail: str = ""
    worker: WorkerProcess | None = None
    held: bool = False
    error: str = ""
    forced: bool = False
    hints: int = 0
    last_event: float = NEVER
    quieted: bool = False
    waiting: int = 0
    failures: int = 0
    barred: bool = False
    cleaning: bool = False
    warmed: str | None = None
    awake: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def wants_round(self) -> bool:
        """Whether one is under way, or about to be."""
        return self.awake.is_set() or self.state not in ("idle", "failed")

    def json(self) -> dict[str, Any]:
        """As ``/api/projects/{id}`` shows it; a plain number as id where it is one."""
        known = self.summary
        return {
            "id": int(self.record.id) if self.record.id.isdigit() else self.record.id,
            "server": self.record.server,
            "number": self.record.number,
            "title": known.get("title") or self.record.title,
            "version": self.live or None,
            "round": {
                "state": self.state,
                "progress": self.progress,
                "detail": self.detail or None,
                "error": self.error or None,
            },
            "tasks": known.get("tasks", 0),
            "labels": known.get("labels", 0),
            "waiting": self.waiting,
            "audit": known.get("audit")
            or {"n": 0, "value": None, "low": 0.0, "high": 1.0, "metric": "accuracy"},
            "controls": known.get("controls", []),
            "left_out": known.get("left_out", {}),
            **{key: known.get(key) or {} for key in ("estimate", "outlook", "accepting", "held")},
            "accepted": known.get("accepted", 0),
            "captured": self.home.counts(),
            "versions": known.get("versions", []),
        }
