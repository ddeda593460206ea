"""The versions of a project: immutable folders, and a pointer to the live one."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backend.card_records import PromotionEvent
from backend.errors import DamagedFileError, NotFoundError, StoreError
from backend.store.files import (
    FileSignature,
    exclusive_lock,
    file_signature,
    read_json,
    remove_leftovers,
    write_folder,
    write_json,
    write_text,
)
from backend.store.promotions import PromotionLog
from backend.store.record_files import ReadJson, log_once, read_record, write_record
from backend.store.version_card import LabelSnapshot, VersionCard, content_hash

__all__ = ["PUBLISHER_FILE", "LabelSnapshot", "VersionCard", "VersionStore", "content_hash"]
CARD_FILE, LABELS_FILE = "card.json", "labels.json"
PUBLISHER_FILE = "publisher.json"
"""In the folder of a project that another home folder uploaded, without labels."""
UNREADABLE_FILE = "unreadable.txt"
"""In the folder of a version whose files cannot be read: why."""
OVERTAKEN_REASON = (
    "{live} was promoted while this version was compared with {parent}: promote it to make it live "
    "anyway."
)
CARD_FIX = "restore the file, or leave it: the version is set aside"
VERSION_LOCK_TIMEOUT_SECONDS = 60.0
"""Maximum wait for another process that saves or promotes a version."""


VERSION_NAME_PATTERN = re.compile(r"v[\w-]+")
"""Valid version names; they contain no path separators."""
VERSION_NUMBER_PATTERN = re.compile(r"v(\d{1,9})-.*")


class VersionStore:
    """The versions of a project.

    A version with damaged files is left out, and so is one that was set aside. Nothing of it is
    removed, and no new version gets its number.

    Args:
        folder: the project's folder.
        read: reads a JSON file; returns None if it does not exist.
    """

    def __init__(self, folder: Path, read: ReadJson = read_json) -> None:
        self._folder = folder
        self._root = folder / "versions"
        self._read = read
        self._promotions = PromotionLog(folder, read)
        self._cards: dict[str, tuple[FileSignature, VersionCard]] = {}

    def path(self, version: str) -> Path:
        """Return the folder of a version."""
        return self._root / version

    def cards(self) -> list[VersionCard]:
        """Return the cards of all readable versions, oldest first."""
        return self._read_all()[0]

    def damaged(self) -> dict[str, str]:
        """Return the versions that cannot be read, each with the reason in a sentence."""
        return self._read_all()[1]

    def names(self) -> list[str]:
        """Return the names of all readable versions, newest first."""
        return [card.version for card in reversed(self.cards())]

    def card(self, version: str) -> VersionCard:
        """Return the card of a version.

        Raises:
            NotFoundError: there is no such version.
            DamagedFileError: the version cannot be read.
        """
        if not VERSION_NAME_PATTERN.fullmatch(version) or not self.path(version).is_dir():
            available = ", ".join(self.names()) or "none yet"
            raise NotFoundError(f"There is no version {version!r}; available: {available}.")
        return self._read_card(version)

    def newest(self) -> VersionCard | None:
        """Return the card of the latest readable version, live or not; None without one."""
        cards = self.cards()
        return cards[-1] if cards else None

    def next_name(self, identity: str) -> tuple[int, str]:
        """Return the number and name of the next version."""
        cards, damaged = self._read_all()
        numbers = [card.number for card in cards] + [_version_number(name) for name in damaged]
        number = max(numbers, default=-1) + 1
        return number, f"v{number}-{identity[:8]}"

    def lacks_newest(self) -> bool:
        """Return whether the newest version, or the one it was compared with, cannot be read.

        Then a version should be trained again from the present labels.
        """
        cards, damaged = self._read_all()
        if not cards or (cards[-1].is_held and cards[-1].parent in damaged):
            return bool(damaged)
        return any(_version_number(name) > cards[-1].number for name in damaged)

    def labels(self, version: str) -> LabelSnapshot:
        """Return the labels that a version was trained on; none for an uploaded version.

        Raises:
            DamagedFileError: the file is damaged or missing; the version is set aside then,
                because a comparison with other labels would be wrong.
        """
        file = self.path(version) / LABELS_FILE
        try:
            labels = read_record(file, dict[str, dict[str, list[Any]]], advice=CARD_FIX)
            if labels is None and (self._folder / PUBLISHER_FILE).exists():
                return {}
            if labels is None:
                raise DamagedFileError(f"{file} is missing: {CARD_FIX}.")
        except DamagedFileError as error:
            self.set_aside(version, str(error))
            raise
        return labels

    def save(self, card: VersionCard, labels: LabelSnapshot, fill: Callable[[Path], None]) -> None:
        """Save a version atomically.

        Raises:
            StoreError: it cannot be written; no partial folder remains.
        """

        def write_all(folder: Path) -> None:
            fill(folder)
            write_json(folder / LABELS_FILE, labels)
            write_record(folder / CARD_FILE, card)

        write_folder(self.path(card.version), write_all)

    def set_aside(self, version: str, reason: str) -> None:
        """Leave a version out from now on because its files are damaged; nothing is removed.

        Raises:
            StoreError: that cannot be recorded.
        """
        file = self.path(version) / UNREADABLE_FILE
        if self.path(version).is_dir() and not file.exists():
            write_text(file, f"{reason}\n")
            log_once(f"Version {version} is set aside: {reason}")

    def remove_leftovers(self) -> None:
        """Remove partial versions of rounds that were killed."""
        if self._root.is_dir():
            remove_leftovers(self._root)

    def live(self) -> str | None:
        """Return the name of the live version; None before the first.

        When it cannot be read, or the pointer to it is damaged, it is the last readable version
        that was live.
        """
        with suppress(DamagedFileError):
            pointer = self._promotions.pointer()
            if pointer and self._is_readable(pointer.version):
                return pointer.version
        candidates = self._promotions.live_candidates()
        live = next((name for name in candidates if self._is_readable(name)), None)
        if live or not self._promotions.exists:
            return live
        cards = self.cards()
        fallbacks = [card for card in cards if not card.is_held] or cards
        return fallbacks[-1].version if fallbacks else None

    def live_card(self) -> VersionCard | None:
        """Return the card of the live version; None before the first."""
        live = self.live()
        return self.card(live) if live else None

    def live_problem(self) -> str:
        """Return why another version than the last promoted one is live; empty otherwise."""
        try:
            pointer = self._promotions.pointer()
        except DamagedFileError as error:
            return str(error)
        if pointer is None:
            is_lost = self._promotions.exists
            return f"{self._promotions.pointer_file} is missing." if is_lost else ""
        is_live = pointer.version == self.live()
        return "" if is_live else f"Version {pointer.version} was live and cannot be read."

    def restore_live(self, by: str) -> bool:
        """Write the pointer again if :meth:`live` falls back to another version.

        Returns:
            whether that was needed.
        """
        if not self.live_problem():
            return False
        with self.promotion_lock():
            problem, live = self.live_problem(), self.live()
            if not problem:
                return False
            log_once(problem)
            self._promotions.set_damaged_aside()
            if live:
                lost = self._promotions.live_candidates()[:1]
                reason = f"{problem} This is the last good version."
                self._add_event(live, next(iter(lost), None), by, reason)
        return True

    def promote(self, version: str, by: str, reason: str) -> None:
        """Make a version live, and add the promotion to the history.

        Raises:
            NotFoundError: there is no such version.
            StoreError: it cannot be read, or the pointer cannot be written; the live version stays.
        """
        self.card(version)
        with self.promotion_lock():
            self._add_event(version, self.live(), by, reason)

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
        return exclusive_lock(file, busy, VERSION_LOCK_TIMEOUT_SECONDS, reentrant=True)

    def history(self) -> list[PromotionEvent]:
        """Return every promotion and roll-back, oldest first."""
        return self._promotions.events()

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

    def _add_event(self, version: str, previous: str | None, by: str, reason: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._promotions.add(PromotionEvent(now, version, previous, by, reason))

    def _read_all(self) -> tuple[list[VersionCard], dict[str, str]]:
        """Return the readable cards, oldest first, and why the others are not, by name."""
        cards, damaged = [], {}
        for folder in sorted(self._root.glob("v*/")):
            try:
                cards.append(self._read_card(folder.name))
            except DamagedFileError as error:
                damaged[folder.name] = str(error)
        return sorted(cards, key=lambda card: card.number), damaged

    def _is_readable(self, version: str) -> bool:
        try:
            self.card(version)
        except (DamagedFileError, NotFoundError):
            return False
        return True

    def _read_card(self, version: str) -> VersionCard:
        file = self.path(version) / CARD_FILE
        reason_file = self.path(version) / UNREADABLE_FILE
        if reason_file.exists():
            raise DamagedFileError(
                f"Version {version} is set aside because a file of it is damaged; when its files "
                f"are restored, delete {reason_file}, which has the reason."
            )
        signature, (known_signature, known) = (
            file_signature(file),
            self._cards.get(version, (None, None)),
        )
        if known and known_signature == signature:
            return known

        def check(card: VersionCard) -> None:
            if card.version != version:
                raise TypeError(f"it is that of {card.version[:80]!a}")
            card.check_figures()

        card = read_record(file, VersionCard, advice=CARD_FIX, check=check, read=self._read)
        if card is None:
            raise DamagedFileError(f"{file} is missing: {CARD_FIX}.")
        self._cards[version] = signature, card
        return card


def _version_number(name: str) -> int:
    """Return the number in a version's name; -1 without one."""
    match = VERSION_NUMBER_PATTERN.fullmatch(name)
    return int(match[1]) if match else -1
