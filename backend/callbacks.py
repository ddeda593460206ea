"""Types of the callbacks that long-running work reports through."""

from __future__ import annotations

from collections.abc import Callable

LogCallback = Callable[[str], None]
"""Receives one line for people to read."""

ProgressCallback = Callable[[int, int], None]
"""Receives (done, total)."""

StateCallback = Callable[[str, float, str], None]
"""Receives (state, progress from 0 to 1, detail)."""


def time_left(seconds: float) -> str:
    """Return the rest of a long step in words, in whole minutes.

    Example:
        >>> time_left(230), time_left(40)
        ('about 4 min left', 'less than a minute left')
    """
    return f"about {round(seconds / 60)} min left" if seconds >= 60 else "less than a minute left"
