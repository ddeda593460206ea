"""``prelabel status``: what is connected, and how far it is."""

from __future__ import annotations

import argparse
from typing import Any

from backend.cli import known
from backend.cli.versions import figure, told
from backend.settings import Settings, read_settings
from backend.store.files import read_json
from backend.store.projects import ProjectRecord, Projects
from backend.store.versions import Card, Versions

HELP = "show the connected projects: labels, live version, how good it is"
EXAMPLE = "prelabel status"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    known.add_project(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Print a paragraph per project."""
    from backend.cli.main import say

    settings = read_settings()
    records = Projects(settings.home).all()
    if options.project:
        records = [known.find(settings, options.project)]
    shown = [_status(settings, record) for record in records]
    for project in shown:
        say(f"{project['id']}  {project['title']}  ({project['server']})", options)
        say(f"    {project['labels']} of {project['tasks']} tasks labeled", options)
        say(f"    live: {project['version']}, on the audit slice {project['figure']}", options)
        for line in project["notes"]:
            say(f"    {line}", options)
        for reason, count in project["left_out"].items():
            say(f"    left out: {count} × {reason}", options)
    if not shown:
        say("No project is connected yet: `prelabel connect PROJECT`.", options)
    return {"projects": shown}


def _status(settings: Settings, record: ProjectRecord) -> dict[str, Any]:
    summary = read_json(known.folder(settings, record) / "summary.json") or {}
    card = Versions(known.folder(settings, record)).live_card()
    return {
        "id": record.id,
        "title": record.title,
        "server": record.server or settings.label_studio_url,
        "version": card.version if card else None,
        "tasks": summary.get("tasks", 0),
        "labels": summary.get("labels", 0),
        "audit": card.audit if card else None,
        "figure": figure(card) if card else "not known yet",
        "notes": _notes(summary, card),
        "left_out": summary.get("left_out", {}),
    }


def _notes(summary: dict[str, Any], card: Card | None) -> list[str]:
    """What people should know beside the figures."""
    held, outlook = summary.get("held") or {}, card.outlook if card else {}
    accepting, estimate = (card.accepting, card.estimate) if card else ({}, {})
    accepted = summary.get("accepted", 0)
    needy = [f"{row['more']} more of {row['label']}" for row in outlook.get("labels", [])]
    return [
        *([f"{held['version']} is not live. {held['reason']}"] if held else []),
        *([f"{estimate['metric']}: {told(estimate)}"] if estimate else []),
        *([outlook["sentence"]] if outlook.get("sentence") else []),
        *([f"Would help most: about {', '.join(needy)}."] if needy else []),
        *(["The next hundred labels are not expected to pay."] if outlook.get("stop") else []),
        *([f"{accepted} accepted without a person. {accepting['reason']}"] if accepting else []),
    ]
