"""The models behind the endpoint, where they are on other machines."""

from __future__ import annotations

import logging
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
