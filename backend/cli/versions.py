"""``prelabel versions``: list the versions of a project."""

from __future__ import annotations

import argparse
from typing import Any

from backend.cli import projects
from backend.cli.arguments import add_project_argument
from backend.cli.command import Command
from backend.estimate import IntervalEstimate
from backend.json_records import to_json
from backend.store.versions import VersionCard, VersionStore


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_project_argument(parser)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """Print a line per version, with the numbers of training and audit labels."""
    from backend.cli.terminal import print_line
    from backend.settings import read_settings

    settings = read_settings()
    record = projects.find_project(settings, options.project)
    versions = VersionStore(projects.project_folder(settings, record))
    live = versions.live()
    cards = versions.cards()[::-1]
    print_line(
        f"{'version':<16} {'live':<5} {'labels + audit':>14} {'audit slice':<36} {'created'}",
        options,
    )
    for card in cards:
        mark = "live" if card.version == live else "held" if card.is_held else ""
        labels = f"{card.labels.train} + {card.labels.audit}"
        line = f"{card.version:<16} {mark:<5} {labels:>14} {format_audit(card):<36}"
        print_line(f"{line} {card.created}", options)
        if card.is_held:
            print_line(f"    {card.promotion_reason}", options)
    damaged = versions.damaged()
    for problem in damaged.values():
        print_line(problem, options)
    return {
        "project": record.id,
        "live": live,
        "versions": [to_json(card) for card in cards],
        "damaged": damaged,
        "history": [to_json(event) for event in versions.history()],
    }


def format_audit(card: VersionCard) -> str:
    """Describe the accuracy or F1 on the audit set."""
    return (
        "not known yet"
        if card.audit.value is None
        else f"{card.audit.metric} {format_estimate(card.audit)}"
    )


def format_estimate(estimate: IntervalEstimate) -> str:
    """Describe a known estimate with its interval and number of images."""
    images = f"{estimate.n} image{'' if estimate.n == 1 else 's'}"
    return f"{estimate.value:.0%} ({estimate.low:.0%} to {estimate.high:.0%}, {images})"


COMMAND = Command(
    "versions",
    "list a project's versions, newest first, with their metrics",
    "prelabel versions 3",
    _add_options,
    _run,
)
