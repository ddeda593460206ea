"""``prelabel label-errors``: labels that are probably wrong, the most suspicious first."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from backend.cli import projects
from backend.settings import read_settings

HELP = "list labels that are probably wrong, to look through"
EXAMPLE = "prelabel label-errors 3"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    projects.add_project(parser)
    parser.add_argument("--count", type=projects.count, default=50, help="how many (50)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Print a line per suspect; Label Studio shows the first of them in a tab."""
    from backend.bootstrap import make_resources
    from backend.cli.main import say
    from backend.tools.label_errors import TAB, Inspector

    settings = read_settings()
    record = projects.find(settings, options.project)
    inspector = Inspector(make_resources(settings), record)
    found = inspector.inspect()
    for suspect in found[: options.count]:
        says = f"{suspect.given} → {suspect.suggested}"
        say(f"task {suspect.task:<7} {suspect.mislabeling:4.0%}  {suspect.why:<14} {says}", options)
    if found:
        say(f"{len(found)} in all. Label Studio shows them in the tab “{TAB}”.", options)
    elif not inspector.labeled:
        say("Nothing is labeled yet: label a few images first.", options)
    else:
        say("No label contradicts the others.", options)
    rows = [asdict(s) | {"mislabeling": s.mislabeling} for s in found[: options.count]]
    return {"project": record.id, "found": len(found), "suspects": rows}
