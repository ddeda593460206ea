"""Memory that all decoding of a process shares: large images wait for each other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

MIN_COUNTED_BYTES = 32_000_000
"""Bytes from which an image counts: a few megapixels."""
MAX_DECODING_BYTES = 1_000_000_000
"""Bytes of large images that are decoded at the same time; one larger than all that is alone."""


class MemoryBudget:
    """So many bytes at the same time, in the order of asking. Safe with several threads.

    Args:
        limit: bytes.
        min_counted: bytes below which nothing is counted, so that few wait for a large image.
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
        """Wait until there is room, and keep it inside.

        Args:
            size: bytes; more than there ever are takes all of them.
        """
        if size < self._min_counted:
            yield
            return
        size = min(size, self._limit)
        with self._turn_lock, self._freed:  # who waits longest goes first, however much it needs
            self._freed.wait_for(lambda: self._used + size <= self._limit)
            self._used += size
        try:
            yield
        finally:
            with self._freed:
                self._used -= size
                self._freed.notify_all()


DECODING_BUDGET = MemoryBudget()
"""Of this process."""
