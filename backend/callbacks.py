"""Types of the callbacks that long-running work reports through."""

from __future__ import annotations

from collections.abc import Callable

LogCallback = Callable[[str], None]
"""Receives one line for people to read."""

ProgressCallback = Callable[[int, int], None]
"""Receives (done, total)."""

StateCallback = Callable[[str, float, str], None]
"""Receives (state, progress from 0 to 1, detail)."""
