"""``prelabel status``: what is connected, how good it is, and what would help."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from backend.cli import projects as known
from backend.cli.arguments import add_backend_option, add_project_argument
from backend.cli.command import Command
from backend.cli.versions import format_audit, format_metric
from backend.store.acceptance import AcceptanceStore
from backend.store.captures import CaptureStore
from backend.store.files import read_json
from backend.store.projects import ProjectRecord, ProjectStore
from backend.store.queue_front import LABEL_ERRORS_FILE
from backend.store.versions import VersionCard, VersionStore

if TYPE_CHECKING:
    from backend.settings import Settings

LABEL_COLUMN_WIDTH = 24
"""Letters of a label in the table."""
StatusData = Mapping[str, Any]


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_project_argument(parser)
    add_backend_option(parser)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """Print a paragraph per project."""
    from backend.cli.terminal import print_line
    from backend.settings import read_settings

    settings = read_settings()
    projects = ProjectStore(settings.home, settings.endpoint_data_dir)
    records = projects.all()
    if options.project:
        records = [known.find_project(settings, options.project)]
    rounds = _current_rounds(settings, options.backend)
    statuses = [
        {**_project_status(settings, projects, record), "round": rounds.get(record.id)}
        for record in records
    ]
    for status in statuses:
        for line in _format_project(status):
            print_line(line, options)
    for sentence in projects.damaged_messages():
        print_line(sentence, options)
    if not statuses:
        print_line("No project is connected yet: `prelabel connect PROJECT`.", options)
    return {"projects": statuses}


def _project_status(
    settings: Settings, projects: ProjectStore, record: ProjectRecord
) -> dict[str, Any]:
    """The figures that ``/api/projects`` has, from the home folder."""
    folder = projects.folder(record.id)
    summary = read_json(folder / "summary.json") or {}
    card = VersionStore(folder).live_card()
    accepting = AcceptanceStore(folder).read().describe(card.accepting) if card else {}
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
        "figure": format_audit(card) if card else "not known yet",
        "estimate": card.estimate if card else {},
        "outlook": card.outlook if card else {},
        "accepting": accepting,
        "held": summary.get("held") or {},
        "controls": _control_status(card),
        "captured": _count_captures(projects.captures(record.id)),
        "versions": summary.get("versions", []),
        "notes": _build_notes(summary, card, accepting),
        "left_out": summary.get("left_out", {}),
        "suspects": len((read_json(folder / LABEL_ERRORS_FILE) or {}).get("suspects", [])),
    }


def _current_rounds(settings: Settings, backend: str) -> dict[str, StatusData]:
    """What the rounds do now, by project, where the backend of this home folder answers."""
    from backend.onboarding.backend_connection import validate_backend_url
    from backend.onboarding.first_round import fetch_states

    return {
        str(row["id"]): row["round"]
        for row in fetch_states(settings, validate_backend_url(backend, settings))
    }


def _control_status(card: VersionCard | None) -> dict[str, Any]:
    """By control what answers it, and by label what is known."""
    return {
        name: {
            "kind": control["kind"],
            "audit": control.get("audit"),
            "advice": control.get("advice", ""),
            "labels": _label_status(control),
        }
        for name, control in (card.controls if card else {}).items()
    }


def _label_status(control: StatusData) -> dict[str, Any]:
    label_metrics = (control.get("figures") or {}).get("labels") or {}
    rows = {}
    for label, examples in (control.get("examples") or {}).items():
        metrics = label_metrics.get(label) or {}
        metrics = metrics.get("intervals") or metrics
        rows[label] = {"examples": examples, **{k: metrics.get(k) for k in ("precision", "recall")}}
    return rows


def _count_captures(captures: CaptureStore) -> dict[str, Any]:
    """What applications sent that is worth labeling."""
    all_captures = list(captures.all())
    return {
        "images": len(all_captures),
        "tasks": sum(bool(captures.task_status(capture)[0]) for capture in all_captures),
        "why": dict(Counter(capture.why for capture in all_captures)),
    }


def _build_notes(summary: StatusData, card: VersionCard | None, accepting: StatusData) -> list[str]:
    """What people should know beside the figures."""
    rejected, outlook = summary.get("held") or {}, card.outlook if card else {}
    estimate = card.estimate if card else {}
    accepted_count = summary.get("accepted", 0)
    needed_labels = [
        f"{row.get('words') or 'about {more}'.format(**row)} more of {row['label']}"
        for row in outlook.get("labels", [])
    ]
    return [
        *([f"{rejected['version']} is not live. {rejected['reason']}"] if rejected else []),
        *([f"{estimate['metric']}: {format_metric(estimate)}"] if estimate else []),
        *([outlook["sentence"]] if outlook.get("sentence") else []),
        *([f"Would help most: {', '.join(needed_labels)}."] if needed_labels else []),
        *(["The next hundred labels are not expected to pay."] if outlook.get("stop") else []),
        *(
            [f"{accepted_count} accepted without a person. {accepting['reason']}"]
            if accepting
            else []
        ),
    ]


# -- for people -----------------------------------------------------------------------------


def _format_project(project: StatusData) -> Iterator[str]:
    yield f"{project['id']}  {project['title']}  ({project['server']})"
    waiting_count = project["waiting"]
    waiting_text = f", {waiting_count} of them new since the last version" if waiting_count else ""
    yield f"    {project['labels']} of {project['tasks']} tasks labeled{waiting_text}"
    if project["version"]:
        yield f"    live: {project['version']}, on the audit slice {project['figure']}"
    else:
        yield "    live: nothing yet; `prelabel serve` makes the first version"
    yield from _format_round(project["round"])
    for line in project["notes"]:
        yield f"    {line}"
    for name, control in project["controls"].items():
        yield from _format_control(name, control)
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


def _format_round(round_state: StatusData | None) -> Iterator[str]:
    """What the round does, where that is known and something is under way."""
    from backend.dashboard.wording import ROUND_STATE_TEXTS

    if round_state and round_state["error"]:
        yield f"    the last round failed: {round_state['error']}"
    elif round_state and round_state["state"] != "idle":
        detail = f"  {round_state['detail']}" if round_state["detail"] else ""
        yield f"    now: {ROUND_STATE_TEXTS.get(round_state['state'], round_state['state'])} {round_state['progress']:.0%}{detail}"


def _format_control(name: str, control: StatusData) -> Iterator[str]:
    yield f"    {name} ({control['kind']})"
    if control["advice"]:
        yield f"      {control['advice']}"
    if control["labels"]:
        header = f"      {'label':<{LABEL_COLUMN_WIDTH}} {'examples':>8}  "
        yield f"{header}{'right when given':<24}  found of all"
    for label, row in control["labels"].items():
        cells = f"      {_truncate(label):<{LABEL_COLUMN_WIDTH}} {row['examples']:>8}  "
        yield f"{cells}{_format_metric(row['precision']):<24}  {_format_metric(row['recall'])}"


def _format_metric(metric: StatusData | None) -> str:
    """A figure with its interval, short enough for a table."""
    if not metric or metric.get("value") is None:
        return "–"
    interval = f"{metric['low']:.0%} to {metric['high']:.0%}"
    return f"{metric['value']:.0%} ({interval}, n = {metric['n']})"


def _truncate(label: str) -> str:
    return label if len(label) <= LABEL_COLUMN_WIDTH else f"{label[: LABEL_COLUMN_WIDTH - 1]}…"


COMMAND = Command(
    "status",
    "show each project's labels, live version, accuracy and what would help most",
    "prelabel status 3",
    _add_options,
    _run,
)
