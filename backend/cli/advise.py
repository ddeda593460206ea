"""``prelabel advise``: whether a project asks the right question, measured on its labels."""

from __future__ import annotations

import argparse
from typing import Any

from backend.cli import projects, terminal
from backend.settings import read_settings

HELP = "sort whole images, or mark the things in them? Measured on a project's labels"
EXAMPLE = "prelabel advise 3"
SECONDS = 120


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    projects.add_project(parser)
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=SECONDS,
        help=f"that training for the comparison may take ({SECONDS})",
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Print figures and advice per control.

    Raises:
        RoundError: nothing is labeled yet.
    """
    from backend.bootstrap import make_resources
    from backend.cli.main import say
    from backend.tools.advise import Adviser

    settings = read_settings()
    record = projects.find(settings, options.project)
    found = Adviser(make_resources(settings), record, options.seconds, terminal.show).advise()
    terminal.clear()
    for advice in found:
        for line in _figures(advice.control, advice.told):
            say(line, options)
        for sentence in advice.sentences:
            say(f"  {sentence}", options)
    return {"project": record.id, "controls": [advice.json() for advice in found]}


def _figures(control: str, told: dict[str, Any]) -> list[str]:
    """What was counted and measured, before the advice."""
    lines = [control]
    things = told.get("things")
    if things:
        lines.append(
            f"  {things['things']} things in {things['images']} images, {things['empty']} of them "
            f"without any; {_spread(things['per_image'], '{:.3g}')} an image"
        )
        if things["side"]:
            lines.append(f"  size: {_spread(things['side'], '{:.0%}')} of the image's side")
    if told.get("by"):
        lines.append(f"  both ways compared on {told['by']}")
    return lines


def _spread(row: dict[str, float], form: str) -> str:
    middle, low, high = (form.format(row[key]) for key in ("median", "low", "high"))
    return f"{middle} (most from {low} to {high})"


def _seconds(text: str) -> int:
    if not text.isdigit() or not 5 <= int(text) <= 7200:
        raise argparse.ArgumentTypeError("a whole number of seconds from 5 to 7200")
    return int(text)
