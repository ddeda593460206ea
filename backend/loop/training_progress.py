"""Describe the progress of a training, without jumps."""

from __future__ import annotations

import time
from collections.abc import Callable

from backend.callbacks import StateCallback, time_left

SMOOTHING = 0.3
"""Weight of the newest forecast of the end; a single slow epoch hardly changes it."""


class TrainingProgress:
    """Reports the epochs of a training.

    The number of epochs is adjusted to the time limit while it trains, so it is not shown: the
    fraction never decreases, and the time left changes slowly.

    Args:
        report: receives the progress.
        prefix: begins each message, such as the name of the detector if there are several.
        clock: monotonic clock in seconds.
    """

    def __init__(
        self,
        report: StateCallback,
        prefix: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._report = report
        self._prefix = prefix
        self._clock = clock
        self._started_at = clock()
        self._fraction = 0.0
        self._end: float | None = None

    def update(self, done: int, total: int) -> None:
        """Report that so many of the epochs are done."""
        if not done:
            return
        now = self._clock()
        self._fraction = max(self._fraction, done / total)
        end = now + (now - self._started_at) / done * (total - done)
        self._end = end if self._end is None else self._end + SMOOTHING * (end - self._end)
        rest = time_left(max(0.0, self._end - now))
        self._report("training", self._fraction, f"{self._prefix}epoch {done}, {rest}")
