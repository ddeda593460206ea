"""``prelabel promote``: make a version live."""

from __future__ import annotations

import argparse
from typing import Any

from backend.cli import projects as known
from backend.settings import Settings, read_settings
from backend.store.projects import ProjectRecord
from backend.store.versions import VersionStore

HELP = "make a version live and push its predictions"
EXAMPLE = "prelabel promote v3-1f0c22aa 3"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("version", metavar="VERSION", help="see `prelabel versions`")
    known.add_project_argument(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Promote a version, whatever the loop thinks of it."""
    settings = read_settings()
    record = known.find_project(settings, options.project)
    return promote_version(settings, record, options.version, "promoted by a person", options)


def promote_version(
    settings: Settings,
    record: ProjectRecord,
    version: str,
    reason: str,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Flip the pointer, then let Label Studio follow."""
    from backend.cli.main import print_line
    from backend.records import RoundRequest

    versions = VersionStore(known.project_folder(settings, record))
    previous = versions.live()
    versions.promote(version, by="a person", reason=reason)
    outcome = known.run_round(settings, record, RoundRequest(full=True))
    print_line(f"{outcome.version} is live, {previous} was.", options)
    return {"version": outcome.version, "was": previous}
