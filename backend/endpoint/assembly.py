"""Build the endpoint from the settings, with local models or with models in other containers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.endpoint.access import AccessControl
from backend.endpoint.alert_rules import (
    ALERT_RULES_FILENAME,
    AlertRulesFile,
    read_alert_rules,
    read_valid_rules,
)
from backend.endpoint.alerts import AlertSender
from backend.endpoint.app import EndpointParts, create_endpoint_app
from backend.endpoint.capture_recorder import CaptureRules
from backend.endpoint.functions import FunctionRegistry, VersionLoader
from backend.endpoint.invoker import Invoker
from backend.endpoint.post_response import PostResponseTasks
from backend.endpoint.prometheus_metrics import EndpointMetrics
from backend.endpoint.request_reader import RequestReader
from backend.runtime.periodic import throttle
from backend.runtime.resources import Resources
from backend.settings import Settings
from backend.store.api_keys import ApiKeyStore
from backend.store.usage import UsageCounters
from backend.web_fetcher import FetchLimits, WebFetcher

if TYPE_CHECKING:
    from fastapi import FastAPI

LOCAL_CONCURRENCY = 2
"""Concurrent batches: one preprocesses images or converts results while the other runs the model.
With boxes and 8 clients, throughput is 98% of the bare model's instead of 91% with one batch."""
REMOTE_CONCURRENCY = 16
"""Concurrent batches: one per container (at most 10), and some in transit."""
REFRESH_INTERVAL_SECONDS = 10.0


@dataclass(frozen=True)
class RemoteModels:
    """Callbacks for models that run in other containers than the endpoint.

    Attributes:
        load: loads a version without its models.
        refresh: makes newly uploaded versions visible.
        commit: makes captured images durable.
    """

    load: VersionLoader
    refresh: Callable[[], None]
    commit: Callable[[], None]


def create_endpoint(
    settings: Settings,
    *,
    allow_anonymous: bool = False,
    open_until_key: bool = False,
    remote: RemoteModels | None = None,
) -> FastAPI:
    """Return the endpoint's application.

    Args:
        settings: the settings.
        allow_anonymous: accept requests without an API key.
        open_until_key: accept requests without an API key until the first one is created.
        remote: models in other containers; by default they run in this process.

    Raises:
        UsageError: an alert rule is invalid, and the models run in this process.
        StoreError: ``PRELABEL_HOME`` cannot be read.
    """
    home, endpoint_home = settings.home, settings.endpoint_data_dir or settings.home
    rules_file = AlertRulesFile(
        home / ALERT_RULES_FILENAME, read_valid_rules if remote else read_alert_rules
    )
    metrics, usage = EndpointMetrics(), UsageCounters(endpoint_home / "usage.json")
    resources = Resources(settings)  # local compute: the endpoint never trains
    if remote:
        refresh = throttle(REFRESH_INTERVAL_SECONDS, remote.refresh)
        functions = FunctionRegistry(
            resources, rules_file.rules, remote.load, REMOTE_CONCURRENCY, refresh
        )
    else:
        functions = FunctionRegistry(resources, rules_file.rules, concurrency=LOCAL_CONCURRENCY)

    def reload_rules() -> bool:
        is_changed = rules_file.reload()
        if is_changed:
            functions.check_rules()
        return is_changed

    post_response = PostResponseTasks(
        CaptureRules(
            settings.capture_below,
            settings.capture_fraction,
            settings.capture_per_day,
            settings.capture_retention_days,
        ),
        AlertSender(
            rules_file.rules,
            endpoint_home / "alerts",
            on_outcome=metrics.count_alert,
            reload_rules=reload_rules,
        ),
        metrics,
        usage,
        endpoint_home,
        commit=remote.commit if remote else None,
    )
    access = AccessControl(
        ApiKeyStore(home), usage, allow_anonymous=allow_anonymous, open_until_key=open_until_key
    )
    reader = RequestReader(
        max_request_bytes=settings.max_request_bytes,
        max_image_bytes=settings.max_image_bytes,
        timeout_seconds=settings.request_timeout_seconds,
        web=_make_web_fetcher(settings) if settings.fetch_urls else None,
    )
    thread_count = os.cpu_count() or 1
    invoker = Invoker(functions, post_response, settings.max_image_pixels, thread_count)
    return create_endpoint_app(
        EndpointParts(functions, access, reader, post_response, metrics, invoker)
    )


def _make_web_fetcher(settings: Settings) -> WebFetcher:
    limits = FetchLimits(
        settings.max_image_bytes,
        None,  # PRELABEL_ALLOWED_HOSTS is for images of tasks, not for callers of the endpoint
        frozenset({"https"}),
        settings.request_timeout_seconds,
    )
    return WebFetcher(limits)
