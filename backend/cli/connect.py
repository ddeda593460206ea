"""``prelabel connect``: what the page "Connect Model" does, from the terminal."""

from __future__ import annotations

import argparse
from typing import Any

from backend.cli import addresses
from backend.errors import NotFoundError
from backend.settings import read_settings

HELP = "connect a Label Studio project to the running backend"
EXAMPLE = "prelabel connect 3 --backend http://127.0.0.1:9090"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "project", metavar="PROJECT", help="its number in Label Studio or its title"
    )
    addresses.add_backend_option(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Connect, unless it is connected already.

    Raises:
        UsageError: the backend's address cannot be one.
        LabelStudioError: Label Studio cannot be reached, or cannot reach the backend.
    """
    from backend.cli.main import print_line
    from backend.label_studio.client import LabelStudioClient
    from backend.onboarding.backend_connection import connect_project, validate_backend_url

    settings = read_settings()
    backend = validate_backend_url(options.backend, settings)
    client = LabelStudioClient(settings.label_studio_url, settings.api_key)
    number = _find_project_number(client, options.project)
    if not connect_project(client, number, settings, backend):
        print_line(f"Project {number} is connected to {backend} already.", options)
        return {"project": number, "url": backend, "connected": "already"}
    print_line(f"Project {number} is connected to {backend}.", options)
    return {"project": number, "url": backend, "connected": "now"}


def _find_project_number(client: Any, project: str) -> int:
    if project.isdigit():
        return int(client.project(int(project))["id"])
    matches = [p for p in client.projects() if p["title"] == project]
    if len(matches) != 1:
        titles = ", ".join(f"{p['id']} ({p['title']})" for p in client.projects()) or "none"
        raise NotFoundError(f"Which project is {project!r}? {client.server} has: {titles}.")
    return int(matches[0]["id"])
