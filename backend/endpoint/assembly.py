"""The endpoint put together from the settings: here and on Modal alike."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from backend.endpoint.access import Access
from backend.endpoint.alert_rules import read_rules, sound_rules
from backend.endpoint.alerts import Alerts
from backend.endpoint.app import Parts, make_endpoint
from backend.endpoint.capture_recorder import Rules
from backend.endpoint.functions import Functions
from backend.endpoint.invoker import Invoker
from backend.endpoint.metrics import Metrics
from backend.endpoint.post_response import Desk
from backend.endpoint.remote_models import REFRESH_SECONDS
from backend.endpoint.request_reader import Reader
from backend.runtime.periodic import at_most_every
from backend.runtime.resources import Resources
from backend.settings import Settings
from backend.store.api_keys import Keys
from backend.store.usage import Usage
from backend.web_fetcher import Limits, Web

if TYPE_CHECKING:
    from fastapi import FastAPI

    from backend.endpoint.remote_models import Behind

ALERTS = "alerts.toml"
LANES = 2
"""Looks at the same time: while one prepares its images or tells what it found, another computes.
With boxes and 8 clients 0.98 of the bare model's images a second instead of 0.91."""


def endpoint(
    settings: Settings,
    *,
    open: bool = False,
    open_at_first: bool = False,
    behind: Behind | None = None,
) -> FastAPI:
    """The application over a home folder.

    Args:
        settings: where it is, and the limits.
        open: nobody needs a key.
        open_at_first: nobody needs a key as long as none was made.
        behind: the models, where they are on other machines; here when not given.

    Raises:
        UsageError: the file of alert rules has a mistake, and the models are here.
        StoreError: the home folder cannot be read.
    """
    home, kept = settings.home, settings.kept or settings.home
    metrics, usage = Metrics(), Usage(kept / "usage.json")
    rules = sound_rules(home / ALERTS) if behind else read_rules(home / ALERTS)
    alerts = Alerts(rules, kept / "alerts", told=metrics.alert)
    captures = Rules(
        settings.capture_below,
        settings.capture_share,
        settings.capture_per_day,
        settings.capture_days,
    )
    keep = behind.keep if behind else None
    desk = Desk(captures, alerts, metrics, usage, kept, keep=keep)
    resources = Resources(settings)  # no answer waits for a training
    if behind:
        refresh = at_most_every(REFRESH_SECONDS, behind.refresh)
        functions = Functions(resources, rules, behind.load, behind.lanes, refresh)
    else:
        functions = Functions(resources, rules, lanes=LANES)
    return make_endpoint(
        Parts(
            functions=functions,
            access=Access(Keys(home), usage, open=open, open_at_first=open_at_first),
            reader=Reader(
                most=settings.max_request_bytes,
                image_bytes=settings.max_image_bytes,
                seconds=settings.request_seconds,
                web=_web(settings) if settings.fetch_urls else None,
            ),
            desk=desk,
            metrics=metrics,
            invoker=Invoker(functions, desk, settings.max_image_pixels, os.cpu_count() or 1),
        )
    )


def _web(settings: Settings) -> Web:
    limits = Limits(
        settings.max_image_bytes,
        None,  # PRELABEL_ALLOWED_HOSTS is for images of tasks, not for whoever may ask here
        frozenset({"https"}),
        settings.request_seconds,
    )
    return Web(limits)
