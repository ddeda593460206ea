"""``prelabel deploy``: training, prediction and the endpoint on Modal."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from backend.settings import read_settings

HELP = "bring training, the backend and the predict endpoint to Modal"
EXAMPLE = "PRELABEL_USER=team PRELABEL_PASSWORD=… prelabel deploy"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--check", action="store_true", help="only check whether it would work")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Deploy, and say what to paste where.

    Raises:
        UsageError: something is missing.
        PrelabelError: Modal refused.
    """
    from backend.cli.main import print_line
    from serverless import deploy as deploying

    settings = read_settings()
    if options.check:
        deploying.check_deployable(settings)
        print_line("Everything is there: `prelabel deploy` would go ahead.", options)
        return {"checked": True}
    deployed = deploying.deploy(settings, lambda line: print_line(line, options))
    for line in deploying.next_steps(deployed, settings):
        print_line(line, options)
    return asdict(deployed)
