"""``prelabel connect``: what the page "Connect Model" does, from the terminal."""

from __future__ import annotations

import argparse
from typing import Any

from backend.cli import addresses
from backend.errors import NotThere
from backend.settings import read_settings

HELP = "connect a Label Studio project to the running backend"
EXAMPLE = "prelabel connect 3 --backend http://127.0.0.1:9090"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "project", metavar="PROJECT", help="its number in Label Studio or its title"
    )
    addresses.add_backend(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Connect, unless it is connected already.

    Raises:
        UsageError: the backend's address cannot be one.
        LabelStudioError: Label Studio cannot be reached, or cannot reach the backend.
    """
    from backend.cli.main import say
    from backend.label_studio.client import Client
    from backend.onboarding.backend_connection import checked, connect

    settings = read_settings()
    backend = checked(options.backend, settings)
    client = Client(settings.label_studio_url, settings.api_key)
    number = _number(client, options.project)
    if not connect(client, number, settings, backend):
        say(f"Project {number} is connected to {backend} already.", options)
        return {"project": number, "url": backend, "connected": "already"}
    say(f"Project {number} is connected to {backend}.", options)
    return {"project": number, "url": backend, "connected": "now"}


def _number(client: Any, named: str) -> int:
    if named.isdigit():
        return int(client.project(int(named))["id"])
    found = [p for p in client.projects() if p["title"] == named]
    if len(found) != 1:
        titles = ", ".join(f"{p['id']} ({p['title']})" for p in client.projects()) or "none"
        raise NotThere(f"Which project is {named!r}? {client.server} has: {titles}.")
    return int(found[0]["id"])
