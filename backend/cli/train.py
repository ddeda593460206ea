"""``prelabel train``: a round now, without waiting for more labels."""

from __future__ import annotations

import argparse
from typing import Any

from backend.cli import known
from backend.settings import read_settings

HELP = "train now on all labels, promote, and push the predictions"
EXAMPLE = "prelabel train 3"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    known.add_project(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """One round in the foreground."""
    from backend.cli.main import say
    from backend.loop.round import Ask

    settings = read_settings()
    record = known.find(settings, options.project)
    outcome = known.round_here(settings, record, Ask(forced=True))
    if outcome.held and outcome.trained:
        say(f"Version {outcome.trained} is not live. {outcome.held['reason']}", options)
    elif outcome.trained:
        say(f"Version {outcome.trained} is live; it has seen {outcome.labels} labels.", options)
    else:
        say(f"Nothing new to learn: {outcome.version} has seen all labels.", options)
    return {
        "version": outcome.version,
        "trained": outcome.trained or None,
        "held": dict(outcome.held) or None,
        "labels": outcome.labels,
        "audit": dict(outcome.audit),
        "seconds": dict(outcome.seconds),
    }
