"""What was answered without a person, what people found of it, and whether that is suspended.

One file of a project, so that neither a roll-back nor a version that is held back forgets it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from backend.records import AutoAcceptSection, AutoAcceptStatus
from backend.store.files import read_json, write_json

ACCEPTANCE_FILE = "acceptance.json"


@dataclass(frozen=True)
class AcceptedAnswer:
    """An answer that was accepted, or would have been had its task not gone to people.

    Attributes:
        version: that gave it; the first one that would have, as an accepted answer stays.
        answer: by control, as a version remembers labels.
        to_people: its task goes to people all the same.
        era: suspensions before it.
        right: whether a person answered the same; None: nobody answered yet.
        ratios: by control of boxes or points, width divided by height of its image.
    """

    version: str
    answer: Mapping[str, list[Any]]
    to_people: bool
    era: int
    right: bool | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Suspension:
    """Too many answers were wrong.

    Attributes:
        at: UTC, ISO 8601.
        reason: a sentence for people.
        until: labeled audit images on which a version has to be proven anew to lift it.
    """

    at: str
    reason: str
    until: int


@dataclass(frozen=True)
class AcceptanceState:
    """The state of a project.

    Attributes:
        given: by task.
        suspensions: oldest first.
        since: labels of the project when the first answer was given.
    """

    given: Mapping[int, AcceptedAnswer] = field(default_factory=dict)
    suspensions: tuple[Suspension, ...] = ()
    since: int = 0

    @property
    def min_audit_labels(self) -> int:
        """Labeled audit images that a version has to be proven on at least."""
        return self.suspensions[-1].until if self.suspensions else 0

    @property
    def check_results(self) -> list[bool]:
        """Whether answers of this era were right where people looked, in the order of giving."""
        current_era = len(self.suspensions)
        return [
            answer.right
            for answer in self.given.values()
            if answer.era == current_era and answer.right is not None
        ]

    def is_suspended(self, section: AutoAcceptSection | None) -> bool:
        """Return whether a version may not accept because its test predates the suspension."""
        return section is not None and section.audit < self.min_audit_labels

    def describe(self, section: AutoAcceptSection | None) -> AutoAcceptStatus | None:
        """Add the results of spot checks to a card's section; None where auto-accept is off."""
        if section is None:
            return None
        is_suspended = self.is_suspended(section)
        recorded = asdict(section)
        if is_suspended:
            recorded["reason"] = self.suspensions[-1].reason
        return AutoAcceptStatus(**recorded, suspended=is_suspended, checked=len(self.check_results))


class AcceptanceStore:
    """The state in one project's folder.

    Args:
        folder: the project's.
        read: reads a JSON file; None where there is none.
    """

    def __init__(self, folder: Path, read: Callable[[Path], Any] = read_json) -> None:
        self._file = folder / ACCEPTANCE_FILE
        self._read = read

    def read(self) -> AcceptanceState:
        """The state; an empty one where nothing was ever accepted."""
        stored = self._read(self._file) or {}
        return AcceptanceState(
            {int(task): AcceptedAnswer(**row) for task, row in (stored.get("given") or {}).items()},
            tuple(Suspension(**row) for row in stored.get("suspensions") or ()),
            int(stored.get("since", 0)),
        )

    def write(self, state: AcceptanceState) -> None:
        """Keep the state.

        Raises:
            StoreError: it cannot be written.
        """
        write_json(self._file, asdict(state))
