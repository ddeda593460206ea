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

TABLE_HEADERS = ("version", "live", "labels + audit", "audit set", "created, UTC")


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_project_argument(parser)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """Print a line per version."""
    from backend.cli.terminal import format_table, print_line
    from backend.settings import read_settings

    settings = read_settings()
    record = projects.find_project(settings, options.project)
    versions = VersionStore(projects.project_folder(settings, record))
    live = versions.live()
    cards = versions.cards()[::-1]
    rows = [
        (
            card.version,
            "live" if card.version == live else "held" if card.is_held else "",
            f"{card.labels.train} + {card.labels.audit}",
            format_audit(card),
            card.created[:16].replace("T", " "),
        )
        for card in cards
    ]
    for line in format_table(TABLE_HEADERS, rows, options, right={2}):
        print_line(line, options)
    for card in cards:
        if card.is_held:
            print_line(f"{card.version}: {card.promotion_reason}", options)
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
