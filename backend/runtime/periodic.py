"""Repeat work: rate-limited, or logged and retried when it fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger("prelabel")


def log_errors(callback: Callable[[], None], failure_message: str) -> Callable[[], None]:
    """Does something that may fail for a while, such as over a network; it is done again anyway."""

    def attempt() -> None:
        try:
            callback()
        except Exception as error:
            log.warning(
                "%s: %s; it is tried again", failure_message, str(error) or type(error).__name__
            )

    return attempt


def throttle(seconds: float, callback: Callable[[], None]) -> Callable[[], None]:
    """Does something no more often than that, however often it is asked for."""
    last_run = [-seconds]

    def run_if_due() -> None:
        if time.monotonic() - last_run[0] >= seconds:
            last_run[0] = time.monotonic()
            callback()

    return run_if_due
