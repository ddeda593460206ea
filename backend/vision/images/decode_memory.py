"""Memory that all decoding of a process shares: large images wait for each other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

SMALL = 32_000_000
"""Bytes from which an image counts: a few megapixels."""
MOST = 1_000_000_000
"""Bytes of large images that are decoded at the same time; one larger than all that is alone."""


class Budget:
    """So many bytes at the same time, in the order of asking. Safe with several threads.

    Args:
        most: bytes.
        small: bytes below which nothing is counted, so that few wait for a large image.
    """

    def __init__(self, most: int = MOST, small: int = SMALL) -> None:
        self._most = most
        self._small = small
        self._used = 0
        self._first = threading.Lock()
        self._freed = threading.Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Wait until there is room, and keep it inside.

        Args:
            size: bytes; more than there ever are takes all of them.
        """
        if size < self._small:
            yield
            return
        size = min(size, self._most)
        with self._first, self._freed:  # who waits longest goes first, however much it needs
            self._freed.wait_for(lambda: self._used + size <= self._most)
            self._used += size
        try:
            yield
        finally:
            with self._freed:
                self._used -= size
                self._freed.notify_all()


DECODING = Budget()
"""Of this process."""
