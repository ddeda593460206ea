"""``prelabel versions``: list the versions of a project."""

from __future__ import annotations

import argparse
from typing import Any

from backend.cli import projects
from backend.cli.arguments import add_project_argument
from backend.cli.command import Command
from backend.estimate import (
    MIN_FIGURE_IMAGES,
    TOO_EARLY_TEXT,
    IntervalEstimate,
    format_headline,
    format_interval,
    format_percent,
)
from backend.json_records import to_json
from backend.store.versions import VersionCard, VersionStore

AUDIT_COLUMN_WIDTH = 43
"""Width of the column of the audit set, in characters."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_project_argument(parser)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """Print a line per version."""
    from backend.cli.terminal import print_line
    from backend.settings import read_settings

    settings = read_settings()
    record = projects.find_project(settings, options.project)
    versions = VersionStore(projects.project_folder(settings, record))
    live = versions.live()
    cards = versions.cards()[::-1]
    header = f"{'version':<16} {'live':<5} {'labels + audit':>14}"
    print_line(f"{header} {'audit set':<{AUDIT_COLUMN_WIDTH}} created, UTC", options)
    for card in cards:
        mark = "live" if card.version == live else "held" if card.is_held else ""
        labels = f"{card.labels.train} + {card.labels.audit}"
        line = (
            f"{card.version:<16} {mark:<5} {labels:>14} {format_audit(card):<{AUDIT_COLUMN_WIDTH}}"
        )
        print_line(f"{line} {card.created[:16].replace('T', ' ')}", options)
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
    """Format the accuracy or F1 on the audit set, or the estimate while it is too early to tell."""
    if card.audit.is_conclusive:
        return f"{card.audit.metric} {format_estimate(card.audit)}"
    if card.audit.n >= MIN_FIGURE_IMAGES:
        return format_headline(card.audit)
    progress = f"{TOO_EARLY_TEXT} ({card.audit.n} of {MIN_FIGURE_IMAGES})"
    estimate = card.estimate or IntervalEstimate()
    if not estimate.is_conclusive:
        return progress
    return f"{progress}; estimated {format_headline(estimate)}"


def format_estimate(estimate: IntervalEstimate) -> str:
    """Format a conclusive estimate with its interval and number of images."""
    value = format_percent(estimate.value or 0.0)
    return f"{value} ({format_interval(estimate)}, {estimate.n} images)"


COMMAND = Command(
    "versions",
    "list a project's versions, newest first, with their metrics",
    "prelabel versions 3",
    _add_options,
    _run,
)
