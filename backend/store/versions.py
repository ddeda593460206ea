"""The versions of one project: immutable folders, and one small file that says which is live."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backend.errors import NotThere, StoreError
from backend.store.files import append_line, read_json, sweep, write_folder, write_json

Labels = Mapping[str, Mapping[str, list[Any]]]
"""What a version saw: task → control → labels, or rows ``[label, x0, y0, x1, y1]``; sorted."""


@dataclass(frozen=True)
class Card:
    """What is told of a version.

    Attributes:
        version: its name, ``v<number>-<hash of what it was made from>``.
        identity: the whole hash; the same labels, controls, encoder and seed give the same one.
        number: counts up in the project.
        parent: the version that was live when it was trained.
        created: UTC, ISO 8601.
        labels: how many tasks it was trained on (``train``) and judged on (``audit``).
        audit: accuracy on the audit tasks: ``n, value, low, high, metric``.
        controls: by control: what kind of head, labels seen, figures of its own.
        encoder: ``setting``, ``id`` and ``name``; empty where no control has choices.
        seconds: by step, and ``total``.
        seed: of everything random in it.
        packages: versions of what it was made with.
        promotion: ``promoted`` (by the loop), the ``reason`` and the ``evidence``.
        detector: ``setting`` and ``id`` of what was fine-tuned; empty where nothing is found.
        estimate: accuracy by cross-validation while the audit slice is small.
        outlook: what more labels are expected to bring.
        accepting: from which confidence on answers need no person; empty: nobody asked for that.
        compute: where it was trained, the device's seconds and an estimate of the cost.
    """

    version: str
    identity: str
    number: int
    parent: str | None
    created: str
    labels: Mapping[str, int]
    audit: Mapping[str, Any]
    controls: Mapping[str, Any]
    encoder: Mapping[str, str]
    seconds: Mapping[str, float]
    seed: int
    packages: Mapping[str, str] = field(default_factory=dict)
    promotion: Mapping[str, Any] = field(default_factory=dict)
    detector: Mapping[str, str] = field(default_factory=dict)
    estimate: Mapping[str, Any] = field(default_factory=dict)
    outlook: Mapping[str, Any] = field(default_factory=dict)
    accepting: Mapping[str, Any] = field(default_factory=dict)
    compute: Mapping[str, Any] = field(default_factory=dict)


def identity_of(parts: Any) -> str:
    """A hash that is the same for the same JSON value on every machine and after every restart."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Versions:
    """The versions in one project's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._root = folder / "versions"

    def path(self, version: str) -> Path:
        """The folder of a version's artifact."""
        return self._root / version

    def cards(self) -> list[Card]:
        """All cards, oldest first."""
        files = self._root.glob("v*/card.json")
        return sorted((Card(**read_json(file)) for file in files), key=lambda card: card.number)

    def names(self) -> list[str]:
        """All version names, newest first."""
        return [card.version for card in reversed(self.cards())]

    def card(self, version: str) -> Card:
        """One card.

        Raises:
            NotThere: there is no such version.
        """
        found = [card for card in self.cards() if card.version == version]
        if not found:
            known = ", ".join(self.names()) or "none yet"
            raise NotThere(f"There is no version {version!r}; there is: {known}.")
        return found[0]

    def newest(self) -> Card | None:
        """The version trained last, live or not."""
        cards = self.cards()
        return cards[-1] if cards else None

    def next_name(self, identity: str) -> tuple[int, str]:
        """Number and name of the version to come."""
        newest = self.newest()
        number = newest.number + 1 if newest else 0
        return number, f"v{number}-{identity[:8]}"

    def labels(self, version: str) -> Labels:
        """The labels that a version saw."""
        seen: Labels = read_json(self.path(version) / "labels.json") or {}
        return seen

    def save(self, card: Card, labels: Labels, fill: Callable[[Path], None]) -> None:
        """Keep a version: its folder appears whole or not at all.

        Raises:
            StoreError: it cannot be written; nothing is left behind.
        """

        def everything(folder: Path) -> None:
            fill(folder)
            write_json(folder / "labels.json", labels)
            write_json(folder / "card.json", asdict(card))

        write_folder(self.path(card.version), everything)

    def sweep(self) -> None:
        """Remove what a killed round left half made."""
        if self._root.is_dir():
            sweep(self._root)

    def live(self) -> str | None:
        """The name of the live version."""
        pointer = read_json(self._folder / "live.json")
        return str(pointer["version"]) if pointer else None

    def live_card(self) -> Card | None:
        """The card of the live version."""
        live = self.live()
        return self.card(live) if live else None

    def promote(self, version: str, by: str, reason: str) -> None:
        """Make a version live, and record who did it and why.

        Raises:
            NotThere: there is no such version.
            StoreError: the pointer cannot be written; the live version stays.
        """
        self.card(version)
        event = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "version": version,
            "from": self.live(),
            "by": by,
            "reason": reason,
        }
        write_json(self._folder / "live.json", event)
        append_line(self._folder / "history.jsonl", json.dumps(event, ensure_ascii=False))

    def history(self) -> list[Mapping[str, Any]]:
        """Every promotion and roll-back, oldest first."""
        file = self._folder / "history.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        events = (_event(line) for line in lines)
        return [event for event in events if event is not None]

    def before_live(self) -> str:
        """The version that a roll-back leads to: the newest older one that was live before.

        Raises:
            StoreError: there is none.
        """
        live = self.live()
        once = {str(event["version"]) for event in self.history()}
        names = [card.version for card in self.cards()]
        older = names[: names.index(live)] if live in names else []
        found = [name for name in older if name in once]
        if not found:
            raise StoreError("There is no older version to roll back to.")
        return found[-1]


def _event(line: str) -> dict[str, Any] | None:
    """A line of the history; None where a crash cut it off."""
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return event
