"""The models behind the endpoint, where they are on other machines."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from serverless.endpoint.functions import Load

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


def at_most_every(seconds: float, work: Callable[[], None]) -> Callable[[], None]:
    """Does something no more often than that, however often it is asked for."""
    last = [-seconds]

    def maybe() -> None:
        if time.monotonic() - last[0] >= seconds:
            last[0] = time.monotonic()
            work()

    return maybe
