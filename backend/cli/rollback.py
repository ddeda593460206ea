"""``prelabel rollback``: make the previous version live again."""

from __future__ import annotations

import argparse
from typing import Any

from backend.cli import projects
from backend.cli.arguments import add_project_argument
from backend.cli.command import Command
from backend.cli.promote import promote_version
from backend.store.versions import VersionStore


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_project_argument(parser)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """Promote the previous version."""
    from backend.settings import read_settings

    settings = read_settings()
    record = projects.find_project(settings, options.project)
    previous_version = VersionStore(projects.project_folder(settings, record)).rollback_target()
    return promote_version(settings, record, previous_version, "rolled back by a person", options)


COMMAND = Command(
    "rollback",
    "make the previous version live again and push its predictions",
    "prelabel rollback 3",
    _add_options,
    _run,
)
