"""``prelabel train``: a round now, without waiting for more labels."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from backend.cli import projects
from backend.settings import read_settings

if TYPE_CHECKING:
    from backend.loop.round import Outcome

HELP = "train now on all labels, promote, and push the predictions"
EXAMPLE = "prelabel train 3"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    projects.add_project(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """One round in the foreground."""
    from backend.cli.main import say
    from backend.loop.round import Ask

    settings = read_settings()
    record = projects.find(settings, options.project)
    outcome = projects.round_here(settings, record, Ask(forced=True))
    say(_told(outcome), options)
    return {
        "version": outcome.version,
        "trained": outcome.trained or None,
        "held": dict(outcome.held) or None,
        "labels": outcome.labels,
        "audit": dict(outcome.audit),
        "seconds": dict(outcome.seconds),
    }


def _told(outcome: Outcome) -> str:
    """What came of the round, in a sentence or two."""
    from backend.dashboard.wording import why_not_live

    held = outcome.held.get("version", "")
    if held and not outcome.trained:
        return f"Nothing new to learn: {held} has seen all labels. {why_not_live(outcome.held)}"
    if outcome.held:
        return why_not_live(outcome.held)
    if not outcome.labels:
        return "Nothing is labeled yet: label a few images first."
    if outcome.trained:
        labels = "one label" if outcome.labels == 1 else f"{outcome.labels} labels"
        return f"Version {outcome.trained} is live; it has seen {labels}."
    return f"Nothing new to learn: {outcome.version} has seen all labels."
