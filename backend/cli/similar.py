"""``prelabel similar``: find images similar to a task, a file or a text."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from backend.cli.arguments import add_project_argument, whole_number
from backend.cli.command import Command, CommandResult
from backend.cli.projects import find_project
from backend.cli.terminal import format_table, print_line


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "like",
        metavar="LIKE",
        help="task id, image file, or text (text needs a CLIP encoder)",
    )
    add_project_argument(parser)
    parser.add_argument(
        "--count",
        type=whole_number(1, 1000),
        default=20,
        help="maximum number of images (default 20)",
    )
    parser.add_argument(
        "--tab", action="store_true", help="also list them in a tab of Label Studio's Data Manager"
    )


def _run(options: argparse.Namespace) -> CommandResult:
    from backend.bootstrap import make_resources
    from backend.runtime.project_session import ProjectSession
    from backend.settings import read_settings
    from backend.tools.similar import SimilaritySearch

    settings = read_settings()
    record = find_project(settings, options.project)
    search = SimilaritySearch(ProjectSession(make_resources(settings), record))
    matches = search.find_similar(options.like, options.count)
    rows = [(f"{m.similarity:.2f}", m.address, m.answer) for m in matches]
    if rows:
        for line in format_table(("similarity", "image", "labels"), rows, options, right={0}):
            print_line(line, options)
    if options.tab:
        print_line(f"Label Studio lists them in the tab “{search.show_tab(matches)}”.", options)
    return {"project": record.id, "like": options.like, "matches": [asdict(m) for m in matches]}


COMMAND = Command(
    "similar",
    "find images similar to a task, a file or a text",
    "prelabel similar 4711 3",
    _add_options,
    _run,
)
