"""The lock for files in which decisions of people are changed by several processes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from backend.errors import StoreError
from backend.store.files import exclusive_lock

DECISION_LOCK_TIMEOUT_SECONDS = 30.0


def decision_lock(folder: Path) -> AbstractContextManager[None]:
    """Return the lock of a project's decisions, across threads and processes; not reentrant.

    A store holds it while it reads, changes and writes one of these files.

    Args:
        folder: the project's folder.

    Raises:
        StoreError: another process holds it for too long, or the folder cannot be written.
    """
    file = folder / "decisions.lock"
    busy = StoreError(f"Another process holds {file}: try again.")
    return exclusive_lock(file, busy, DECISION_LOCK_TIMEOUT_SECONDS)
