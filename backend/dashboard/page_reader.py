"""Collect the values of a page from the status of a project and its files."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backend.card_records import NO_MODEL_KIND, ControlCard, Outlook
from backend.dashboard import wording
from backend.dashboard.audit_reader import AuditReader
from backend.dashboard.audit_values import AuditPage, AuditPairs, ComparisonPage, ExampleRow
from backend.dashboard.values import (
    CaptureRow,
    ConfusionMatrix,
    ControlView,
    LabelErrorRow,
    LabelRow,
    ProjectPage,
    ProjectSummary,
    PromotionQuestion,
    QueueRow,
    RemovedLabelRow,
    VersionRow,
)
from backend.errors import NotFoundError, StoreError
from backend.estimate import IntervalEstimate
from backend.records import ControlStatus, ProjectStatus
from backend.store.captures import Capture, CaptureStore
from backend.store.damaged_files import find_problems
from backend.store.files import read_json
from backend.store.label_answers import read_label_answers
from backend.store.label_changes import LabelChanges
from backend.store.label_examples import LabelExamples, load_label_examples
from backend.store.label_tab import read_labeling_path
from backend.store.project_titles import title_notes
from backend.store.projects import ProjectStore
from backend.store.queue_front import QueueFront, StoredLabelError
from backend.store.smart_tool_answer import load_answer
from backend.store.versions import VersionCard, VersionStore

LABEL_ERRORS_SHOWN = 12
CAPTURES_SHOWN = 6
EVENTS_SHOWN = 10
MAX_MATRIX_CLASSES = 20
"""Maximum number of classes of a displayed confusion matrix."""
CONFUSED_PAIRS_SHOWN = 8


class JsonFileCache:
    """Reads JSON files and caches them until they change."""

    def __init__(self) -> None:
        self._cache: dict[Path, tuple[tuple[int, int, int], Any]] = {}
        self._lock = threading.Lock()

    def read(self, path: Path) -> Any:
        """Return the JSON of a file; None if there is no file. Callers must not modify it.

        Raises:
            StoreError: the file cannot be read or is not JSON.
        """
        try:
            stat = path.stat()
        except OSError:
            return None
        signature = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        cached = self._cache.get(path)
        if cached is None or cached[0] != signature:
            cached = (signature, read_json(path))
            with self._lock:
                self._cache[path] = cached
        return cached[1]


class DashboardReader:
    """Collects the values of pages.

    Args:
        home: home folder.
        server: default address of Label Studio, for projects without one.
        endpoint_home: folder that the endpoint writes to, if it is not the home folder.
    """

    def __init__(self, home: Path, server: str, endpoint_home: Path | None = None) -> None:
        self._projects = ProjectStore(home, endpoint_home)
        self._server = server
        self._files = JsonFileCache()
        self._version_stores: dict[str, VersionStore] = {}

    def summaries(self, projects: Sequence[ProjectStatus]) -> list[ProjectSummary]:
        """Return all projects for the overview."""
        notes = title_notes(projects)
        return [self.summary(status, notes.get(status.id, "")) for status in projects]

    def summary(self, status: ProjectStatus, title_note: str = "") -> ProjectSummary:
        """Return a project for the overview; a damaged card is reported only on its own page.

        Args:
            status: status of the project.
            title_note: tells it apart from other projects with its title.
        """
        card = None
        if status.version:
            with contextlib.suppress(StoreError, NotFoundError):
                card = self._version_store(str(status.id)).card(status.version)
        return replace(self._summary(status, card), title_note=title_note)

    def left_out_projects(self) -> list[str]:
        """Return a sentence for each project whose record is damaged."""
        return self._projects.damaged_messages()

    def page(
        self,
        status: ProjectStatus,
        title_note: str = "",
        recently_labeled: Set[int] = frozenset(),
    ) -> ProjectPage:
        """Return the values of a project's page.

        Args:
            status: status of the project.
            title_note: tells it apart from other projects with its title.
            recently_labeled: tasks that were labeled after the queue was ordered.

        Raises:
            StoreError: one of the project's files is damaged.
        """
        id = str(status.id)
        folder, versions = self._projects.folder(id), self._version_store(id)
        events = versions.history()
        rows = _version_rows(versions.cards(), status.version or "", versions.versions_ever_live())
        card = next((row.card for row in rows if row.live), None)
        summary = replace(self._summary(status, card), title_note=title_note)
        queue_front = QueueFront(folder, self._files.read)
        label_check = queue_front.label_errors()
        suspects = label_check.suspects
        captures = self._projects.captures(id)
        audit = self._audit(summary)
        audit_tasks = audit.predictions(status.version or "").tasks.keys()
        examples = load_label_examples(folder, self._files.read)
        waiting, returned = captures.counts()
        return ProjectPage(
            summary=summary,
            wrong=audit.wrong_images(),
            comparable=audit.comparable_versions(),
            problems=find_problems(folder, versions),
            outlook=(card.displayed_outlook if card else None) or Outlook(),
            controls=[
                _control_view(control, card, _example_rows(audit, examples, control))
                for control in status.controls
            ],
            queue=_next_task_rows(summary, queue_front, recently_labeled),
            suspects=[
                _label_error_row(summary, queue_front, audit_tasks, row)
                for row in suspects[:LABEL_ERRORS_SHOWN]
            ],
            suspects_found=len(suspects),
            unchecked=label_check.unchecked,
            is_label_checked=bool(label_check.version),
            changed_labels=[
                _label_error_row(summary, queue_front, audit_tasks, change.error)
                for change in reversed(LabelChanges(folder, self._files.read).all())
            ],
            captures=[
                _capture_row(summary, queue_front, captures, capture)
                for capture in captures.latest(CAPTURES_SHOWN)
            ],
            captures_waiting=waiting,
            captures_returned=returned,
            versions=rows,
            history=events[: -EVENTS_SHOWN - 1 : -1],
            roll_back_to=_rollback_target(versions),
            held=rows[0] if rows and rows[0].card.is_held and not rows[0].was_live else None,
            left_out=status.left_out,
            removed_labels=self._removed_label_rows(status),
            smart_tool=load_answer(folder, self._files.read),
        )

    def promotion_question(self, status: ProjectStatus, version: str) -> PromotionQuestion:
        """Return what a person confirms before a version goes live.

        Raises:
            NotFoundError: there is no such version.
        """
        versions = self._version_store(str(status.id))
        card, live = versions.card(version), None
        with contextlib.suppress(StoreError, NotFoundError):
            live = versions.card(status.version) if status.version else None
        is_rollback = card.version == _rollback_target(versions)
        return PromotionQuestion(self.summary(status), card, live, is_rollback)

    def _removed_label_rows(self, status: ProjectStatus) -> list[RemovedLabelRow]:
        """Return the removed labels, without those whose annotations are left out by decision."""
        answers = read_label_answers(self._projects.folder(str(status.id)), self._files.read)
        labels = {control.name: control.labels for control in status.controls}
        rows = []
        for removed in status.removed_labels:
            matches = [a for a in answers if a.is_about(removed.control, removed.label)]
            if all(answer.new for answer in matches):
                new = matches[0].new if matches else ""
                rows.append(RemovedLabelRow(removed, labels.get(removed.control, ()), new))
        return rows

    def audit_page(self, summary: ProjectSummary, selection: AuditPairs) -> AuditPage:
        """Return the selected audit images of a project's live version."""
        return self._audit(summary).page(selection)

    def comparison(self, summary: ProjectSummary, first: str, second: str) -> ComparisonPage:
        """Return two versions of a project on the same audit images."""
        return self._audit(summary).compare(first, second)

    def thumbnail_path(self, id: str, name: str) -> Path:
        """Return the path of a thumbnail, which may not exist. Callers must validate both names."""
        return QueueFront(self._projects.folder(id)).thumbnail_path(name)

    def _audit(self, summary: ProjectSummary) -> AuditReader:
        id = str(summary.status.id)
        front = QueueFront(self._projects.folder(id), self._files.read)
        return AuditReader(summary, self._version_store(id), front, self._files.read)

    def _version_store(self, id: str) -> VersionStore:
        folder = self._projects.folder(id)
        return self._version_stores.setdefault(id, VersionStore(folder, self._files.read))

    def _summary(self, status: ProjectStatus, card: VersionCard | None) -> ProjectSummary:
        link = _project_url(status.server or self._server, status.number)
        path = ""
        with contextlib.suppress(StoreError):  # written again by the next round
            path = read_labeling_path(self._projects.folder(str(status.id)), self._files.read)
        return (
            ProjectSummary(card.update_status(status), link, path, card.has_hard_labels)
            if card
            else ProjectSummary(status, link, path)
        )


def _project_url(server: str, number: int) -> str:
    """Return a project's URL; empty if the server's address is not a web address."""
    is_web_address = server.lower().startswith(("http://", "https://"))
    return f"{server.rstrip('/')}/projects/{number}" if is_web_address else ""


def _version_rows(cards: Sequence[VersionCard], live: str, past_live: set[str]) -> list[VersionRow]:
    """Return the rows of the versions table, newest first."""
    return [
        VersionRow(card, card.version == live, card.version in past_live | {live})
        for card in reversed(cards)
    ]


def _rollback_target(versions: VersionStore) -> str:
    try:
        return versions.rollback_target()
    except StoreError:
        return ""


def _example_rows(
    audit: AuditReader, examples: LabelExamples, control: ControlStatus
) -> dict[str, list[ExampleRow]]:
    """Return the labeled images of each label that has some."""
    rows = {label: audit.example_rows(examples, control.name, label) for label in control.labels}
    return {label: label_rows for label, label_rows in rows.items() if label_rows}


def _control_view(
    control: ControlStatus, card: VersionCard | None, examples: Mapping[str, Sequence[ExampleRow]]
) -> ControlView:
    """Combine a control of the current labeling config with its record in the live version."""
    recorded = card.control(control.name) if card else ControlCard()
    return ControlView(
        name=control.name,
        type=control.type,
        kind=recorded.kind,
        labels=[
            _label_row(name, recorded, control.examples.get(name, 0)) for name in control.labels
        ],
        confusion=_confusion_matrix(recorded.confusion, control.labels),
        counting=recorded.counting,
        advice=recorded.advice,
        note=recorded.note,
        examples=examples,
        smart=bool(control.smart),
        shown=recorded.shown if recorded.kind != NO_MODEL_KIND else None,
    )


def _label_row(name: str, recorded: ControlCard, examples: int) -> LabelRow:
    figures = recorded.label_figures(name)
    return LabelRow(
        name=name,
        precision=figures.precision or IntervalEstimate(),
        recall=figures.recall or IntervalEstimate(),
        examples=examples,
    )


def _confusion_matrix(
    table: Mapping[str, Mapping[str, int]], labels: Sequence[str]
) -> ConfusionMatrix | None:
    if not table:
        return None
    answer_names = {*table, *(answer for row in table.values() for answer in row)}
    names = [*labels, *sorted(answer_names - set(labels))]
    confused_pairs = [(t, a, n) for t, row in table.items() for a, n in row.items() if t != a]
    confused_pairs.sort(key=lambda pair: -pair[2])
    matrix_names = names if len(names) <= MAX_MATRIX_CLASSES else []
    return ConfusionMatrix(
        names=matrix_names,
        rows=[
            [table.get(truth, {}).get(answer, 0) for answer in matrix_names]
            for truth in matrix_names
        ],
        confused_pairs=confused_pairs[:CONFUSED_PAIRS_SHOWN],
    )


def _next_task_rows(
    summary: ProjectSummary, front: QueueFront, labeled: Set[int]
) -> list[QueueRow]:
    return [
        QueueRow(
            task=queued_task.task,
            why=wording.describe_reason(queued_task),
            kind=wording.reason_key(queued_task),
            link=summary.task_link(queued_task.task),
            picture=front.thumbnail_path(str(queued_task.task)).exists(),
        )
        for queued_task in front.tasks()
        if queued_task.task not in labeled
    ]


def _label_error_row(
    summary: ProjectSummary, front: QueueFront, audit_tasks: Set[int], row: StoredLabelError
) -> LabelErrorRow:
    types = {control.name: control.type for control in summary.status.controls}
    return LabelErrorRow(
        task=row.task,
        given=row.given,
        suggested=row.suggested,
        why=row.why,
        link=summary.task_link(row.task),
        picture=front.thumbnail_path(str(row.task)).exists(),
        control=row.control,
        can_change=types.get(row.control) == "Choices",
        is_audit=row.task in audit_tasks,
    )


def _capture_row(
    summary: ProjectSummary, front: QueueFront, captures: CaptureStore, capture: Capture
) -> CaptureRow:
    task, _ = captures.task_status(capture)
    at = datetime.fromtimestamp(capture.at, UTC)
    return CaptureRow(
        id=capture.id,
        why=wording.CAPTURE_REASON_TEXTS.get(capture.why, capture.why),
        at=at.isoformat(timespec="seconds"),
        version=capture.version,
        answered=capture.annotation is not None,
        task=task,
        link=summary.task_link(task) if task else "",
        picture=front.thumbnail_path(f"capture-{capture.id}").exists(),
    )
