"""A memory budget for decoding, shared by all threads of the process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

MIN_COUNTED_BYTES = 32_000_000
"""Size from which an image counts: a few megapixels."""
MAX_DECODING_BYTES = 1_000_000_000
"""Total of the large images decoded at the same time; a larger one is decoded alone."""


class MemoryBudget:
    """Limits the bytes in use at the same time, first come, first served. Thread-safe.

    Args:
        limit: bytes.
        min_counted: smaller sizes are not counted, so that few images wait for a large one.
    """

    def __init__(
        self, limit: int = MAX_DECODING_BYTES, min_counted: int = MIN_COUNTED_BYTES
    ) -> None:
        self._limit = limit
        self._min_counted = min_counted
        self._used = 0
        self._turn_lock = threading.Lock()
        self._freed = threading.Condition()

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Wait until ``size`` bytes are free, and reserve them inside the context.

        A size above the limit reserves the whole budget.
        """
        if size < self._min_counted:
            yield
            return
        size = min(size, self._limit)
        with self._turn_lock, self._freed:  # first come, first served, for any size
            self._freed.wait_for(lambda: self._used + size <= self._limit)
            self._used += size
        try:
            yield
        finally:
            with self._freed:
                self._used -= size
                self._freed.notify_all()


DECODING_BUDGET = MemoryBudget()
"""The budget of this process."""
