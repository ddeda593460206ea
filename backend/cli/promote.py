"""``prelabel promote``: make a version live."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from backend.cli import projects as known
from backend.cli.arguments import add_project_argument
from backend.cli.command import Command
from backend.store.projects import ProjectRecord
from backend.store.versions import VersionStore

if TYPE_CHECKING:
    from backend.settings import Settings


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "version",
        metavar="VERSION",
        help="version to promote, see `prelabel versions`; the start of its name is enough",
    )
    add_project_argument(parser)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """Promote a version, overriding the quality gate."""
    from backend.settings import read_settings

    settings = read_settings()
    record = known.find_project(settings, options.project)
    versions = VersionStore(known.project_folder(settings, record))
    version = known.find_version(versions, options.version)
    return promote_version(settings, record, version, "promoted by a person", options)


def promote_version(
    settings: Settings,
    record: ProjectRecord,
    version: str,
    reason: str,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Promote a version, and run a round that pushes its predictions."""
    from backend.cli.terminal import print_line
    from backend.records import RoundRequest

    versions = VersionStore(known.project_folder(settings, record))
    previous = versions.live()
    versions.promote(version, by="a person", reason=reason)
    outcome = known.run_round(settings, record, RoundRequest(full=True))
    print_line(f"{outcome.version} is live; it replaced {previous}.", options)
    return {"version": outcome.version, "was": previous}


COMMAND = Command(
    "promote",
    "make another version live, overriding the quality gate, and push its predictions",
    "prelabel promote v3 3",
    _add_options,
    _run,
)
