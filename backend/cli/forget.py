"""``prelabel forget``: remove everything that is stored of a project."""

from __future__ import annotations

import argparse
from typing import Any

from backend.cli import projects
from backend.cli.arguments import add_project_argument
from backend.cli.command import Command
from backend.store.projects import ProjectStore
from backend.store.versions import VersionStore


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_project_argument(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """Remove a project's folder after confirmation; Label Studio is not changed."""
    from backend.cli.terminal import TerminalPrompter, print_line
    from backend.settings import read_settings

    settings = read_settings()
    record = projects.find_project(settings, options.project)
    name = f"project {record.id} ({record.title or 'no title'})"
    count = len(VersionStore(projects.project_folder(settings, record)).names())
    versions = f"{count} version{'' if count == 1 else 's'}"
    question = (
        f"Remove {name} with its {versions} from Prelabel? Label Studio keeps all labels. "
        f"Type {record.id} to confirm."
    )
    if not options.yes and TerminalPrompter().ask_text(question, "yes") != record.id:
        print_line("Nothing was removed.", options)
        return {"project": record.id, "removed": False}
    ProjectStore(settings.home, settings.endpoint_data_dir).forget(record.id)
    print_line(
        f"Removed {name}. If it is still connected in Label Studio, delete the connection there "
        "(Settings, Model), or it comes back.",
        options,
    )
    return {"project": record.id, "removed": True}


COMMAND = Command(
    "forget",
    "remove a project and its versions from Prelabel",
    "prelabel forget 3",
    _add_options,
    _run,
)
