"""Repair the files of a project before a round, so that a damaged one does not stop it."""

from __future__ import annotations

import logging

from backend.errors import DamagedFileError
from backend.loop.evaluate.past_versions import LOOP_ACTOR
from backend.runtime.project_session import ProjectSession
from backend.store.files import sweep_temporary_files
from backend.store.record_files import log_once
from backend.store.versions import VersionCard

log = logging.getLogger("prelabel")


def repair_files(session: ProjectSession) -> None:
    """Set damaged versions aside, make the last good one live, and remove temporary files.

    Call it under the round lock.

    Raises:
        StoreError: the home folder cannot be written.
    """
    versions = session.versions
    versions.remove_leftovers()
    sweep_temporary_files(session.folder)
    while not _has_labels(session, session.loadable_version(), versions.newest()):
        pass  # the version without labels is set aside, so another one is live or the newest
    for reason in versions.damaged().values():
        log_once(f"project {session.id}: {reason}")
    if versions.restore_live(LOOP_ACTOR):
        log.warning("project %s: version %s is live again", session.id, versions.live() or "none")


def _has_labels(session: ProjectSession, live: str | None, newest: VersionCard | None) -> bool:
    """Return whether the labels of both versions can be read; a version without is set aside."""
    try:
        for name in {live, newest.version if newest else None} - {None}:
            session.versions.labels(str(name))
    except DamagedFileError as error:
        log.error("project %s: %s", session.id, error)
        return False
    return True
