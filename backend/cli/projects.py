"""Find the project of a command, and run its rounds in this process."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from backend.cli import terminal
from backend.errors import NotFoundError, RoundInProgressError, UsageError
from backend.label_studio.project_names import match_projects
from backend.records import RoundStatus
from backend.store.projects import ProjectRecord, ProjectStore
from backend.store.round_state import published_round, read_round_state
from backend.store.versions import VersionStore
from backend.store.wake import request_wake

log = logging.getLogger("prelabel")
OTHER_ROUND_MESSAGE = "Another process works on project %s (%s). This command waits for it."
ROUND_LOCK_TIMEOUT_SECONDS, ROUND_LOCK_POLL_SECONDS = 600.0, 1.0
"""Time to wait for the round of another process, and interval at which its progress is shown."""

if TYPE_CHECKING:
    from backend.records import RoundOutcome, RoundRequest
    from backend.runtime.project_session import ProjectSession
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
    records = projects.listed()
    project_list = ", ".join(f"{r.id} ({r.title or 'no title yet'})" for r in records) or "none yet"
    question = f"Which project is {project!r}?" if project else "Which project?"
    message_parts = [f"{question} Connected here: {project_list}.", *projects.damaged_messages()]
    raise NotFoundError(f"{' '.join(message_parts)} Connect one with `prelabel connect PROJECT`.")


def matching_projects(settings: Settings, project: str) -> list[ProjectRecord]:
    """Return the connected projects that a text names; see :func:`match_projects`."""
    store = ProjectStore(settings.home)
    listed, names = store.listed(), {r: (r.id, str(r.number), r.title) for r in store.all()}
    matches = match_projects(project, names)
    return [r for r in matches if r in listed] or (matches if project else [])


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
    matches = [name for name in names if is_named(name, text)] or [
        name for name in names if text and name.startswith(text)
    ]
    if len(matches) > 1:
        raise UsageError(f"Several versions start with {text!r}: {', '.join(matches)}.")
    return matches[0] if matches else versions.card(text).version


def is_named(version: str, text: str) -> bool:
    """Return whether a text is the name or the number of a version."""
    return text in (version, version.partition("-")[0])


def open_session(settings: Settings, record: ProjectRecord) -> ProjectSession:
    """Return a session of a project in this process."""
    from backend.bootstrap import make_resources
    from backend.runtime.project_session import ProjectSession

    return ProjectSession(make_resources(settings, lock_seconds=ROUND_LOCK_POLL_SECONDS), record)


def run_round(
    settings: Settings, record: ProjectRecord, round_request: RoundRequest
) -> RoundOutcome:
    """Run one round of a project in this process, and show its progress on stderr.

    Raises:
        PrelabelError: the round failed; the live version does not change.
    """
    from backend.loop.round import Round

    session = open_session(settings, record)
    with (
        wait_for_round_lock(session),
        published_round(session.folder, _show_round_progress) as report,
    ):
        outcome = Round(session, report, None).run(round_request)
    terminal.clear_progress()
    request_wake(project_folder(settings, record))
    return outcome


def publish_live(settings: Settings, record: ProjectRecord) -> None:
    """Push the predictions of a project's live version, and show the progress on stderr.

    Raises:
        PrelabelError: it failed; the next round pushes them.
    """
    from backend.loop.round import Round

    session = open_session(settings, record)
    Round(session, _show_round_progress, None).publish_live()
    terminal.clear_progress()
    request_wake(session.folder)


@contextlib.contextmanager
def wait_for_round_lock(session: ProjectSession) -> Iterator[None]:
    """Hold the lock of a project's rounds; show the round of another process meanwhile.

    Raises:
        RoundInProgressError: the other round takes longer than ``ROUND_LOCK_TIMEOUT_SECONDS``.
    """
    deadline, has_logged = time.monotonic() + ROUND_LOCK_TIMEOUT_SECONDS, False
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(session.round_lock())
                break
            except RoundInProgressError:
                if time.monotonic() > deadline:
                    raise
            progress = _describe_other_round(session.folder)
            terminal.show_progress(f"waiting for another process: {progress}")
            if not has_logged:
                log.info(OTHER_ROUND_MESSAGE, session.id, progress)
            has_logged = True
        terminal.clear_progress()
        yield


def _describe_other_round(folder: Path) -> str:
    """Return what the process does that holds the lock of a project's rounds."""
    status = read_round_state(folder) or RoundStatus("maintenance")
    return f"{status.state} {status.progress:.0%}  {status.detail or ''}".rstrip()


def _show_round_progress(state: str, progress: float, detail: str) -> None:
    terminal.show_progress(f"{state} {progress:4.0%}  {detail}")
