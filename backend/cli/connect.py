"""``prelabel connect``: what the page "Connect Model" does, from the terminal."""

from __future__ import annotations

import argparse
from typing import Any

from backend.errors import AddressRefused, LabelStudioError, NotThere
from backend.settings import Settings, read_settings

HELP = "connect a Label Studio project to the running backend"
EXAMPLE = "prelabel connect 3 --backend http://127.0.0.1:9090"
REFUSED = (
    "{error} Label Studio must be able to reach {url}: is `prelabel serve` running? For a private "
    "address start Label Studio with ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "project", metavar="PROJECT", help="its number in Label Studio or its title"
    )
    parser.add_argument(
        "--backend",
        default="http://127.0.0.1:9090",
        metavar="URL",
        help="where `prelabel serve` listens, as Label Studio reaches it (http://127.0.0.1:9090)",
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Connect, unless it is connected already.

    Raises:
        LabelStudioError: Label Studio cannot be reached, or cannot reach the backend.
    """
    from backend.cli.main import say
    from backend.label_studio.client import Client

    settings = read_settings()
    client = Client(settings.label_studio_url, settings.api_key)
    number = _number(client, options.project)
    url, auth = _address(settings, options.backend)
    if any(b["url"].rstrip("/") == url for b in client.backends(number)):
        say(f"Project {number} is connected to {options.backend} already.", options)
        return {"project": number, "url": options.backend, "connected": "already"}
    try:
        client.add_backend(number, url, auth)
    except AddressRefused:  # which says what to do
        raise
    except LabelStudioError as error:
        raise LabelStudioError(REFUSED.format(error=error, url=options.backend)) from error
    say(f"Project {number} is connected to {options.backend}.", options)
    return {"project": number, "url": options.backend, "connected": "now"}


def _number(client: Any, named: str) -> int:
    if named.isdigit():
        return int(client.project(int(named))["id"])
    found = [p for p in client.projects() if p["title"] == named]
    if len(found) != 1:
        titles = ", ".join(f"{p['id']} ({p['title']})" for p in client.projects()) or "none"
        raise NotThere(f"Which project is {named!r}? {client.server} has: {titles}.")
    return int(found[0]["id"])


def _address(settings: Settings, backend: str) -> tuple[str, tuple[str, str] | None]:
    """The backend's address with the webhooks' secret, and the auth, where auth is on."""
    from backend.store.secret import webhook_secret

    backend = backend.rstrip("/")
    if not settings.user:
        return backend, None
    secret = webhook_secret(settings.home)
    return f"{backend}/{secret}", (settings.user, settings.password)
