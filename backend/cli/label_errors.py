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
    projects.add_project_argument(parser)
    parser.add_argument("--count", type=projects.parse_count, default=50, help="how many (50)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Print a line per suspect; Label Studio shows the first of them in a tab."""
    from backend.bootstrap import make_resources
    from backend.cli.main import print_line
    from backend.runtime.project_session import ProjectSession
    from backend.tools.label_errors import LABEL_ERRORS_TAB, LabelErrorFinder

    settings = read_settings()
    record = projects.find_project(settings, options.project)
    inspector = LabelErrorFinder(ProjectSession(make_resources(settings), record))
    suspects = inspector.find_label_errors()
    for suspect in suspects[: options.count]:
        labels = f"{suspect.given} → {suspect.suggested}"
        print_line(
            f"task {suspect.task:<7} {suspect.mislabeling:4.0%}  {suspect.why:<14} {labels}",
            options,
        )
    if suspects:
        print_line(
            f"{len(suspects)} in all. Label Studio shows them in the tab “{LABEL_ERRORS_TAB}”.",
            options,
        )
    elif not inspector.labeled_count:
        print_line("Nothing is labeled yet: label a few images first.", options)
    else:
        print_line("No label contradicts the others.", options)
    rows = [asdict(s) | {"mislabeling": s.mislabeling} for s in suspects[: options.count]]
    return {"project": record.id, "found": len(suspects), "suspects": rows}
