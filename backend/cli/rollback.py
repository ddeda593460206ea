"""``prelabel rollback``: the version before the live one goes live again."""

from __future__ import annotations

import argparse
from typing import Any

from backend.cli import projects
from backend.cli.promote import promote_version
from backend.settings import read_settings
from backend.store.versions import VersionStore

HELP = "make the version before the live one live again"
EXAMPLE = "prelabel rollback 3"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    projects.add_project_argument(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Roll back by one version."""
    settings = read_settings()
    record = projects.find_project(settings, options.project)
    previous_version = VersionStore(projects.project_folder(settings, record)).rollback_target()
    return promote_version(settings, record, previous_version, "rolled back by a person", options)
