"""Find the project of a command, and run its rounds in this process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from backend.cli import terminal
from backend.errors import NotFoundError, UsageError
from backend.label_studio.project_names import match_projects
from backend.store.projects import ProjectRecord, ProjectStore
from backend.store.versions import VersionStore
from backend.store.wake import request_wake

if TYPE_CHECKING:
    from backend.records import RoundOutcome, RoundRequest
    from backend.settings import Settings


def find_project(settings: Settings, project: str) -> ProjectRecord:
    """Return the connected project that a text names; for "", the only one.

    Raises:
        NotFoundError: no project or several projects match; the message lists all.
    """
    matches = matching_projects(settings, project)
    if len(matches) == 1:
        return matches[0]
    projects = ProjectStore(settings.home)
    records = projects.all()
    project_list = ", ".join(f"{r.id} ({r.title or 'no title yet'})" for r in records) or "none yet"
    question = f"Which project is {project!r}?" if project else "Which project?"
    message_parts = [f"{question} Connected here: {project_list}.", *projects.damaged_messages()]
    raise NotFoundError(f"{' '.join(message_parts)} Connect one with `prelabel connect PROJECT`.")


def matching_projects(settings: Settings, project: str) -> list[ProjectRecord]:
    """Return the connected projects that a text names; see :func:`match_projects`."""
    records = ProjectStore(settings.home).all()
    return match_projects(project, {r: (r.id, str(r.number), r.title) for r in records})


def project_folder(settings: Settings, record: ProjectRecord) -> Path:
    """Return the folder of a project."""
    return ProjectStore(settings.home).folder(record.id)


def find_version(versions: VersionStore, text: str) -> str:
    """Return the version with a name or number, or the only one whose name starts with the text.

    The number is the part before the dash: v1 names v1-0123abcd and not v11-0123abcd.

    Raises:
        NotFoundError: no version matches.
        UsageError: several versions match.
    """
    names = versions.names()
    matches = [name for name in names if text in (name, name.partition("-")[0])] or [
        name for name in names if text and name.startswith(text)
    ]
    if len(matches) > 1:
        raise UsageError(f"Several versions start with {text!r}: {', '.join(matches)}.")
    return matches[0] if matches else versions.card(text).version


def run_round(
    settings: Settings, record: ProjectRecord, round_request: RoundRequest
) -> RoundOutcome:
    """Run one round of a project in this process, and show its progress on stderr.

    Raises:
        PrelabelError: the round failed; the live version does not change.
    """
    from backend.bootstrap import make_resources
    from backend.loop.round import Round
    from backend.runtime.project_session import ProjectSession

    session = ProjectSession(make_resources(settings, lock_seconds=600), record)
    with session.round_lock():
        outcome = Round(session, _show_round_progress, None).run(round_request)
    terminal.clear_progress()
    request_wake(project_folder(settings, record))
    return outcome


def _show_round_progress(state: str, progress: float, detail: str) -> None:
    terminal.show_progress(f"{state} {progress:4.0%}  {detail}")
