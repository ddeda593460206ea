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
    addresses.add_backend(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Print a line per check, as they come.

    Raises:
        UsageError: the backend's address cannot be one.
    """
    from backend.cli.main import say
    from backend.doctor.check_result import Line
    from backend.doctor.doctor import Doctor
    from backend.onboarding.backend_connection import checked

    settings = read_settings()
    backend = checked(options.backend, settings)

    def tell(line: Line) -> None:
        about = f"[{line.project}] " if line.project else ""
        mark, _, rest = str(line).partition(" ")
        say(f"{mark} {about}{rest}", options)

    lines = Doctor(settings, backend, tell).examine(options.project)
    bad = sum(line.state == "bad" for line in lines)
    say(f"{bad} of {len(lines)} lines need you." if bad else "All is well.", options)
    return {"ok": not bad, "lines": [asdict(line) for line in lines]}


def status(figures: dict[str, Any]) -> int:
    """1 where something is wrong."""
    return int(not figures["ok"])
