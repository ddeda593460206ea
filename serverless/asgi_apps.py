"""Modal's two web functions: the application that each serves over its volumes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from backend.endpoint.remote_models import REFRESH_INTERVAL_SECONDS, RemoteModels
from backend.runtime.periodic import log_errors, throttle
from serverless.remote_inference import RemotePredict, load_remote_version

log = logging.getLogger("prelabel")


def modal_backend_app(commit: Callable[[], None], reload_captures: Callable[[], None]) -> Any:
    """The ML backend over the home volume.

    Args:
        commit: makes what a round wrote last, and visible to the endpoint.
        reload_captures: sees what the endpoint kept since.

    Raises:
        UsageError: nobody set who may call it.
    """
    from backend.errors import UsageError
    from backend.scheduler.service import Service
    from backend.server.app import create_app
    from backend.server.auth import BasicAuthMiddleware
    from backend.settings import read_settings
    from backend.store.webhook_secret import load_webhook_secret

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = read_settings()
    if not settings.user:
        raise UsageError("A public backend needs PRELABEL_USER and PRELABEL_PASSWORD: set both.")
    secret = load_webhook_secret(settings.home)
    reload_safely = log_errors(reload_captures, "what the endpoint kept cannot be seen")
    service = Service(
        settings,
        commit_files=log_errors(commit, "the home volume cannot be written"),
        reload_files=throttle(REFRESH_INTERVAL_SECONDS, reload_safely),
    )
    return BasicAuthMiddleware(create_app(service), settings.user, settings.password, secret)


def modal_endpoint_app(
    call_model: RemotePredict, refresh: Callable[[], None], commit_captures: Callable[[], None]
) -> Any:
    """The predict endpoint over the home volume, its models elsewhere.

    Args:
        call_model: asks the models.
        refresh: sees what became live since.
        commit_captures: makes what was kept last.
    """
    from backend.endpoint.assembly import create_endpoint
    from backend.settings import read_settings

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    remote = RemoteModels(
        partial(load_remote_version, call_model),
        log_errors(refresh, "the home volume cannot be seen"),
        log_errors(commit_captures, "what is kept cannot be written"),
    )
    return create_endpoint(read_settings(), remote=remote)
