"""Describe what the damaged files of a project affect."""

from __future__ import annotations

from pathlib import Path

from backend.store.acceptance import AcceptanceStore
from backend.store.versions import VersionStore


def find_problems(folder: Path, versions: VersionStore | None = None) -> list[str]:
    """Return a sentence for each thing that a damaged file affects; none for what is rebuilt.

    Args:
        folder: the project's folder.
        versions: its versions, if they are open already.

    Raises:
        StoreError: a file cannot be read for another reason.
    """
    versions = versions or VersionStore(folder)
    problems = [versions.live_problem(), *versions.damaged().values()]
    problems.append(AcceptanceStore(folder).read().problem)
    return [problem for problem in problems if problem]
