"""``prelabel connect``: connect a project to the backend, as "Connect Model" in Label Studio."""

from __future__ import annotations

import argparse

from backend.cli import arguments
from backend.cli.command import Command, CommandResult
from backend.cli.terminal import print_line


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "project", metavar="PROJECT", help="number or title of the project in Label Studio"
    )
    arguments.add_backend_option(parser)


def _run(options: argparse.Namespace) -> CommandResult:
    from backend.label_studio.client import LabelStudioClient
    from backend.label_studio.tabs import ensure_labeling_url
    from backend.onboarding.backend_connection import connect_project, validate_backend_url
    from backend.settings import read_settings

    settings = read_settings()
    backend = validate_backend_url(options.backend, settings)
    client = LabelStudioClient(settings.label_studio_url, settings.api_key)
    number = client.find_project_number(options.project)
    labeling_url = ensure_labeling_url(client, number, settings.label_studio_host)
    is_new = connect_project(client, number, settings, backend)
    already = "" if is_new else "already "
    print_line(f"Project {number} is {already}connected to {backend}.", options)
    print_line(f"Label here: {labeling_url}", options)
    return {
        "project": number,
        "url": backend,
        "connected": "now" if is_new else "already",
        "labeling_url": labeling_url,
    }


COMMAND = Command(
    "connect",
    "connect a Label Studio project to the running backend",
    "prelabel connect 3 --backend http://127.0.0.1:9090",
    _add_options,
    _run,
)
