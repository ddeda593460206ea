"""The models behind the endpoint, where they are on other machines."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from backend.endpoint.functions import VersionLoader

log = logging.getLogger("prelabel")
REFRESH_INTERVAL_SECONDS = 10.0
REMOTE_CONCURRENCY = 16
"""Looks under way at the same time: as many as there may be containers, and some that travel."""


@dataclass(frozen=True)
class RemoteModels:
    """What is behind the endpoint's gateway.

    Attributes:
        load: reads a version without its models.
        refresh: sees what became live since.
        commit: makes what was kept last.
        concurrency: looks under way at the same time.
    """

    load: VersionLoader
    refresh: Callable[[], None]
    commit: Callable[[], None]
    concurrency: int = REMOTE_CONCURRENCY
