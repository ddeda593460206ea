"""``prelabel advise``: recommend a labeling job for a project, based on its labels."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from backend.cli import terminal
from backend.cli.arguments import add_project_argument, whole_number
from backend.cli.command import Command, CommandResult
from backend.cli.projects import find_project

TRAINING_SECONDS = 120


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_project_argument(parser)
    parser.add_argument(
        "--seconds",
        type=whole_number(5, 7200),
        default=TRAINING_SECONDS,
        help=f"time limit for training the compared models ({TRAINING_SECONDS})",
    )


def _run(options: argparse.Namespace) -> CommandResult:
    from backend.bootstrap import make_resources
    from backend.runtime.project_session import ProjectSession
    from backend.settings import read_settings
    from backend.tools.advise import Adviser

    settings = read_settings()
    record = find_project(settings, options.project)
    session = ProjectSession(make_resources(settings), record)
    recommendations = Adviser(session, options.seconds, terminal.show_progress).advise()
    terminal.clear_progress()
    for advice in recommendations:
        for line in _format_metrics(advice.control, advice.figures):
            terminal.print_line(line, options)
        for sentence in advice.sentences:
            terminal.print_line(f"  {sentence}", options)
    return {"project": record.id, "controls": [advice.json() for advice in recommendations]}


def _format_metrics(control: str, figures: Mapping[str, Any]) -> list[str]:
    """Return lines with the measurements of a control."""
    lines = [control]
    if objects := figures.get("things"):
        lines.append(
            f"  {objects['things']} objects in {objects['images']} images, {objects['empty']} "
            f"without any; {_format_range(objects['per_image'], '{:.3g}')} per image"
        )
        if objects["side"]:
            lines.append(f"  size: {_format_range(objects['side'], '{:.0%}')} of the image's side")
    if figures.get("by"):
        lines.append(f"  classification and detection compared by {figures['by']}")
    return lines


def _format_range(quantiles: Mapping[str, float], number_format: str) -> str:
    median, low, high = (number_format.format(quantiles[key]) for key in ("median", "low", "high"))
    return f"{median} (usually {low} to {high})"


COMMAND = Command(
    "advise",
    "measure on a project's labels whether to classify whole images or to mark objects",
    "prelabel advise 3",
    _add_options,
    _run,
)
