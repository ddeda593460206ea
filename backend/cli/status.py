"""``prelabel status``: what is connected, how good it is, and what would help."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from backend.cli import addresses
from backend.cli import projects as known
from backend.cli.versions import figure, told
from backend.settings import Settings, read_settings
from backend.store.acceptance import Acceptances
from backend.store.captures import Captures
from backend.store.files import read_json
from backend.store.projects import ProjectRecord, Projects
from backend.store.queue_front import SUSPECTS
from backend.store.versions import Card, Versions

HELP = "show the connected projects: labels, live version, how good it is, what would help"
EXAMPLE = "prelabel status 3"
WIDTH = 24
"""Letters of a label in the table."""
Figures = Mapping[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    known.add_project(parser)
    addresses.add_backend(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Print a paragraph per project."""
    from backend.cli.main import say

    settings = read_settings()
    projects = Projects(settings.home, settings.kept)
    records = projects.all()
    if options.project:
        records = [known.find(settings, options.project)]
    rounds = _rounds(settings, options.backend)
    shown = [
        {**_status(settings, projects, record), "round": rounds.get(record.id)}
        for record in records
    ]
    for project in shown:
        for line in _lines(project):
            say(line, options)
    for sentence in projects.damaged():
        say(sentence, options)
    if not shown:
        say("No project is connected yet: `prelabel connect PROJECT`.", options)
    return {"projects": shown}


def _status(settings: Settings, projects: Projects, record: ProjectRecord) -> dict[str, Any]:
    """The figures that ``/api/projects`` has, from the home folder."""
    folder = projects.folder(record.id)
    summary = read_json(folder / "summary.json") or {}
    card = Versions(folder).live_card()
    accepting = Acceptances(folder).read().told(card.accepting) if card else {}
    return {
        "id": int(record.id) if record.id.isdigit() else record.id,
        "title": record.title,
        "server": record.server or settings.label_studio_url,
        "version": card.version if card else None,
        "created": card.created if card else None,
        "tasks": summary.get("tasks", 0),
        "labels": summary.get("labels", 0),
        "waiting": summary.get("waiting", 0),
        "accepted": summary.get("accepted", 0),
        "audit": card.audit if card else None,
        "figure": figure(card) if card else "not known yet",
        "estimate": card.estimate if card else {},
        "outlook": card.outlook if card else {},
        "accepting": accepting,
        "held": summary.get("held") or {},
        "controls": _controls(card),
        "captured": _captured(projects.captures(record.id)),
        "versions": summary.get("versions", []),
        "notes": _notes(summary, card, accepting),
        "left_out": summary.get("left_out", {}),
        "suspects": len((read_json(folder / SUSPECTS) or {}).get("suspects", [])),
    }


def _rounds(settings: Settings, backend: str) -> dict[str, Figures]:
    """What the rounds do now, by project, where the backend of this home folder answers."""
    from backend.onboarding.backend_connection import checked
    from backend.onboarding.first_round import states

    return {str(row["id"]): row["round"] for row in states(settings, checked(backend, settings))}


def _controls(card: Card | None) -> dict[str, Any]:
    """By control what answers it, and by label what is known."""
    return {
        name: {
            "kind": about["kind"],
            "audit": about.get("audit"),
            "advice": about.get("advice", ""),
            "labels": _labels(about),
        }
        for name, about in (card.controls if card else {}).items()
    }


def _labels(about: Figures) -> dict[str, Any]:
    known_of = (about.get("figures") or {}).get("labels") or {}
    rows = {}
    for label, examples in (about.get("examples") or {}).items():
        row = known_of.get(label) or {}
        row = row.get("intervals") or row
        rows[label] = {"examples": examples, **{k: row.get(k) for k in ("precision", "recall")}}
    return rows


def _captured(captures: Captures) -> dict[str, Any]:
    """What applications sent that is worth labeling."""
    found = list(captures.all())
    return {
        "images": len(found),
        "tasks": sum(bool(captures.task(one)[0]) for one in found),
        "why": dict(Counter(one.why for one in found)),
    }


def _notes(summary: Figures, card: Card | None, accepting: Figures) -> list[str]:
    """What people should know beside the figures."""
    held, outlook = summary.get("held") or {}, card.outlook if card else {}
    estimate = card.estimate if card else {}
    accepted = summary.get("accepted", 0)
    needy = [
        f"{row.get('words') or 'about {more}'.format(**row)} more of {row['label']}"
        for row in outlook.get("labels", [])
    ]
    return [
        *([f"{held['version']} is not live. {held['reason']}"] if held else []),
        *([f"{estimate['metric']}: {told(estimate)}"] if estimate else []),
        *([outlook["sentence"]] if outlook.get("sentence") else []),
        *([f"Would help most: {', '.join(needy)}."] if needy else []),
        *(["The next hundred labels are not expected to pay."] if outlook.get("stop") else []),
        *([f"{accepted} accepted without a person. {accepting['reason']}"] if accepting else []),
    ]


# -- for people -----------------------------------------------------------------------------


def _lines(project: Figures) -> Iterator[str]:
    yield f"{project['id']}  {project['title']}  ({project['server']})"
    waiting = project["waiting"]
    more = f", {waiting} of them new since the last version" if waiting else ""
    yield f"    {project['labels']} of {project['tasks']} tasks labeled{more}"
    if project["version"]:
        yield f"    live: {project['version']}, on the audit slice {project['figure']}"
    else:
        yield "    live: nothing yet; `prelabel serve` makes the first version"
    yield from _now(project["round"])
    for line in project["notes"]:
        yield f"    {line}"
    for name, control in project["controls"].items():
        yield from _table(name, control)
    captured = project["captured"]
    if captured["images"]:
        why = ", ".join(f"{count} {reason}" for reason, count in captured["why"].items())
        yield (
            f"    captured by the endpoint: {captured['images']} "
            f"image{'' if captured['images'] == 1 else 's'} ({why}), "
            f"{captured['tasks']} of them tasks by now"
        )
    if project["suspects"]:
        yield (
            f"    labels that may be wrong: {project['suspects']} "
            f"(`prelabel label-errors {project['id']}`)"
        )
    for reason, count in project["left_out"].items():
        yield f"    left out: {count} × {reason}"


def _now(now: Figures | None) -> Iterator[str]:
    """What the round does, where that is known and something is under way."""
    from backend.dashboard.wording import STATES

    if now and now["error"]:
        yield f"    the last round failed: {now['error']}"
    elif now and now["state"] != "idle":
        detail = f"  {now['detail']}" if now["detail"] else ""
        yield f"    now: {STATES.get(now['state'], now['state'])} {now['progress']:.0%}{detail}"


def _table(name: str, control: Figures) -> Iterator[str]:
    yield f"    {name} ({control['kind']})"
    if control["advice"]:
        yield f"      {control['advice']}"
    if control["labels"]:
        head = f"      {'label':<{WIDTH}} {'examples':>8}  "
        yield f"{head}{'right when given':<24}  found of all"
    for label, row in control["labels"].items():
        cells = f"      {_cut(label):<{WIDTH}} {row['examples']:>8}  "
        yield f"{cells}{_share(row['precision']):<24}  {_share(row['recall'])}"


def _share(known_as: Figures | None) -> str:
    """A figure with its interval, short enough for a table."""
    if not known_as or known_as.get("value") is None:
        return "–"
    interval = f"{known_as['low']:.0%} to {known_as['high']:.0%}"
    return f"{known_as['value']:.0%} ({interval}, n = {known_as['n']})"


def _cut(label: str) -> str:
    return label if len(label) <= WIDTH else f"{label[: WIDTH - 1]}…"
