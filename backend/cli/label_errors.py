"""``prelabel label-errors``: list labels that a model contradicts, the least plausible first."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from backend.cli.arguments import add_project_argument, whole_number
from backend.cli.command import Command, CommandResult
from backend.cli.projects import find_project
from backend.cli.terminal import format_table, print_line


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_project_argument(parser)
    parser.add_argument(
        "--count",
        type=whole_number(1, 1000),
        default=50,
        help="maximum number of listed labels (default 50)",
    )


def _run(options: argparse.Namespace) -> CommandResult:
    from backend.bootstrap import make_resources
    from backend.dashboard.wording import describe_label_error
    from backend.label_studio.tabs import LABEL_ERRORS_TAB
    from backend.runtime.project_session import ProjectSession
    from backend.settings import read_settings
    from backend.tools.label_errors import MAX_SHOWN_SUSPECTS, LabelErrorFinder

    settings = read_settings()
    record = find_project(settings, options.project)
    finder = LabelErrorFinder(ProjectSession(make_resources(settings), record))
    suspects = finder.find_label_errors()
    if suspects:
        rows = [
            (str(s.task), describe_label_error(s.why, s.given, s.suggested))
            for s in suspects[: options.count]
        ]
        for line in format_table(("task", "to check"), rows, options, right={0}):
            print_line(line, options)
        listed = f"the first {MAX_SHOWN_SUSPECTS} of " if len(suspects) > MAX_SHOWN_SUSPECTS else ""
        summary = f"Label Studio lists {listed}{len(suspects)} in the tab “{LABEL_ERRORS_TAB}”."
    elif not finder.labeled_count:
        summary = "No task is labeled yet: label a few images first."
    elif finder.unchecked:
        summary = ""
    else:
        summary = "No label to check was found."
    for line in filter(None, (summary, *(finder.unchecked if finder.labeled_count else ()))):
        print_line(line, options)
    listed_suspects = [
        asdict(s) | {"mislabeling": s.mislabeling} for s in suspects[: options.count]
    ]
    return {
        "project": record.id,
        "found": len(suspects),
        "suspects": listed_suspects,
        "unchecked": list(finder.unchecked),
    }


COMMAND = Command(
    "label-errors",
    "list labels to check, because a model predicts another one",
    "prelabel label-errors 3",
    _add_options,
    _run,
)
