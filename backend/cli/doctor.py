"""``prelabel doctor``: what keeps a set-up from working, and what mends it."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from backend.cli import addresses
from backend.settings import read_settings

HELP = "look at everything that has to fit together, and say what mends what does not"
EXAMPLE = "prelabel doctor 3"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "project",
        nargs="?",
        default="",
        metavar="PROJECT",
        help="its number in Label Studio or its title (all that are connected)",
    )
    addresses.add_backend_option(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Print a line per check, as they come.

    Raises:
        UsageError: the backend's address cannot be one.
    """
    from backend.cli.main import print_line
    from backend.doctor.check_result import CheckResult
    from backend.doctor.doctor import Doctor
    from backend.onboarding.backend_connection import validate_backend_url

    settings = read_settings()
    backend = validate_backend_url(options.backend, settings)

    def print_result(line: CheckResult) -> None:
        project_prefix = f"[{line.project}] " if line.project else ""
        mark, _, text = str(line).partition(" ")
        print_line(f"{mark} {project_prefix}{text}", options)

    results = Doctor(settings, backend, print_result).run(options.project)
    problem_count = sum(line.state == "bad" for line in results)
    print_line(
        f"{problem_count} of {len(results)} lines need you." if problem_count else "All is well.",
        options,
    )
    return {"ok": not problem_count, "lines": [asdict(line) for line in results]}


def status(figures: dict[str, Any]) -> int:
    """1 where something is wrong."""
    return int(not figures["ok"])
