"""The endpoint put together from the settings: here and on Modal alike."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from backend.endpoint.access import AccessControl
from backend.endpoint.alert_rules import read_alert_rules, read_valid_rules
from backend.endpoint.alerts import AlertSender
from backend.endpoint.app import EndpointParts, create_endpoint_app
from backend.endpoint.capture_recorder import CaptureRules
from backend.endpoint.functions import FunctionRegistry
from backend.endpoint.invoker import Invoker
from backend.endpoint.metrics import EndpointMetrics
from backend.endpoint.post_response import PostResponseTasks
from backend.endpoint.remote_models import REFRESH_INTERVAL_SECONDS
from backend.endpoint.request_reader import RequestReader
from backend.runtime.periodic import throttle
from backend.runtime.resources import Resources
from backend.settings import Settings
from backend.store.api_keys import ApiKeyStore
from backend.store.usage import UsageCounters
from backend.web_fetcher import FetchLimits, WebFetcher

if TYPE_CHECKING:
    from fastapi import FastAPI

    from backend.endpoint.remote_models import RemoteModels

ALERTS_FILENAME = "alerts.toml"
LOCAL_CONCURRENCY = 2
"""Looks at the same time: while one prepares its images or tells what it found, another computes.
With boxes and 8 clients 0.98 of the bare model's images a second instead of 0.91."""


def create_endpoint(
    settings: Settings,
    *,
    allow_anonymous: bool = False,
    open_until_key: bool = False,
    remote: RemoteModels | None = None,
) -> FastAPI:
    """The application over a home folder.

    Args:
        settings: where it is, and the limits.
        allow_anonymous: nobody needs a key.
        open_until_key: nobody needs a key as long as none was made.
        remote: the models, where they are on other machines; here when not given.

    Raises:
        UsageError: the file of alert rules has a mistake, and the models are here.
        StoreError: the home folder cannot be read.
    """
    home, endpoint_home = settings.home, settings.endpoint_data_dir or settings.home
    metrics, usage = EndpointMetrics(), UsageCounters(endpoint_home / "usage.json")
    rules = (
        read_valid_rules(home / ALERTS_FILENAME)
        if remote
        else read_alert_rules(home / ALERTS_FILENAME)
    )
    alerts = AlertSender(rules, endpoint_home / "alerts", on_outcome=metrics.count_alert)
    capture_rules = CaptureRules(
        settings.capture_below,
        settings.capture_fraction,
        settings.capture_per_day,
        settings.capture_retention_days,
    )
    commit = remote.commit if remote else None
    post_response = PostResponseTasks(
        capture_rules, alerts, metrics, usage, endpoint_home, commit=commit
    )
    resources = Resources(settings)  # no answer waits for a training
    if remote:
        refresh = throttle(REFRESH_INTERVAL_SECONDS, remote.refresh)
        functions = FunctionRegistry(resources, rules, remote.load, remote.concurrency, refresh)
    else:
        functions = FunctionRegistry(resources, rules, concurrency=LOCAL_CONCURRENCY)
    return create_endpoint_app(
        EndpointParts(
            functions=functions,
            access=AccessControl(
                ApiKeyStore(home),
                usage,
                allow_anonymous=allow_anonymous,
                open_until_key=open_until_key,
            ),
            reader=RequestReader(
                max_request_bytes=settings.max_request_bytes,
                max_image_bytes=settings.max_image_bytes,
                timeout_seconds=settings.request_timeout_seconds,
                web=_make_web(settings) if settings.fetch_urls else None,
            ),
            post_response=post_response,
            metrics=metrics,
            invoker=Invoker(
                functions, post_response, settings.max_image_pixels, os.cpu_count() or 1
            ),
        )
    )


def _make_web(settings: Settings) -> WebFetcher:
    limits = FetchLimits(
        settings.max_image_bytes,
        None,  # PRELABEL_ALLOWED_HOSTS is for images of tasks, not for whoever may ask here
        frozenset({"https"}),
        settings.request_timeout_seconds,
    )
    return WebFetcher(limits)
