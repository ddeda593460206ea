"""The project that a command is about, and a round of it in the foreground."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from backend.cli import terminal
from backend.errors import NotThere
from backend.settings import Settings
from backend.store import wake as waking
from backend.store.projects import ProjectRecord, Projects

if TYPE_CHECKING:
    from backend.loop.round import Ask, Outcome


def add_project(parser: argparse.ArgumentParser) -> None:
    """The argument that names a project."""
    parser.add_argument(
        "project",
        nargs="?",
        default="",
        metavar="PROJECT",
        help="its number in Label Studio or its title; not needed when only one is connected",
    )


def find(settings: Settings, named: str) -> ProjectRecord:
    """The connected project that somebody names.

    Raises:
        NotThere: none or several fit; the known ones are listed.
    """
    projects = Projects(settings.home)
    records = projects.all()
    fitting = [r for r in records if named in ("", r.id, str(r.number), r.title)]
    exact = [r for r in fitting if r.id == named]
    if len(exact or fitting) == 1:
        return (exact or fitting)[0]
    known = ", ".join(f"{r.id} ({r.title or 'not seen yet'})" for r in records) or "none yet"
    what = f"Which project is {named!r}?" if named else "Which project?"
    told = [f"{what} Connected here: {known}.", *projects.damaged()]
    raise NotThere(f"{' '.join(told)} Connect one with `prelabel connect PROJECT`.")


def count(text: str) -> int:
    """How many are wanted, as an argument."""
    if not text.isdigit() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError("a whole number from 1 to 1000")
    return int(text)


def folder(settings: Settings, record: ProjectRecord) -> Path:
    """Where a project's files are."""
    return Projects(settings.home).folder(record.id)


def wake(settings: Settings, record: ProjectRecord) -> None:
    """Let a running server look at a project."""
    waking.ask(folder(settings, record))


def round_here(settings: Settings, record: ProjectRecord, ask: Ask) -> Outcome:
    """One round of a project in this process, with its progress on stderr.

    Raises:
        PrelabelError: it failed; the live version stays as it was.
    """
    from backend.bootstrap import make_resources
    from backend.loop.round import Round

    resources = make_resources(settings, lock_seconds=600)
    with resources.alone(record):
        outcome = Round(resources, record, _show, None).run(ask)
    terminal.clear()
    wake(settings, record)
    return outcome


def _show(state: str, progress: float, detail: str) -> None:
    terminal.show(f"{state} {progress:4.0%}  {detail}")
