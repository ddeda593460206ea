"""``prelabel similar``: images of a project like a task, like a file, or like some words."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from backend.cli import projects
from backend.settings import read_settings

HELP = "find images like this one"
EXAMPLE = "prelabel similar 4711 3"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "like",
        metavar="LIKE",
        help="a task's number, an image file, or words (words need an encoder that knows text)",
    )
    projects.add_project_argument(parser)
    parser.add_argument("--count", type=projects.parse_count, default=20, help="how many (20)")
    parser.add_argument(
        "--tab", action="store_true", help="also show them as a tab of Label Studio's Data Manager"
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Print a line per image, the most similar first."""
    from backend.bootstrap import make_resources
    from backend.cli.main import print_line
    from backend.runtime.project_session import ProjectSession
    from backend.tools.similar import SimilaritySearch

    settings = read_settings()
    record = projects.find_project(settings, options.project)
    search = SimilaritySearch(ProjectSession(make_resources(settings), record))
    matches = search.find_similar(options.like, options.count)
    for match in matches:
        print_line(f"{match.similarity:5.2f}  {match.address}  {match.answer}", options)
    if options.tab:
        print_line(f"Label Studio shows them in the tab “{search.show_tab(matches)}”.", options)
    return {"project": record.id, "like": options.like, "matches": [asdict(m) for m in matches]}
