"""Repeat work: rate-limited, or logged and retried when it fails."""

from __future__ import annotations

import time
from collections.abc import Callable

from backend.endpoint.remote_models import log


def undisturbed(work: Callable[[], None], what: str) -> Callable[[], None]:
    """Does something that may fail for a while, such as over a network; it is done again anyway."""

    def attempt() -> None:
        try:
            work()
        except Exception as error:
            log.warning("%s: %s; it is tried again", what, str(error) or type(error).__name__)

    return attempt


def at_most_every(seconds: float, work: Callable[[], None]) -> Callable[[], None]:
    """Does something no more often than that, however often it is asked for."""
    last = [-seconds]

    def maybe() -> None:
        if time.monotonic() - last[0] >= seconds:
            last[0] = time.monotonic()
            work()

    return maybe
