"""``prelabel train``: train on the current labels now."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from backend.cli import projects
from backend.cli.arguments import add_project_argument
from backend.cli.command import Command
from backend.json_records import to_json

if TYPE_CHECKING:
    from backend.records import RoundOutcome


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_project_argument(parser)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """Run a round in this process."""
    from backend.cli.terminal import print_line
    from backend.records import RoundRequest
    from backend.settings import read_settings

    settings = read_settings()
    record = projects.find_project(settings, options.project)
    outcome = projects.run_round(settings, record, RoundRequest(forced=True))
    while outcome.full_training_due:
        print_line(f"{_describe_outcome(outcome)} Its full training follows.", options)
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
    """Describe the outcome of the round."""
    from backend.dashboard.wording import explain_held_version

    reason, held = outcome.untrained_reason, outcome.held
    if held and held.version:
        return f"{reason} {explain_held_version(held)}".lstrip()
    if reason:
        return reason
    labels = "one label" if outcome.labels == 1 else f"{outcome.labels} labels"
    measured = ", those of audit images only to measure the accuracy" if outcome.audit.n else ""
    return f"Version {outcome.trained} is live. It uses {labels}{measured}."


COMMAND = Command(
    "train",
    "train on the current labels now, then promote the version and push its predictions",
    "prelabel train 3",
    _add_options,
    _run,
)
