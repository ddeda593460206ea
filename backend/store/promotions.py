"""Which version is live, and every promotion and roll-back before."""

from __future__ import annotations

import json
from pathlib import Path

from backend.card_records import PromotionEvent
from backend.errors import DamagedFileError
from backend.json_records import from_json, to_json
from backend.store.files import append_line, disk_errors, read_json
from backend.store.record_files import ReadJson, read_record, set_aside, write_record

POINTER_FILE, HISTORY_FILE = "live.json", "history.jsonl"
POINTER_FIX = "promote a version, or start `prelabel serve`, which restores it"


class PromotionLog:
    """The pointer to the live version, and the history of promotions.

    Args:
        folder: the project's folder.
        read: reads a JSON file; returns None if it does not exist.
    """

    def __init__(self, folder: Path, read: ReadJson = read_json) -> None:
        self._history_file = folder / HISTORY_FILE
        self.pointer_file = folder / POINTER_FILE
        self._read = read

    def pointer(self) -> PromotionEvent | None:
        """Return the last event as the pointer has it; None before the first.

        Raises:
            DamagedFileError: the file is damaged.
        """
        return read_record(
            self.pointer_file,
            PromotionEvent,
            advice=POINTER_FIX,
            check=_check_event,
            read=self._read,
        )

    @property
    def exists(self) -> bool:
        """Whether a version was promoted before, as far as the files show."""
        return self.pointer_file.exists() or self._history_file.exists()

    def events(self) -> list[PromotionEvent]:
        """Return every promotion and roll-back, oldest first.

        The last one is read from the pointer if a crash prevented its entry in the history file.
        """
        recorded = self._recorded_events()
        try:
            pointer = self.pointer()
        except DamagedFileError:
            return recorded
        return [*recorded, pointer] if pointer and recorded[-1:] != [pointer] else recorded

    def add(self, event: PromotionEvent) -> None:
        """Make the version of an event live, and record the event.

        Raises:
            StoreError: the pointer cannot be written; the live version stays.
        """
        events = self.events()
        if len(events) > len(self._recorded_events()):  # a crash prevented that
            self._append(events[-1])
        write_record(self.pointer_file, event)
        self._append(event)

    def set_damaged_aside(self) -> None:
        """Set the pointer aside if it is damaged."""
        try:
            self.pointer()
        except DamagedFileError as error:
            set_aside(self.pointer_file, str(error.__cause__ or error))

    def live_candidates(self) -> list[str]:
        """Return the versions that were live, the one to serve first.

        A version that somebody rolled back from comes after all others.
        """
        lineage: list[str] = []
        names = [event.version for event in self.events()]
        for name in names:
            if name in lineage:
                del lineage[lineage.index(name) :]
            lineage.append(name)
        return list(dict.fromkeys([*reversed(lineage), *reversed(names)]))

    def _append(self, event: PromotionEvent) -> None:
        append_line(self._history_file, json.dumps(to_json(event), ensure_ascii=False))

    def _recorded_events(self) -> list[PromotionEvent]:
        file = self._history_file
        with disk_errors(file):
            text = file.read_bytes().decode(errors="replace") if file.exists() else ""
        events = (_parse_event(line) for line in text.splitlines())
        return [event for event in events if event is not None and event.version]


def _check_event(event: PromotionEvent) -> None:
    if not event.version:
        raise TypeError("it names no version")


def _parse_event(line: str) -> PromotionEvent | None:
    """Parse a line of the history; None if a crash cut it off or it is damaged."""
    try:
        return from_json(PromotionEvent, json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
