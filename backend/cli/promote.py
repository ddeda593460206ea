"""``prelabel promote``: make a version live."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from backend.cli import projects as known
from backend.cli.arguments import add_project_argument
from backend.cli.command import Command
from backend.records import TRAINING_STATES
from backend.store.projects import ProjectRecord
from backend.store.round_state import read_round_state
from backend.store.versions import VersionStore
from backend.store.wake import request_wake

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
    """Promote a version, and push its predictions; a running training continues."""
    from backend.cli.terminal import print_line
    from backend.dashboard.wording import explain_running_training

    folder = known.project_folder(settings, record)
    versions = VersionStore(folder)
    previous = versions.live()
    versions.promote(version, by="a person", reason=reason)
    request_wake(folder)  # a running server pushes them if this command is killed
    print_line(f"{version} is live; it replaced {previous}.", options)
    activity = read_round_state(folder)
    if activity and activity.state in TRAINING_STATES:
        print_line(explain_running_training(version), options)
    known.publish_live(settings, record)
    return {"version": version, "was": previous}


COMMAND = Command(
    "promote",
    "make another version live, overriding the quality gate, and push its predictions",
    "prelabel promote v3 3",
    _add_options,
    _run,
)
