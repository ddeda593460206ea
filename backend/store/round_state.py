"""The state of the round that runs on a project, for other processes of this home folder."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from backend.callbacks import StateCallback
from backend.errors import StoreError
from backend.json_records import JsonObject, unknown_keys
from backend.records import RoundStatus
from backend.store.files import remove_file
from backend.store.record_files import read_cache, write_record

ROUND_STATE_FILE = "round.json"
WRITE_INTERVAL_SECONDS = 0.5
"""Interval of updates within one state."""
MAX_SILENCE_SECONDS = 3600.0
"""Age at which the state of a process on another machine counts as left over."""


@dataclass(frozen=True)
class StoredRoundState:
    """The state of a round.

    Attributes:
        round: the state.
        process: id of the process that runs it; 0 if no round runs.
        host: name of the process's machine.
        at: time of the last update, seconds since 1970.
    """

    round: RoundStatus = RoundStatus()
    process: int = 0
    host: str = ""
    at: float = 0.0
    unknown: JsonObject = unknown_keys()

    @property
    def is_alive(self) -> bool:
        """Whether its process still runs."""
        if self.host != socket.gethostname():
            return time.time() - self.at < MAX_SILENCE_SECONDS
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except (PermissionError, OverflowError):
            return True
        return True


@contextlib.contextmanager
def published_round(
    folder: Path, report: StateCallback, clock: Callable[[], float] = time.monotonic
) -> Iterator[StateCallback]:
    """Publish the state of a round while it runs; the caller holds the lock of its project.

    Args:
        folder: the project's folder.
        report: also receives the progress.
        clock: clock in seconds.

    Yields:
        the callback that the round reports to.
    """
    last_state, written_at = "", 0.0

    def publish(state: str, progress: float, detail: str) -> None:
        nonlocal last_state, written_at
        report(state, progress, detail)
        if state != last_state or clock() - written_at >= WRITE_INTERVAL_SECONDS:
            last_state, written_at = state, clock()
            status = RoundStatus(state, round(progress, 3), detail or None)
            stored = StoredRoundState(status, os.getpid(), socket.gethostname(), time.time())
            with contextlib.suppress(StoreError):  # the round does not need it
                write_record(folder / ROUND_STATE_FILE, stored)

    try:
        yield publish
    finally:
        with contextlib.suppress(StoreError):
            remove_file(folder / ROUND_STATE_FILE)


def read_round_state(folder: Path) -> RoundStatus | None:
    """Return the state of the round that a process runs on a project; None without one."""
    try:
        stored = read_cache(folder / ROUND_STATE_FILE, StoredRoundState, StoredRoundState())
    except StoreError:
        return None
    return stored.round if stored.process > 0 and stored.is_alive else None
