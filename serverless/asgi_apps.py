"""Modal's two web functions: the application that each serves over its volumes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from backend.endpoint.remote_models import REFRESH_SECONDS, Behind
from backend.runtime.periodic import at_most_every, undisturbed
from serverless.remote_inference import Ask, load_from_afar

log = logging.getLogger("prelabel")


def backend(commit: Callable[[], None], refresh: Callable[[], None]) -> Any:
    """The ML backend over the home volume.

    Args:
        commit: makes what a round wrote last, and visible to the endpoint.
        refresh: sees what the endpoint kept since.

    Raises:
        UsageError: nobody set who may call it.
    """
    from backend.errors import UsageError
    from backend.scheduler.service import Service
    from backend.server.app import make_app
    from backend.server.auth import Gate
    from backend.settings import read_settings
    from backend.store.webhook_secret import webhook_secret

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = read_settings()
    if not settings.user:
        raise UsageError("A public backend needs PRELABEL_USER and PRELABEL_PASSWORD: set both.")
    secret = webhook_secret(settings.home)
    see = undisturbed(refresh, "what the endpoint kept cannot be seen")
    service = Service(
        settings,
        keep=undisturbed(commit, "the home volume cannot be written"),
        refresh=at_most_every(REFRESH_SECONDS, see),
    )
    return Gate(make_app(service), settings.user, settings.password, secret)


def endpoint(ask: Ask, refresh: Callable[[], None], keep: Callable[[], None]) -> Any:
    """The predict endpoint over the home volume, its models elsewhere.

    Args:
        ask: asks the models.
        refresh: sees what became live since.
        keep: makes what was kept last.
    """
    from backend.endpoint.assembly import endpoint
    from backend.settings import read_settings

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    behind = Behind(
        partial(load_from_afar, ask),
        undisturbed(refresh, "the home volume cannot be seen"),
        undisturbed(keep, "what is kept cannot be written"),
    )
    return endpoint(read_settings(), behind=behind)
