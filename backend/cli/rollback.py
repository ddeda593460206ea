"""``prelabel rollback``: the version before the live one goes live again."""

from __future__ import annotations

import argparse
from typing import Any

from backend.cli import projects
from backend.cli.promote import go_live
from backend.settings import read_settings
from backend.store.versions import Versions

HELP = "make the version before the live one live again"
EXAMPLE = "prelabel rollback 3"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    projects.add_project(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Roll back by one version."""
    settings = read_settings()
    record = projects.find(settings, options.project)
    older = Versions(projects.folder(settings, record)).before_live()
    return go_live(settings, record, older, "rolled back by a person", options)
