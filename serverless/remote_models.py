"""The models behind the endpoint, where they are on other machines."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from backend.endpoint.functions import Load

log = logging.getLogger("prelabel")
REFRESH_SECONDS = 10.0
LANES = 16
"""Looks under way at the same time: as many as there may be containers, and some that travel."""


@dataclass(frozen=True)
class Behind:
    """What is behind the endpoint's gateway.

    Attributes:
        load: reads a version without its models.
        refresh: sees what became live since.
        keep: makes what was kept last.
        lanes: looks under way at the same time.
    """

    load: Load
    refresh: Callable[[], None]
    keep: Callable[[], None]
    lanes: int = LANES


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
