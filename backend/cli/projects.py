"""The project that a command is about, and a round of it in the foreground."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from backend.cli import terminal
from backend.errors import NotFoundError
from backend.settings import Settings
from backend.store import wake as waking
from backend.store.projects import ProjectRecord, ProjectStore

if TYPE_CHECKING:
    from backend.records import RoundOutcome, RoundRequest


def add_project_argument(parser: argparse.ArgumentParser) -> None:
    """The argument that names a project."""
    parser.add_argument(
        "project",
        nargs="?",
        default="",
        metavar="PROJECT",
        help="its number in Label Studio or its title; not needed when only one is connected",
    )


def find_project(settings: Settings, project: str) -> ProjectRecord:
    """The connected project that somebody names.

    Raises:
        NotFoundError: none or several fit; the known ones are listed.
    """
    projects = ProjectStore(settings.home)
    records = projects.all()
    matches = [r for r in records if project in ("", r.id, str(r.number), r.title)]
    exact_matches = [r for r in matches if r.id == project]
    if len(exact_matches or matches) == 1:
        return (exact_matches or matches)[0]
    project_list = ", ".join(f"{r.id} ({r.title or 'not seen yet'})" for r in records) or "none yet"
    question = f"Which project is {project!r}?" if project else "Which project?"
    message_parts = [f"{question} Connected here: {project_list}.", *projects.damaged_messages()]
    raise NotFoundError(f"{' '.join(message_parts)} Connect one with `prelabel connect PROJECT`.")


def parse_count(text: str) -> int:
    """How many are wanted, as an argument."""
    if not text.isdigit() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError("a whole number from 1 to 1000")
    return int(text)


def project_folder(settings: Settings, record: ProjectRecord) -> Path:
    """Where a project's files are."""
    return ProjectStore(settings.home).folder(record.id)


def wake_server(settings: Settings, record: ProjectRecord) -> None:
    """Let a running server look at a project."""
    waking.request_wake(project_folder(settings, record))


def run_round(
    settings: Settings, record: ProjectRecord, round_request: RoundRequest
) -> RoundOutcome:
    """One round of a project in this process, with its progress on stderr.

    Raises:
        PrelabelError: it failed; the live version stays as it was.
    """
    from backend.bootstrap import make_resources
    from backend.loop.round import Round
    from backend.runtime.project_session import ProjectSession

    session = ProjectSession(make_resources(settings, lock_seconds=600), record)
    with session.round_lock():
        outcome = Round(session, _show_round_progress, None).run(round_request)
    terminal.clear_progress()
    wake_server(settings, record)
    return outcome


def _show_round_progress(state: str, progress: float, detail: str) -> None:
    terminal.show_progress(f"{state} {progress:4.0%}  {detail}")
