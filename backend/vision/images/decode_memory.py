"""Limit the memory of concurrent image decoding."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

MIN_COUNTED_BYTES = 32_000_000
"""Decoded size from which an image counts towards the budget: a few megapixels."""
MAX_DECODING_BYTES = 1_000_000_000
"""Maximum total size of images decoded concurrently; a larger image is decoded alone."""


class MemoryBudget:
    """A thread-safe memory limit; requests are granted in order of arrival.

    Args:
        limit: total bytes that can be reserved.
        min_counted: smaller requests in bytes are always granted, without waiting for large ones.
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
        """Wait until ``size`` bytes are available and reserve them within the context.

        A request above the limit reserves the whole budget.
        """
        if size < self._min_counted:
            yield
            return
        size = min(size, self._limit)
        with self._turn_lock, self._freed:  # in order of arrival
            self._freed.wait_for(lambda: self._used + size <= self._limit)
            self._used += size
        try:
            yield
        finally:
            with self._freed:
                self._used -= size
                self._freed.notify_all()


DECODING_BUDGET = MemoryBudget()
"""The budget shared by all threads of this process."""
