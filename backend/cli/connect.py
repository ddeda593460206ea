"""``prelabel connect``: connect a project to the backend, as "Connect Model" in Label Studio."""

from __future__ import annotations

import argparse

from backend.cli import arguments
from backend.cli.command import Command, CommandResult
from backend.cli.terminal import print_line

SMART_TOOLS_HINT = (
    "Smart tools: turn on Auto-Annotation at the bottom of the labeling screen, choose Auto-Detect "
    "(key M) in its toolbar, and draw an object."
)


def _add_options(parser: argparse.ArgumentParser) -> None:
    arguments.add_project_argument(parser, "if Label Studio has only one")
    arguments.add_backend_option(parser)
    parser.add_argument(
        "--interactive",
        action=argparse.BooleanOptionalAction,
        help="let smart tools call the backend (default: if the labeling config has a smart tool)",
    )


def _run(options: argparse.Namespace) -> CommandResult:
    from backend.label_studio.client import LabelStudioClient
    from backend.label_studio.tabs import ensure_labeling_link
    from backend.onboarding.backend_connection import connect_project, validate_backend_url
    from backend.onboarding.backend_port import default_backend_url
    from backend.settings import read_settings

    settings = read_settings()
    backend = validate_backend_url(options.backend or default_backend_url(settings), settings)
    client = LabelStudioClient(settings.label_studio_url, settings.api_key)
    number = client.find_project_number(options.project)
    link = ensure_labeling_link(client, number, settings.label_studio_host)
    changes = connect_project(client, number, settings, backend, interactive=options.interactive)
    already = "" if changes.is_new else "already "
    print_line(f"Project {number} is {already}connected to {backend}.", options)
    if changes.has_restored_webhook and not changes.is_new:
        print_line("Its webhook was missing or turned off, and is restored.", options)
    if changes.is_interactive:
        print_line(SMART_TOOLS_HINT, options)
    print_line(link.line, options)
    return {
        "project": number,
        "url": backend,
        "connected": "now" if changes.is_new else "already",
        "webhook": "restored" if changes.has_restored_webhook else "unchanged",
        "interactive": changes.is_interactive,
        "labeling_url": link.url,
    }


COMMAND = Command(
    "connect",
    "connect a Label Studio project to the running backend",
    "prelabel connect 3 --backend http://127.0.0.1:9090",
    _add_options,
    _run,
)
