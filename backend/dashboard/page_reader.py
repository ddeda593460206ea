"""A project as its page shows it, from the service's memory and the home folder's small files."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backend.dashboard import wording
from backend.dashboard.values import (
    CaptureRow,
    ConfusionMatrix,
    ControlView,
    LabelErrorRow,
    LabelForecast,
    LabelRow,
    MetricView,
    ProjectPage,
    ProjectSummary,
    PromotionEvent,
    QueueRow,
    RoundStatus,
    VersionRow,
)
from backend.errors import StoreError
from backend.store.captures import Capture, CaptureStore
from backend.store.files import read_json
from backend.store.projects import ProjectStore
from backend.store.queue_front import LABEL_ERRORS_FILE, QueueFront
from backend.store.versions import VersionCard, VersionStore

ProjectStatus = Mapping[str, Any]
"""A project as ``/api/projects/{id}`` shows it."""
LABEL_ERRORS_SHOWN = 12
CAPTURES_SHOWN = 6
EVENTS_SHOWN = 10
MAX_MATRIX_CLASSES = 20
"""Classes up to which a confusion matrix is drawn; of more, the mix-ups are listed."""
CONFUSED_PAIRS_SHOWN = 8


class JsonFileCache:
    """Reads JSON files, and parses each only once as long as it stays the same."""

    def __init__(self) -> None:
        self._cache: dict[Path, tuple[tuple[int, int, int], Any]] = {}
        self._lock = threading.Lock()

    def read(self, path: Path) -> Any:
        """The value in a file, not to be changed; None where there is no such file.

        Raises:
            StoreError: the file is there and cannot be read or is no JSON.
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
    """Reads projects.

    Args:
        home: the one folder for everything that lasts.
        server: Label Studio's address, for projects that came without one.
        endpoint_home: the home folder that the endpoint writes to, where that is another one.
    """

    def __init__(self, home: Path, server: str, endpoint_home: Path | None = None) -> None:
        self._projects = ProjectStore(home, endpoint_home)
        self._server = server
        self._files = JsonFileCache()

    def summary(self, status: ProjectStatus) -> ProjectSummary:
        """A project as the overview shows it; a damaged card is told on its own page."""
        file = self._version_store(str(status["id"])).path(str(status["version"])) / "card.json"
        card = None
        with contextlib.suppress(StoreError):
            card = self._files.read(file)
        return self._summary(status, VersionCard(**card) if card else None)

    def page(self, status: ProjectStatus) -> ProjectPage:
        """A project as its own page shows it.

        Raises:
            StoreError: a file of it is damaged.
        """
        folder = self._projects.folder(str(status["id"]))
        versions = self._version_store(str(status["id"]))
        live_version = str(status["version"] or "")
        events = list(versions.history())
        rows = _version_rows(versions.cards(), live_version, versions.ever_live())
        card = next((row.card for row in rows if row.live), None)
        summary = self._summary(status, card)
        queue_front = QueueFront(folder, self._files.read)
        suspects = (self._files.read(folder / LABEL_ERRORS_FILE) or {}).get("suspects", [])
        captures = self._projects.captures(str(status["id"]))
        waiting, returned = captures.counts()
        return ProjectPage(
            summary=summary,
            outlook=_read_outlook(card.outlook if card else {}),
            controls=[_control_view(row, card) for row in status["controls"]],
            queue=_queue_rows(summary, queue_front),
            suspects=[
                _label_error_row(summary, queue_front, row) for row in suspects[:LABEL_ERRORS_SHOWN]
            ],
            suspects_found=len(suspects),
            captures=[
                _capture_row(summary, queue_front, captures, capture)
                for capture in captures.latest(CAPTURES_SHOWN)
            ],
            captures_waiting=waiting,
            captures_returned=returned,
            versions=rows,
            history=[_read_event(event) for event in events[: -EVENTS_SHOWN - 1 : -1]],
            roll_back_to=_rollback_target(versions),
            held=rows[0] if rows and rows[0].held and not rows[0].was_live else None,
            left_out=status["left_out"],
        )

    def thumbnail_path(self, id: str, name: str) -> Path:
        """Where a small picture of a project is, or would be; both names are checked already."""
        return QueueFront(self._projects.folder(id)).thumbnail_path(name)

    def _version_store(self, id: str) -> VersionStore:
        return VersionStore(self._projects.folder(id), self._files.read)

    def _summary(self, status: ProjectStatus, card: VersionCard | None) -> ProjectSummary:
        round_status = status["round"]
        return ProjectSummary(
            id=str(status["id"]),
            title=str(status["title"] or f"Project {status['number']}"),
            link=_project_url(str(status["server"] or self._server), int(status["number"])),
            version=str(status["version"] or ""),
            figure=MetricView.from_card(card.audit if card else status["audit"]),
            estimate=MetricView.from_card(card.estimate if card else status["estimate"]),
            round=RoundStatus(
                state=str(round_status["state"]),
                progress=float(round_status["progress"]),
                detail=str(round_status["detail"] or ""),
                error=str(round_status["error"] or ""),
            ),
            tasks=int(status["tasks"]),
            labels=int(status["labels"]),
            waiting=int(status["waiting"]),
            accepted=int(status["accepted"]),
            accepting=str((status.get("accepting") or {}).get("reason", "")),
            held=status["held"],
            types=[str(row["type"]) for row in status["controls"]],
        )


def _project_url(server: str, number: int) -> str:
    """A project's address; none where /setup brought something else than a web address."""
    is_web_address = server.lower().startswith(("http://", "https://"))
    return f"{server.rstrip('/')}/projects/{number}" if is_web_address else ""


def _version_rows(cards: Sequence[VersionCard], live: str, past_live: set[str]) -> list[VersionRow]:
    """Newest first."""
    return [
        VersionRow(
            card=card,
            live=card.version == live,
            was_live=card.version in past_live or card.version == live,
            figure=MetricView.from_card(card.audit),
            estimate=MetricView.from_card(card.estimate),
            reason=str(card.promotion.get("reason", "")),
        )
        for card in reversed(cards)
    ]


def _rollback_target(versions: VersionStore) -> str:
    try:
        return versions.rollback_target()
    except StoreError:
        return ""


def _read_outlook(card_outlook: Mapping[str, Any]) -> LabelForecast:
    if not card_outlook:
        return LabelForecast()
    return LabelForecast(
        sentence=str(card_outlook["sentence"]),
        needy=[
            (r["label"], r.get("words") or f"about {r['more']}") for r in card_outlook["labels"]
        ],
        stop=bool(card_outlook["stop"]),
        curve=[
            (r["labels"], r["value"], r["low"], r["high"]) for r in card_outlook.get("curve", [])
        ],
        audited=card_outlook.get("from") != "cross-validation",
    )


def _control_view(control_status: Mapping[str, Any], card: VersionCard | None) -> ControlView:
    """A control of today's labeling config, with what the live version's card tells of it."""
    card_control = card.controls.get(control_status["name"], {}) if card else {}
    figures, examples = card_control.get("figures") or {}, card_control.get("examples") or {}
    rows = figures.get("labels") or {}
    return ControlView(
        name=str(control_status["name"]),
        type=str(control_status["type"]),
        kind=str(card_control.get("kind", "none yet")),
        figure=MetricView.from_card(card_control.get("audit")),
        labels=[
            _label_row(name, rows.get(name) or {}, examples) for name in control_status["labels"]
        ],
        confusion=_read_confusion(figures.get("confusion") or {}, control_status["labels"]),
        counting=MetricView.from_card(figures["counting"]) if figures.get("counting") else None,
        advice=str(card_control.get("advice", "")),
    )


def _label_row(name: str, row: Mapping[str, Any], examples: Mapping[str, int]) -> LabelRow:
    figures = row.get("intervals", row)
    return LabelRow(
        name=name,
        precision=MetricView.from_card(figures.get("precision")),
        recall=MetricView.from_card(figures.get("recall")),
        examples=int(examples.get(name, 0)),
    )


def _read_confusion(
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
        names=[name or wording.NO_LABEL_TEXT for name in matrix_names],
        rows=[
            [table.get(truth, {}).get(answer, 0) for answer in matrix_names]
            for truth in matrix_names
        ],
        mixed_up=[
            (t or wording.NO_LABEL_TEXT, a or wording.NO_LABEL_TEXT, n)
            for t, a, n in confused_pairs[:CONFUSED_PAIRS_SHOWN]
        ],
    )


def _queue_rows(summary: ProjectSummary, front: QueueFront) -> list[QueueRow]:
    return [
        QueueRow(
            task=queued_task.task,
            why=wording.describe_reason(queued_task),
            kind=wording.reason_key(queued_task),
            link=summary.task(queued_task.task),
            picture=front.thumbnail_path(str(queued_task.task)).exists(),
        )
        for queued_task in front.tasks()
    ]


def _label_error_row(
    summary: ProjectSummary, front: QueueFront, row: Mapping[str, Any]
) -> LabelErrorRow:
    return LabelErrorRow(
        task=int(row["task"]),
        given=str(row["given"]),
        suggested=str(row["suggested"]),
        why=str(row["why"]),
        suspicion=1 - float(row["quality"]),
        link=summary.task(int(row["task"])),
        picture=front.thumbnail_path(str(row["task"])).exists(),
    )


def _capture_row(
    summary: ProjectSummary, front: QueueFront, captures: CaptureStore, capture: Capture
) -> CaptureRow:
    task, _ = captures.task_status(capture)
    at = datetime.fromtimestamp(capture.at, UTC)
    return CaptureRow(
        id=capture.id,
        why=wording.CAPTURE_REASON_TEXTS.get(capture.why, capture.why),
        at=f"{at:%Y-%m-%d %H:%M}",
        version=capture.version,
        answered=capture.annotation is not None,
        task=task,
        link=summary.task(task) if task else "",
        picture=front.thumbnail_path(f"capture-{capture.id}").exists(),
    )


def _read_event(event: Mapping[str, Any]) -> PromotionEvent:
    return PromotionEvent(
        at=str(event.get("at", "")),
        version=str(event["version"]),
        before=str(event.get("from") or ""),
        by=str(event.get("by", "")),
        reason=str(event.get("reason", "")),
    )
