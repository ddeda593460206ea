"""``prelabel versions``: the cards of a project's versions."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from backend.cli import projects
from backend.cli.arguments import add_project_argument
from backend.cli.command import Command
from backend.store.versions import VersionCard, VersionStore


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_project_argument(parser)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """Print a line per version; its labels: learned from, and of the audit slice."""
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
        is_held = not card.promotion.get("promoted", True)
        mark = "live" if card.version == live else "held" if is_held else ""
        train, audit = card.labels["train"], card.labels["audit"]
        labels = f"{train} + {audit}"
        line = f"{card.version:<16} {mark:<5} {labels:>14} {format_audit(card):<36}"
        print_line(f"{line} {card.created}", options)
        if is_held:
            print_line(f"    {card.promotion['reason']}", options)
    return {
        "project": record.id,
        "live": live,
        "versions": [asdict(card) for card in cards],
        "history": versions.history(),
    }


def format_audit(card: VersionCard) -> str:
    """The figure on the audit slice with its interval, in words."""
    audit = card.audit
    return (
        "not known yet" if audit["value"] is None else f"{audit['metric']} {format_metric(audit)}"
    )


def format_metric(metric: Mapping[str, Any]) -> str:
    """A figure with its interval, in words."""
    interval = f"{metric['low']:.0%} to {metric['high']:.0%}"
    images = f"{metric['n']} image{'' if metric['n'] == 1 else 's'}"
    return f"{metric['value']:.0%} ({interval}, {images})"


COMMAND = Command(
    "versions",
    "list a project's versions, newest first, with their metrics",
    "prelabel versions 3",
    _add_options,
    _run,
)
