"""``prelabel status``: show the connected projects, their accuracy, and how to improve it."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.card_records import ControlCard
from backend.cli import projects as known
from backend.cli.arguments import DEFAULT_BACKEND_URL, add_project_argument, add_served_option
from backend.cli.command import Command
from backend.cli.terminal import format_table, print_line
from backend.cli.versions import format_audit, format_estimate
from backend.estimate import (
    TOO_EARLY_TEXT,
    UNKNOWN_TEXT,
    IntervalEstimate,
    format_audit_progress,
    format_interval,
    format_percent,
)
from backend.json_records import JsonObject, from_json, to_json
from backend.records import PredictionProgress, ProjectStatus, RoundStatus
from backend.store.acceptance import AcceptanceStore
from backend.store.damaged_files import find_problems
from backend.store.projects import ProjectRecord, ProjectStore, read_outcome
from backend.store.queue_front import QueueFront
from backend.store.round_state import read_round_state
from backend.store.served_address import read_served_address
from backend.store.versions import VersionCard, VersionStore

if TYPE_CHECKING:
    from backend.settings import Settings

LISTED_TASKS = 10
"""Number of tasks without a choice that are listed."""


@dataclass(frozen=True)
class ProjectActivity:
    """What the backend is doing for a project.

    Attributes:
        round: state of the current round.
        predicting: *Retrieve Predictions* in progress; None otherwise.
    """

    round: RoundStatus
    predicting: PredictionProgress | None = None


@dataclass(frozen=True)
class ProjectReport:
    """The status of a project, read from the home folder and from the backend.

    Attributes:
        status: status with the current figures of the live version.
        activity: what the backend is doing; None if no process of this home folder runs a round
            and no backend is reachable.
        card: card of the live version; None before the first version.
        captures: reason → number of captured images.
        imported: number of captured images that are tasks now.
        suspects: number of probable label errors.
        problems: a sentence for each thing that a damaged file affects.
    """

    status: ProjectStatus
    activity: ProjectActivity | None
    card: VersionCard | None
    captures: Counter[str]
    imported: int
    suspects: int
    problems: list[str]

    @property
    def figure(self) -> str:
        """The accuracy or F1 of the live version, as text."""
        return format_audit(self.card) if self.card else UNKNOWN_TEXT

    @property
    def notes(self) -> list[str]:
        """Sentences about the figures and how to improve them."""
        from backend.dashboard.wording import describe_labels_left

        status = self.status
        notes = list(self.problems)
        if status.held:
            notes.append(f"{status.held.version} is not live. {status.held.reason}")
        if status.settings_reset:
            notes.append(status.settings_reset.sentence)
        if status.version and not status.audit.is_conclusive:
            progress = format_audit_progress(status.audit, status.audit_labels)
            labels_left = describe_labels_left(status.audit, status.audit_labels)
            notes.append(f"Audit set: {progress}.{labels_left}")
        if status.estimate and status.estimate.is_conclusive and not status.audit.is_conclusive:
            notes.append(f"{status.estimate.metric}: {format_estimate(status.estimate)}")
        if status.outlook:
            if status.outlook.sentence:
                notes.append(status.outlook.sentence)
            needs = [f"{need.count_text} more of {need.label}" for need in status.outlook.labels]
            if needs:
                notes.append(f"Most helpful labels: {', '.join(needs)}.")
            if status.outlook.stop:
                notes.append("More labels are not expected to improve the accuracy noticeably.")
        if status.accepting:
            notes.append(f"{status.accepted} accepted without a person. {status.accepting.reason}")
        return notes

    def to_json(self) -> JsonObject:
        """Return the report as ``--json`` prints it."""
        shared = to_json(self.status)
        return {
            **{key: shared[key] for key in ("id", "title", "server", "version")},
            "created": self.card.created if self.card else None,
            **{key: shared[key] for key in ("tasks", "labels", "waiting", "accepted")},
            "audit": shared["audit"] if self.card else None,
            "figure": self.figure,
            **{key: shared[key] for key in ("estimate", "outlook", "accepting", "held")},
            "controls": {name: _control_json(control) for name, control in self.controls.items()},
            "captured": {
                "images": self.captures.total(),
                "tasks": self.imported,
                "why": dict(self.captures),
            },
            "versions": shared["versions"],
            "notes": self.notes,
            "left_out": shared["left_out"],
            "unanswered": list(self.status.unanswered),
            "removed_labels": [to_json(removed) for removed in self.status.removed_labels],
            "new_in_round": self.status.new_in_round,
            "leaves_at": self.status.removed_at,
            "suspects": self.suspects,
            "problems": self.problems,
            **(to_json(self.activity) if self.activity else {"round": None, "predicting": None}),
        }

    @property
    def controls(self) -> dict[str, ControlCard]:
        """Control → its record in the live version."""
        return dict(self.card.controls) if self.card else {}


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_project_argument(parser, "to show all connected ones")
    add_served_option(parser)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """Print a paragraph per project."""
    from backend.onboarding.backend_connection import validate_backend_url
    from backend.settings import read_settings

    settings = read_settings()
    projects = ProjectStore(settings.home, settings.endpoint_data_dir)
    records = projects.listed()
    if options.project:
        records = [known.find_project(settings, options.project)]
    requested = validate_backend_url(options.backend, settings) if options.backend else ""
    backend = requested or read_served_address(settings.home) or DEFAULT_BACKEND_URL
    served = _served_projects(settings, backend)
    reports = [_read_report(settings, projects, record, served) for record in records]
    for report in reports:
        for line in _format_report(report, options):
            print_line(line, options)
    for sentence in projects.damaged_messages():
        print_line(sentence, options)
    if not reports:
        print_line("No project is connected yet: `prelabel connect PROJECT`.", options)
    return {"projects": [report.to_json() for report in reports]}


def _read_report(
    settings: Settings,
    projects: ProjectStore,
    record: ProjectRecord,
    served: dict[str, ProjectStatus],
) -> ProjectReport:
    """Read a project's status from the home folder, and what is newer from the backend."""
    folder = projects.folder(record.id)
    card = VersionStore(folder).live_card()
    status = record.status(read_outcome(folder))
    if card:
        accepting = AcceptanceStore(folder).read().describe(card.accepting)
        status = replace(card.update_status(status), accepting=accepting)
    else:
        status = replace(status, version=None, estimate=None, outlook=None, accepting=None)
    backend_status = served.get(record.id)
    if backend_status:  # it counts labels before a round has read them
        names = ("labels", "waiting", "new_in_round", "audit_labels")
        status = replace(status, **{name: getattr(backend_status, name) for name in names})
    captures = projects.captures(record.id)
    all_captures = list(captures.all())
    return ProjectReport(
        status=replace(status, server=status.server or settings.label_studio_url),
        activity=_read_activity(backend_status, folder),
        card=card,
        captures=Counter(capture.why for capture in all_captures),
        imported=sum(bool(captures.task_status(capture)[0]) for capture in all_captures),
        suspects=len(QueueFront(folder).label_errors().suspects),
        problems=find_problems(folder),
    )


def _read_activity(status: ProjectStatus | None, folder: Path) -> ProjectActivity | None:
    """Return what the backend or another process of the home folder does in a project."""
    if status:
        return ProjectActivity(status.round, status.predicting)
    round_status = read_round_state(folder)
    return ProjectActivity(round_status) if round_status else None


def _served_projects(settings: Settings, backend: str) -> dict[str, ProjectStatus]:
    """Return project id → its status; {} if no backend of this home folder is running there."""
    from backend.onboarding.first_round import fetch_states

    rows = fetch_states(settings, backend)
    return {str(row["id"]): from_json(ProjectStatus, row) for row in rows}


def _control_json(control: ControlCard) -> JsonObject:
    labels = {}
    for label, count in control.examples.items():
        figures = control.label_figures(label)
        labels[label] = {"examples": count, **to_json(figures)}
    audit = control.audit.to_json() if control.audit else None
    return {
        "kind": control.kind,
        "audit": audit,
        "advice": control.advice,
        "note": control.note,
        "labels": labels,
    }


# -- text output ----------------------------------------------------------------------------


def _format_report(report: ProjectReport, options: argparse.Namespace) -> Iterator[str]:
    from backend.dashboard.wording import explain_removed_label

    status = report.status
    yield f"{status.id}  {status.title}  ({status.server})"
    waiting_text = f", {status.waiting} of them new since the last version"
    round_text = f", {status.new_in_round} since this round began"
    yield (
        f"    {status.labels} of {status.tasks} tasks labeled{waiting_text * bool(status.waiting)}"
        f"{round_text * bool(status.new_in_round)}"
    )
    if status.version and report.card and not report.card.has_model:
        yield f"    live: {status.version}, which cannot predict your labels yet"
    elif status.version:
        yield f"    live: {status.version}, on the audit set {report.figure}"
    else:
        yield "    live: none yet; `prelabel serve` creates the first version"
    if status.removed_at:
        yield (
            "    was deleted in Label Studio and will be removed from this list on "
            f"{format_utc(status.removed_at)}. "
            f"`prelabel forget {status.id}` removes it with its versions"
        )
    elif report.activity:
        yield from _format_activity(report.activity)
    for note in report.notes:
        yield f"    {note}"
    for name, control in report.controls.items():
        yield from _format_control(name, control, options)
    if report.captures:
        reasons = ", ".join(f"{count} {reason}" for reason, count in report.captures.items())
        images = report.captures.total()
        yield (
            f"    captured by the endpoint: {images} image{'' if images == 1 else 's'} "
            f"({reasons}), {report.imported} of them imported as tasks"
        )
    if report.suspects:
        yield f"    labels to check: {report.suspects} (`prelabel label-errors {status.id}`)"
    for removed in status.removed_labels:
        yield (
            f"    {explain_removed_label(removed, len(report.controls) > 1)} Choose a new label on "
            f"the dashboard, or with `prelabel rename {status.id} {removed.label} NEW`"
        )
    for reason, count in status.left_out.items():
        yield f"    left out: {count} × {reason}"
    if status.unanswered:
        tasks = ", ".join(map(str, status.unanswered[:LISTED_TASKS]))
        more = " …" * (len(status.unanswered) > LISTED_TASKS)
        yield f"    choose a label in Label Studio and press Update: task {tasks}{more}"


def _format_activity(activity: ProjectActivity) -> Iterator[str]:
    """Describe a round that is in progress, failed, or trained nothing, and predictions."""
    from backend.dashboard.wording import PREDICTING_TEXT, ROUND_STATE_TEXTS, round_text

    status = activity.round
    if status.cancelling or status.waiting:
        yield f"    now: {round_text(status)}"
    elif status.error:
        yield f"    the last round failed: {status.error}"
    elif status.state != "idle":
        state = ROUND_STATE_TEXTS.get(status.state, status.state)
        detail = f"  {status.detail}" if status.detail else ""
        yield f"    now: {state} {status.progress:.0%}{detail}"
    elif status.detail:
        yield f"    {status.detail}"
    if activity.predicting:
        yield f"    now: {PREDICTING_TEXT}: {activity.predicting.count_text}"


def _format_control(name: str, control: ControlCard, options: argparse.Namespace) -> Iterator[str]:
    yield f"    {name} ({control.kind})"
    for sentence in filter(None, (control.note, control.advice)):
        yield f"      {sentence}"
    rows = []
    for label, count in control.examples.items():
        figures = control.label_figures(label)
        cells = (_format_cell(figures.precision), _format_cell(figures.recall))
        rows.append((label, str(count), *cells))
    if rows:
        headers = ("label", "examples", "precision", "recall")
        yield from format_table(headers, rows, options, right={1}, indent=6)


def _format_cell(estimate: IntervalEstimate | None) -> str:
    """Format an estimate with its interval for a table cell."""
    if estimate is None or estimate.value is None:
        return "–"
    if not estimate.is_conclusive:
        return f"{TOO_EARLY_TEXT} (n = {estimate.n})"
    return f"{format_percent(estimate.value)} ({format_interval(estimate)}, n = {estimate.n})"


def format_utc(time: str) -> str:
    """Format a time in ISO 8601 as date and time of day in UTC.

    Example:
        >>> format_utc("2026-11-30T08:15:42+00:00")
        '2026-11-30 08:15 UTC'
    """
    return f"{time[:16].replace('T', ' ')} UTC"


COMMAND = Command(
    "status",
    "show each project's labels, live version, accuracy, and how to improve it",
    "prelabel status 3",
    _add_options,
    _run,
)
