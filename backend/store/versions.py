"""The versions of a project: immutable folders, and a pointer to the live one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backend.errors import NotFoundError, StoreError
from backend.estimate import IntervalEstimate
from backend.json_records import from_json, json_field, to_json
from backend.records import (
    AutoAcceptSection,
    ComputeCost,
    ControlCard,
    ModelSource,
    Outlook,
    ProjectStatus,
    Promotion,
    PromotionEvent,
    SplitSizes,
)
from backend.store.files import (
    append_line,
    disk_errors,
    exclusive_lock,
    read_json,
    remove_leftovers,
    write_folder,
    write_json,
)

LabelSnapshot = Mapping[str, Mapping[str, list[Any]]]
"""Task → control → sorted label names, or sorted rows ``[label, x0, y0, x1, y1]``."""
HISTORY_FILE = "history.jsonl"
OVERTAKEN_REASON = (
    "{live} was made live while this version was trained and compared with {parent}: promote it to "
    "make it live anyway."
)
LOCK_TIMEOUT_SECONDS = 60.0
"""Maximum wait for another process that saves or promotes a version."""


@dataclass(frozen=True)
class VersionCard:
    """The record of a version, stored as ``card.json``.

    Attributes:
        version: name of the version, ``v<number>-<first 8 digits of the identity>``.
        identity: hash of the labels, controls, encoder, settings and seed it was trained with.
        number: sequential number, starting at 0.
        parent: the version that was live at the time, with which it was compared.
        created: UTC, ISO 8601.
        labels: number of labeled tasks in the training and the audit set.
        audit: accuracy or F1 on the audit set.
        controls: control name → its section.
        encoder: empty without a choices control.
        seconds: duration by step, and ``total``.
        seed: random seed.
        packages: package → version it was trained with.
        promotion: the quality gate's decision; None on old cards.
        detector: the base detector; empty without a box or point control.
        estimate: accuracy by cross-validation while the audit set is small.
        outlook: forecast of the accuracy with more labels.
        accepting: auto-accept threshold; None if auto-accept is off.
        compute: where it was trained, and the cost.
        uncertain_labels: number of training labels of images that came next in the queue because
            the model was uncertain about them.
    """

    version: str
    identity: str
    number: int
    parent: str | None
    created: str
    labels: SplitSizes
    audit: IntervalEstimate
    controls: Mapping[str, ControlCard]
    encoder: ModelSource
    seconds: Mapping[str, float]
    seed: int
    packages: Mapping[str, str] = field(default_factory=dict)
    promotion: Promotion | None = json_field(None, none_as_empty=True)
    detector: ModelSource = ModelSource()
    estimate: IntervalEstimate | None = json_field(None, none_as_empty=True)
    outlook: Outlook | None = json_field(None, none_as_empty=True)
    accepting: AutoAcceptSection | None = json_field(None, none_as_empty=True)
    compute: ComputeCost | None = json_field(None, none_as_empty=True)
    uncertain_labels: int = json_field(0, optional=True)

    def control(self, name: str) -> ControlCard:
        """Return the section of a control; it is empty if the version has none."""
        return self.controls.get(name, ControlCard())

    def update_status(self, status: ProjectStatus) -> ProjectStatus:
        """Return a project's status with the metrics of this version."""
        return replace(
            status,
            version=self.version,
            audit=self.audit,
            estimate=self.estimate,
            outlook=self.outlook,
        )

    @property
    def has_hard_labels(self) -> bool:
        """Whether at least half of the training labels are of images chosen as uncertain."""
        return 0 < self.labels.train <= 2 * self.uncertain_labels

    @property
    def is_promoted(self) -> bool:
        """Whether it passed the quality gate; False on old cards."""
        return self.promotion is not None and self.promotion.promoted

    @property
    def is_held(self) -> bool:
        """Whether the quality gate held it back; False on old cards."""
        return self.promotion is not None and not self.promotion.promoted

    @property
    def promotion_reason(self) -> str:
        """Why it was promoted or not; empty on old cards."""
        return self.promotion.reason if self.promotion else ""


def content_hash(value: Any) -> str:
    """Return a reproducible SHA-256 hash of a JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


VERSION_NAME_PATTERN = re.compile(r"v[\w-]+")
"""Valid version names; they contain no path separators."""


class VersionStore:
    """The versions of a project.

    Args:
        folder: the project's folder.
        read: reads a JSON file; returns None if it does not exist.
    """

    def __init__(self, folder: Path, read: Callable[[Path], Any] = read_json) -> None:
        self._folder = folder
        self._root = folder / "versions"
        self._read = read

    def path(self, version: str) -> Path:
        """Return the folder of a version."""
        return self._root / version

    def cards(self) -> list[VersionCard]:
        """Return all cards, oldest first."""
        loaded = (self._read_card(file) for file in self._root.glob("v*/card.json"))
        return sorted((card for card in loaded if card), key=lambda card: card.number)

    def names(self) -> list[str]:
        """Return all version names, newest first."""
        return [card.version for card in reversed(self.cards())]

    def card(self, version: str) -> VersionCard:
        """Return the card of a version.

        Raises:
            NotFoundError: there is no such version.
        """
        card = (
            self._read_card(self.path(version) / "card.json")
            if VERSION_NAME_PATTERN.fullmatch(version)
            else None
        )
        if card is None:
            available = ", ".join(self.names()) or "none yet"
            raise NotFoundError(f"There is no version {version!r}; available: {available}.")
        return card

    def newest(self) -> VersionCard | None:
        """Return the card of the latest version, live or not; None before the first."""
        cards = self.cards()
        return cards[-1] if cards else None

    def next_name(self, identity: str) -> tuple[int, str]:
        """Return the number and name of the next version."""
        newest = self.newest()
        number = newest.number + 1 if newest else 0
        return number, f"v{number}-{identity[:8]}"

    def labels(self, version: str) -> LabelSnapshot:
        """Return the labels that a version was trained on."""
        snapshot: LabelSnapshot = read_json(self.path(version) / "labels.json") or {}
        return snapshot

    def save(self, card: VersionCard, labels: LabelSnapshot, fill: Callable[[Path], None]) -> None:
        """Save a version atomically.

        Raises:
            StoreError: it cannot be written; no partial folder remains.
        """

        def write_all(folder: Path) -> None:
            fill(folder)
            write_json(folder / "labels.json", labels)
            write_json(folder / "card.json", to_json(card))

        write_folder(self.path(card.version), write_all)

    def remove_leftovers(self) -> None:
        """Remove partial versions of rounds that were killed."""
        if self._root.is_dir():
            remove_leftovers(self._root)

    def live(self) -> str | None:
        """Return the name of the live version; None before the first."""
        pointer = self._pointer()
        return pointer.version if pointer else None

    def live_card(self) -> VersionCard | None:
        """Return the card of the live version; None before the first."""
        live = self.live()
        return self.card(live) if live else None

    def promote(self, version: str, by: str, reason: str) -> None:
        """Make a version live, and add the promotion to the history.

        Raises:
            NotFoundError: there is no such version.
            StoreError: the pointer cannot be written; the live version stays.
        """
        self.card(version)
        with self.promotion_lock():
            self._repair_history()
            now = datetime.now(UTC).isoformat(timespec="seconds")
            event = PromotionEvent(now, version, self.live(), by, reason)
            write_json(self._folder / "live.json", to_json(event))
            self._append_event(event)

    def save_and_promote(
        self, card: VersionCard, labels: LabelSnapshot, fill: Callable[[Path], None], by: str
    ) -> VersionCard:
        """Save a version, and promote it if it passed the gate and its parent is still live.

        If another version was promoted since the comparison, the version is held, and its card
        records the reason.

        Args:
            card: the version's, with the gate's decision.
            labels: the labels it was trained on.
            fill: writes the model into the version's folder.
            by: recorded in the history.

        Returns:
            the saved card.

        Raises:
            StoreError: it cannot be written; the live version stays.
        """
        with self.promotion_lock():
            live = self.live()
            if card.promotion and card.promotion.promoted and live != card.parent:
                reason = OVERTAKEN_REASON.format(live=live, parent=card.parent)
                overtaken = replace(card.promotion, promoted=False, reason=reason)
                card = replace(card, promotion=overtaken)
            self.save(card, labels, fill)
            if card.is_promoted:
                self.promote(card.version, by, card.promotion_reason)
        return card

    def promote_pending(self, by: str) -> VersionCard | None:
        """Promote the newest version whose promotion a crash prevented.

        It passed the gate, but never was live. Without a live version, any version that was not
        held back qualifies.

        Returns:
            its card; None if no promotion is pending.
        """
        if not (card := self._pending_promotion()):
            return None
        with self.promotion_lock():
            card = self._pending_promotion()
            if card is not None:
                self.promote(card.version, by, card.promotion_reason)
        return card

    def _pending_promotion(self) -> VersionCard | None:
        live = self.live()
        promotable = [
            card for card in self.cards() if card.is_promoted or (live is None and not card.is_held)
        ]
        newest = promotable[-1] if promotable else None
        if newest is None or (newest.parent != live and live is not None):
            return None
        return newest if live is None or newest.version not in self.versions_ever_live() else None

    def promotion_lock(self) -> AbstractContextManager[None]:
        """Hold the lock for promotions across threads and processes; reentrant in a thread."""
        file = self._folder / "live.lock"
        busy = StoreError(f"Another process holds {file}: try again.")
        return exclusive_lock(file, busy, LOCK_TIMEOUT_SECONDS, reentrant=True)

    def history(self) -> list[PromotionEvent]:
        """Return every promotion and roll-back, oldest first.

        The last one is read from the pointer if a crash prevented its entry in the history file.
        """
        pointer, events = self._pointer(), self._recorded_events()
        return [*events, pointer] if pointer and events[-1:] != [pointer] else events

    def versions_ever_live(self) -> set[str]:
        """Return the versions that are or were live."""
        names = {name for event in self.history() for name in (event.version, event.previous)}
        return {name for name in names if name}

    def rollback_target(self) -> str:
        """Return the newest of the versions before the live one that were live.

        Raises:
            StoreError: there is none.
        """
        live, past_live = self.live(), self.versions_ever_live()
        names = [card.version for card in self.cards()]
        older_names = names[: names.index(live)] if live in names else []
        candidates = [name for name in older_names if name in past_live]
        if not candidates:
            raise StoreError("There is no older version to roll back to.")
        return candidates[-1]

    def _repair_history(self) -> None:
        """Add the last event to the history file if a crash prevented that."""
        events = self.history()
        if len(events) > len(self._recorded_events()):
            self._append_event(events[-1])

    def _append_event(self, event: PromotionEvent) -> None:
        append_line(self._folder / HISTORY_FILE, json.dumps(to_json(event), ensure_ascii=False))

    def _recorded_events(self) -> list[PromotionEvent]:
        file = self._folder / HISTORY_FILE
        with disk_errors(file):
            text = file.read_bytes().decode(errors="replace") if file.exists() else ""
        events = (_parse_event(line) for line in text.splitlines())
        return [event for event in events if event is not None]

    def _pointer(self) -> PromotionEvent | None:
        file = self._folder / "live.json"
        pointer = self._read(file)
        if pointer is not None and not (isinstance(pointer, dict) and "version" in pointer):
            raise StoreError(f"{file} is damaged; delete it, or promote a version.")
        return from_json(PromotionEvent, pointer) if pointer else None

    def _read_card(self, file: Path) -> VersionCard | None:
        row = self._read(file)
        try:
            return from_json(VersionCard, row) if row else None
        except TypeError as error:
            raise StoreError(f"{file} is damaged ({error}); remove its folder.") from error


def _parse_event(line: str) -> PromotionEvent | None:
    """Parse a line of the history; None if a crash cut it off."""
    try:
        return from_json(PromotionEvent, json.loads(line))
    except (ValueError, TypeError):
        return None
