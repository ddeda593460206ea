"""The auto-accepted answers of a project, their spot checks, and suspensions.

The file belongs to the project, so that it survives roll-backs and held versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backend.errors import DamagedFileError
from backend.json_records import JsonObject, json_field, unknown_keys
from backend.records import AutoAcceptSection, AutoAcceptStatus
from backend.store.record_files import log_once, read_backed_up, write_backed_up

ACCEPTANCE_FILE = "acceptance.json"
FIX = (
    "auto-accept is suspended until it is restored from a backup, or removed to start the spot "
    "checks anew"
)


@dataclass(frozen=True)
class AcceptedAnswer:
    """An accepted answer, or one that is held out for a spot check.

    Attributes:
        version: the first version that would accept it.
        answer: labels by control, in the form of :data:`backend.store.versions.LabelSnapshot`.
        to_people: the task is left for people, as a spot check.
        era: number of suspensions before it.
        right: whether a person gave the same answer; None before that.
        ratios: width divided by height of the image, by control of boxes or points.
    """

    version: str
    answer: Mapping[str, list[Any]]
    to_people: bool
    era: int
    right: bool | None = json_field(None, required=True)
    ratios: Mapping[str, float] = json_field({})
    unknown: JsonObject = unknown_keys()


@dataclass(frozen=True)
class Suspension:
    """A suspension of auto-accept, because too many answers were wrong.

    Attributes:
        at: UTC, ISO 8601.
        reason: explanation in a sentence.
        until: labeled audit images that a version's test needs to end the suspension.
    """

    at: str
    reason: str
    until: int
    unknown: JsonObject = unknown_keys()


@dataclass(frozen=True)
class AcceptanceState:
    """The auto-accept state of a project.

    Attributes:
        given: accepted answers by task id, in the order of acceptance.
        suspensions: oldest first.
        since: number of labels when the first answer was accepted.
        problem: why the state cannot be read; nothing is accepted then. Empty otherwise.
    """

    given: Mapping[int, AcceptedAnswer] = json_field({}, required=True)
    suspensions: tuple[Suspension, ...] = json_field((), required=True)
    since: int = 0
    problem: str = json_field("", optional=True)
    unknown: JsonObject = unknown_keys()

    @property
    def min_audit_labels(self) -> int:
        """Labeled audit images that a version's test needs after the last suspension."""
        return self.suspensions[-1].until if self.suspensions else 0

    @property
    def check_results(self) -> list[bool]:
        """Results of the spot checks since the last suspension, in the order of acceptance."""
        current_era = len(self.suspensions)
        return [
            answer.right
            for answer in self.given.values()
            if answer.era == current_era and answer.right is not None
        ]

    def is_suspended(self, section: AutoAcceptSection | None) -> bool:
        """Return whether a version may not accept because its test predates the suspension."""
        return section is not None and (bool(self.problem) or section.audit < self.min_audit_labels)

    def describe(self, section: AutoAcceptSection | None) -> AutoAcceptStatus | None:
        """Add the results of spot checks to a card's section; None where auto-accept is off."""
        if section is None:
            return None
        is_suspended = self.is_suspended(section)
        recorded = asdict(section)
        if is_suspended:
            recorded["reason"] = self.problem or self.suspensions[-1].reason
        return AutoAcceptStatus(**recorded, suspended=is_suspended, checked=len(self.check_results))


class AcceptanceStore:
    """Stores the auto-accept state in a project's folder.

    Args:
        folder: the project's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / ACCEPTANCE_FILE

    def read(self) -> AcceptanceState:
        """Read the state; an empty one before the first accepted answer.

        When both copies are damaged, ``problem`` says so, and nothing is accepted until a person
        has restored or removed them: past suspensions are unknown.

        Raises:
            StoreError: the files cannot be read for another reason.
        """
        try:
            return read_backed_up(self._file, AcceptanceState, fix=FIX) or AcceptanceState()
        except DamagedFileError as error:
            log_once(str(error))
            return AcceptanceState(problem=str(error))

    def write(self, state: AcceptanceState) -> None:
        """Save the state.

        Raises:
            StoreError: it cannot be written.
        """
        write_backed_up(self._file, state)
