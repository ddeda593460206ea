"""``prelabel versions``: the cards of a project's versions."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from backend.cli import projects
from backend.settings import read_settings
from backend.store.versions import Card, Versions

HELP = "list the versions of a project, newest first, with their figures"
EXAMPLE = "prelabel versions 3"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    projects.add_project(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Print a line per version; its labels: learned from, and of the audit slice."""
    from backend.cli.main import say

    settings = read_settings()
    record = projects.find(settings, options.project)
    versions = Versions(projects.folder(settings, record))
    live = versions.live()
    cards = versions.cards()[::-1]
    say(
        f"{'version':<16} {'live':<5} {'labels + audit':>14} {'audit slice':<36} {'created'}",
        options,
    )
    for card in cards:
        held = not card.promotion.get("promoted", True)
        mark = "live" if card.version == live else "held" if held else ""
        train, audit = card.labels["train"], card.labels["audit"]
        labels = f"{train} + {audit}"
        line = f"{card.version:<16} {mark:<5} {labels:>14} {figure(card):<36}"
        say(f"{line} {card.created}", options)
        if held:
            say(f"    {card.promotion['reason']}", options)
    return {
        "project": record.id,
        "live": live,
        "versions": [asdict(card) for card in cards],
        "history": versions.history(),
    }


def figure(card: Card) -> str:
    """The figure on the audit slice with its interval, in words."""
    audit = card.audit
    return "not known yet" if audit["value"] is None else f"{audit['metric']} {told(audit)}"


def told(figure: Mapping[str, Any]) -> str:
    """A figure with its interval, in words."""
    interval = f"{figure['low']:.0%} to {figure['high']:.0%}"
    images = f"{figure['n']} image{'' if figure['n'] == 1 else 's'}"
    return f"{figure['value']:.0%} ({interval}, {images})"
