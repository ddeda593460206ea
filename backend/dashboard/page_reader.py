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
    Confusion,
    ControlView,
    Event,
    Figure,
    LabelRow,
    Outlook,
    Picked,
    ProjectPage,
    RoundNow,
    Summary,
    SuspectRow,
    VersionRow,
)
from backend.errors import StoreError
from backend.store.captures import Capture, Captures
from backend.store.files import read_json
from backend.store.projects import Projects
from backend.store.queue_front import SUSPECTS, Front
from backend.store.versions import Card, Versions

State = Mapping[str, Any]
"""A project as ``/api/projects/{id}`` shows it."""
SUSPECTS_SHOWN = 12
CAPTURES_SHOWN = 6
EVENTS_SHOWN = 10
LARGEST_MATRIX = 20
"""Classes up to which a confusion matrix is drawn; of more, the mix-ups are listed."""
MIXED_UP = 8


class JsonFiles:
    """Reads JSON files, and parses each only once as long as it stays the same."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int, int], Any]] = {}
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
        mark = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        known = self._known.get(path)
        if known is None or known[0] != mark:
            known = (mark, read_json(path))
            with self._lock:
                self._known[path] = known
        return known[1]


class Reader:
    """Reads projects.

    Args:
        home: the one folder for everything that lasts.
        server: Label Studio's address, for projects that came without one.
        kept: the home folder that the endpoint writes to, where that is another one.
    """

    def __init__(self, home: Path, server: str, kept: Path | None = None) -> None:
        self._projects = Projects(home, kept)
        self._server = server
        self._files = JsonFiles()

    def summary(self, state: State) -> Summary:
        """A project as the overview shows it; a damaged card is told on its own page."""
        file = self._versions(str(state["id"])).path(str(state["version"])) / "card.json"
        card = None
        with contextlib.suppress(StoreError):
            card = self._files.read(file)
        return self._summary(state, Card(**card) if card else None)

    def page(self, state: State) -> ProjectPage:
        """A project as its own page shows it.

        Raises:
            StoreError: a file of it is damaged.
        """
        folder = self._projects.folder(str(state["id"]))
        versions = self._versions(str(state["id"]))
        live = str(state["version"] or "")
        events = list(versions.history())
        rows = _versions(versions.cards(), live, versions.once_live())
        card = next((row.card for row in rows if row.live), None)
        summary = self._summary(state, card)
        front = Front(folder, self._files.read)
        suspects = (self._files.read(folder / SUSPECTS) or {}).get("suspects", [])
        captures = self._projects.captures(str(state["id"]))
        waiting, returned = captures.counts()
        return ProjectPage(
            summary=summary,
            outlook=_outlook(card.outlook if card else {}),
            controls=[_control(row, card) for row in state["controls"]],
            queue=_queue(summary, front),
            suspects=[_suspect(summary, front, row) for row in suspects[:SUSPECTS_SHOWN]],
            suspects_found=len(suspects),
            captures=[
                _capture(summary, front, captures, one) for one in captures.latest(CAPTURES_SHOWN)
            ],
            captures_waiting=waiting,
            captures_returned=returned,
            versions=rows,
            history=[_event(event) for event in events[: -EVENTS_SHOWN - 1 : -1]],
            roll_back_to=_before(versions),
            held=rows[0] if rows and rows[0].held and not rows[0].was_live else None,
            left_out=state["left_out"],
        )

    def picture(self, id: str, name: str) -> Path:
        """Where a small picture of a project is, or would be; both names are checked already."""
        return Front(self._projects.folder(id)).picture(name)

    def _versions(self, id: str) -> Versions:
        return Versions(self._projects.folder(id), self._files.read)

    def _summary(self, state: State, card: Card | None) -> Summary:
        now = state["round"]
        return Summary(
            id=str(state["id"]),
            title=str(state["title"] or f"Project {state['number']}"),
            link=_link(str(state["server"] or self._server), int(state["number"])),
            version=str(state["version"] or ""),
            figure=Figure.of(card.audit if card else state["audit"]),
            estimate=Figure.of(card.estimate if card else state["estimate"]),
            round=RoundNow(
                state=str(now["state"]),
                progress=float(now["progress"]),
                detail=str(now["detail"] or ""),
                error=str(now["error"] or ""),
            ),
            tasks=int(state["tasks"]),
            labels=int(state["labels"]),
            waiting=int(state["waiting"]),
            accepted=int(state["accepted"]),
            accepting=str((state.get("accepting") or {}).get("reason", "")),
            held=state["held"],
            types=[str(row["type"]) for row in state["controls"]],
        )


def _link(server: str, number: int) -> str:
    """A project's address; none where /setup brought something else than a web address."""
    safe = server.lower().startswith(("http://", "https://"))
    return f"{server.rstrip('/')}/projects/{number}" if safe else ""


def _versions(cards: Sequence[Card], live: str, once: set[str]) -> list[VersionRow]:
    """Newest first."""
    return [
        VersionRow(
            card=card,
            live=card.version == live,
            was_live=card.version in once or card.version == live,
            figure=Figure.of(card.audit),
            estimate=Figure.of(card.estimate),
            reason=str(card.promotion.get("reason", "")),
        )
        for card in reversed(cards)
    ]


def _before(versions: Versions) -> str:
    try:
        return versions.before_live()
    except StoreError:
        return ""


def _outlook(told: Mapping[str, Any]) -> Outlook:
    if not told:
        return Outlook()
    return Outlook(
        sentence=str(told["sentence"]),
        needy=[(r["label"], r.get("words") or f"about {r['more']}") for r in told["labels"]],
        stop=bool(told["stop"]),
        curve=[(r["labels"], r["value"], r["low"], r["high"]) for r in told.get("curve", [])],
        audited=told.get("from") != "cross-validation",
    )


def _control(shown: Mapping[str, Any], card: Card | None) -> ControlView:
    """A control of today's labeling config, with what the live version's card tells of it."""
    told = card.controls.get(shown["name"], {}) if card else {}
    figures, examples = told.get("figures") or {}, told.get("examples") or {}
    rows = figures.get("labels") or {}
    return ControlView(
        name=str(shown["name"]),
        type=str(shown["type"]),
        kind=str(told.get("kind", "none yet")),
        figure=Figure.of(told.get("audit")),
        labels=[_label(name, rows.get(name) or {}, examples) for name in shown["labels"]],
        confusion=_confusion(figures.get("confusion") or {}, shown["labels"]),
        counting=Figure.of(figures["counting"]) if figures.get("counting") else None,
        advice=str(told.get("advice", "")),
    )


def _label(name: str, row: Mapping[str, Any], examples: Mapping[str, int]) -> LabelRow:
    figures = row.get("intervals", row)
    return LabelRow(
        name=name,
        precision=Figure.of(figures.get("precision")),
        recall=Figure.of(figures.get("recall")),
        examples=int(examples.get(name, 0)),
    )


def _confusion(table: Mapping[str, Mapping[str, int]], labels: Sequence[str]) -> Confusion | None:
    if not table:
        return None
    found = {*table, *(answer for row in table.values() for answer in row)}
    names = [*labels, *sorted(found - set(labels))]
    pairs = [(t, a, n) for t, row in table.items() for a, n in row.items() if t != a]
    pairs.sort(key=lambda pair: -pair[2])
    drawn = names if len(names) <= LARGEST_MATRIX else []
    return Confusion(
        names=[name or wording.NOTHING for name in drawn],
        rows=[[table.get(truth, {}).get(answer, 0) for answer in drawn] for truth in drawn],
        mixed_up=[(t or wording.NOTHING, a or wording.NOTHING, n) for t, a, n in pairs[:MIXED_UP]],
    )


def _queue(summary: Summary, front: Front) -> list[Picked]:
    return [
        Picked(
            task=one.task,
            why=wording.why(one),
            kind=wording.kind(one),
            link=summary.task(one.task),
            picture=front.picture(str(one.task)).exists(),
        )
        for one in front.asked()
    ]


def _suspect(summary: Summary, front: Front, row: Mapping[str, Any]) -> SuspectRow:
    return SuspectRow(
        task=int(row["task"]),
        given=str(row["given"]),
        suggested=str(row["suggested"]),
        why=str(row["why"]),
        suspicion=1 - float(row["quality"]),
        link=summary.task(int(row["task"])),
        picture=front.picture(str(row["task"])).exists(),
    )


def _capture(summary: Summary, front: Front, captures: Captures, one: Capture) -> CaptureRow:
    task, _ = captures.task(one)
    at = datetime.fromtimestamp(one.at, UTC)
    return CaptureRow(
        id=one.id,
        why=wording.CAPTURED.get(one.why, one.why),
        at=f"{at:%Y-%m-%d %H:%M}",
        version=one.version,
        answered=one.annotation is not None,
        task=task,
        link=summary.task(task) if task else "",
        picture=front.picture(f"capture-{one.id}").exists(),
    )


def _event(event: Mapping[str, Any]) -> Event:
    return Event(
        at=str(event.get("at", "")),
        version=str(event["version"]),
        before=str(event.get("from") or ""),
        by=str(event.get("by", "")),
        reason=str(event.get("reason", "")),
    )
