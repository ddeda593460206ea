"""Wrappers for periodic callbacks: log errors and throttle calls."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from backend.errors import error_text

log = logging.getLogger("prelabel")


def log_errors(callback: Callable[[], None], failure_message: str) -> Callable[[], None]:
    """Return a callback that logs exceptions instead of raising; the next period retries."""

    def attempt() -> None:
        try:
            callback()
        except Exception as error:
            log.warning("%s: %s; retrying later", failure_message, error_text(error))

    return attempt


def throttle(seconds: float, callback: Callable[[], None]) -> Callable[[], None]:
    """Return a callback that runs at most once every ``seconds``; calls in between do nothing."""
    last_run = [-seconds]

    def run_if_due() -> None:
        if time.monotonic() - last_run[0] >= seconds:
            last_run[0] = time.monotonic()
            callback()

    return run_if_due
