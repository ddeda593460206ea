"""``prelabel train``: a round now, without waiting for more labels."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from backend.cli import projects
from backend.json_records import to_json
from backend.settings import read_settings

if TYPE_CHECKING:
    from backend.records import RoundOutcome

HELP = "train now on all labels, promote, and push the predictions"
EXAMPLE = "prelabel train 3"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    projects.add_project_argument(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """One round in the foreground."""
    from backend.cli.main import print_line
    from backend.records import RoundRequest

    settings = read_settings()
    record = projects.find_project(settings, options.project)
    outcome = projects.run_round(settings, record, RoundRequest(forced=True))
    print_line(_describe_outcome(outcome), options)
    return {
        "version": outcome.version,
        "trained": outcome.trained or None,
        "held": to_json(outcome.held) if outcome.held else None,
        "labels": outcome.labels,
        "audit": outcome.audit.to_json(),
        "seconds": dict(outcome.seconds),
    }


def _describe_outcome(outcome: RoundOutcome) -> str:
    """What came of the round, in a sentence or two."""
    from backend.dashboard.wording import explain_held_version

    if outcome.held:
        explanation, version = explain_held_version(outcome.held), outcome.held.version
        if version and not outcome.trained:
            return f"Nothing new to learn: {version} has seen all labels. {explanation}"
        return explanation
    if not outcome.labels:
        return "Nothing is labeled yet: label a few images first."
    if outcome.trained:
        labels = "one label" if outcome.labels == 1 else f"{outcome.labels} labels"
        return f"Version {outcome.trained} is live; it has seen {labels}."
    return f"Nothing new to learn: {outcome.version} has seen all labels."
