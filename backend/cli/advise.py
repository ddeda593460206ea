"""``prelabel advise``: whether a project asks the right question, measured on its labels."""

from __future__ import annotations

import argparse
from typing import Any

from backend.cli import projects, terminal
from backend.settings import read_settings

HELP = "sort whole images, or mark the things in them? Measured on a project's labels"
EXAMPLE = "prelabel advise 3"
TRAINING_SECONDS = 120


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    projects.add_project_argument(parser)
    parser.add_argument(
        "--seconds",
        type=_parse_seconds,
        default=TRAINING_SECONDS,
        help=f"that training for the comparison may take ({TRAINING_SECONDS})",
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Print figures and advice per control.

    Raises:
        RoundError: nothing is labeled yet.
    """
    from backend.bootstrap import make_resources
    from backend.cli.main import print_line
    from backend.runtime.project_session import ProjectSession
    from backend.tools.advise import Adviser

    settings = read_settings()
    record = projects.find_project(settings, options.project)
    session = ProjectSession(make_resources(settings), record)
    recommendations = Adviser(session, options.seconds, terminal.show_progress).advise()
    terminal.clear_progress()
    for advice in recommendations:
        for line in _format_metrics(advice.control, advice.figures):
            print_line(line, options)
        for sentence in advice.sentences:
            print_line(f"  {sentence}", options)
    return {"project": record.id, "controls": [advice.json() for advice in recommendations]}


def _format_metrics(control: str, summary: dict[str, Any]) -> list[str]:
    """What was counted and measured, before the advice."""
    lines = [control]
    objects = summary.get("things")
    if objects:
        lines.append(
            f"  {objects['things']} things in {objects['images']} images, {objects['empty']} of them "
            f"without any; {_format_range(objects['per_image'], '{:.3g}')} an image"
        )
        if objects["side"]:
            lines.append(f"  size: {_format_range(objects['side'], '{:.0%}')} of the image's side")
    if summary.get("by"):
        lines.append(f"  both ways compared on {summary['by']}")
    return lines


def _format_range(quantiles: dict[str, float], number_format: str) -> str:
    median, low, high = (number_format.format(quantiles[key]) for key in ("median", "low", "high"))
    return f"{median} (most from {low} to {high})"


def _parse_seconds(text: str) -> int:
    if not text.isdigit() or not 5 <= int(text) <= 7200:
        raise argparse.ArgumentTypeError("a whole number of seconds from 5 to 7200")
    return int(text)
