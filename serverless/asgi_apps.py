"""Build the ASGI applications of the two web functions on Modal."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from backend.endpoint.assembly import REFRESH_INTERVAL_SECONDS, RemoteModels
from backend.runtime.periodic import log_errors, throttle
from serverless.remote_inference import RemotePredict, load_remote_version

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp


def modal_backend_app(commit: Callable[[], None], reload_captures: Callable[[], None]) -> ASGIApp:
    """Return the ML backend's application; its ``PRELABEL_HOME`` is the home volume.

    Args:
        commit: makes written files durable, and visible to the endpoint.
        reload_captures: makes newly captured images visible.

    Raises:
        UsageError: there is no user name and password.
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
    reload_safely = log_errors(reload_captures, "Captured images could not be read")
    service = Service(
        settings,
        commit_files=log_errors(commit, "The home volume could not be written"),
        reload_files=throttle(REFRESH_INTERVAL_SECONDS, reload_safely),
    )
    secret = load_webhook_secret(settings.home)
    return BasicAuthMiddleware(create_app(service), settings.user, settings.password, secret)


def modal_endpoint_app(
    remote_predict: RemotePredict, refresh: Callable[[], None], commit: Callable[[], None]
) -> FastAPI:
    """Return the predict endpoint's application, with its models in other containers.

    Args:
        remote_predict: predicts in another container.
        refresh: makes newly uploaded versions visible.
        commit: makes captured images durable.
    """
    from backend.endpoint.assembly import create_endpoint
    from backend.settings import read_settings

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    remote = RemoteModels(
        partial(load_remote_version, remote_predict),
        log_errors(refresh, "The home volume could not be read"),
        log_errors(commit, "Captured images could not be written"),
    )
    return create_endpoint(read_settings(), remote=remote)
