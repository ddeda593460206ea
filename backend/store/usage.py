"""Persistent monthly usage counters."""

from __future__ import annotations

import threading
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

from backend.errors import DamagedFileError
from backend.store.record_files import log_once, read_backed_up, write_backed_up

COUNTERS_CONSEQUENCE = "this month's counters start at 0"


def month_key(now: datetime | None = None) -> str:
    """Return the month in UTC, such as ``2026-11``."""
    return (now or datetime.now(UTC)).strftime("%Y-%m")


class UsageCounters:
    """Counters by month and name; thread-safe, but only for a single process.

    Args:
        file: JSON file; created if missing.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._counts: dict[str, dict[str, float]] = defaultdict(dict)
        self._counts.update(_read_counts(file))
        self._dirty = False

    def increment(self, name: str, amount: float = 1.0) -> float:
        """Increase a counter in memory, and return its value for this month."""
        with self._lock:
            month_counts = self._counts[month_key()]
            month_counts[name] = round(month_counts.get(name, 0.0) + amount, 6)
            self._dirty = True
            return month_counts[name]

    def current(self, name: str) -> float:
        """Return the value of a counter for this month."""
        with self._lock:
            return self._counts.get(month_key(), {}).get(name, 0.0)

    def flush(self) -> None:
        """Save the counters if they changed.

        Raises:
            StoreError: they cannot be written; the values are kept in memory.
        """
        with self._lock:
            if not self._dirty:
                return
            counts = {month: dict(rows) for month, rows in self._counts.items()}
            self._dirty = False
        try:
            write_backed_up(self._file, counts)
        except BaseException:
            self._dirty = True
            raise


def _read_counts(file: Path) -> dict[str, dict[str, float]]:
    """Read stored counters; none if both copies are damaged, so that work goes on."""
    try:
        return read_backed_up(file, dict[str, dict[str, float]], advice=COUNTERS_CONSEQUENCE) or {}
    except DamagedFileError as error:
        log_once(str(error))
        return {}
