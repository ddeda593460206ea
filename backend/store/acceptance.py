"""The auto-accepted predictions of a project, their spot checks, and suspensions.

The state is stored per project, not per version, so that roll-backs do not lose it.
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
    """A prediction that was accepted, or that is held out for a spot check.

    Attributes:
        version: the version that predicted it.
        answer: labels by control, in the format of :data:`backend.store.versions.LabelSnapshot`.
        to_people: it is a spot check: the task stays open for people.
        era: number of suspensions before it.
        right: whether a person's annotation agrees; None while there is none.
        ratios: image width divided by height, by box or point control.
    """

    version: str
    answer: Mapping[str, list[Any]]
    to_people: bool
    era: int
    right: bool | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Suspension:
    """A suspension of auto-accept after spot checks found too many errors.

    Attributes:
        at: UTC, ISO 8601.
        reason: explanation for people.
        until: number of labeled audit images that a version's test needs to end it.
    """

    at: str
    reason: str
    until: int


@dataclass(frozen=True)
class AcceptanceState:
    """The auto-accept state of a project.

    Attributes:
        given: accepted and held-out predictions by task id, in the order of acceptance.
        suspensions: oldest first.
        since: number of labeled tasks when the first prediction was accepted.
    """

    given: Mapping[int, AcceptedAnswer] = field(default_factory=dict)
    suspensions: tuple[Suspension, ...] = ()
    since: int = 0

    @property
    def min_audit_labels(self) -> int:
        """Number of labeled audit images that a test needs since the last suspension."""
        return self.suspensions[-1].until if self.suspensions else 0

    @property
    def check_results(self) -> list[bool]:
        """Whether people agreed, for each spot check since the last suspension, in order."""
        current_era = len(self.suspensions)
        return [
            answer.right
            for answer in self.given.values()
            if answer.era == current_era and answer.right is not None
        ]

    def is_suspended(self, section: AutoAcceptSection | None) -> bool:
        """Return whether a version is suspended because its test used too few audit images."""
        return section is not None and section.audit < self.min_audit_labels

    def describe(self, section: AutoAcceptSection | None) -> AutoAcceptStatus | None:
        """Return a card's section with suspension and spot checks; None if auto-accept is off."""
        if section is None:
            return None
        is_suspended = self.is_suspended(section)
        recorded = asdict(section)
        if is_suspended:
            recorded["reason"] = self.suspensions[-1].reason
        return AutoAcceptStatus(**recorded, suspended=is_suspended, checked=len(self.check_results))


class AcceptanceStore:
    """Stores the auto-accept state in a project's folder.

    Args:
        folder: the project's folder.
        read: reads a JSON file; returns None if it does not exist.
    """

    def __init__(self, folder: Path, read: Callable[[Path], Any] = read_json) -> None:
        self._file = folder / ACCEPTANCE_FILE
        self._read = read

    def read(self) -> AcceptanceState:
        """Read the state; it is empty before the first accepted prediction."""
        stored = self._read(self._file) or {}
        return AcceptanceState(
            {int(task): AcceptedAnswer(**row) for task, row in (stored.get("given") or {}).items()},
            tuple(Suspension(**row) for row in stored.get("suspensions") or ()),
            int(stored.get("since", 0)),
        )

    def write(self, state: AcceptanceState) -> None:
        """Save the state.

        Raises:
            StoreError: it cannot be written.
        """
        write_json(self._file, asdict(state))
