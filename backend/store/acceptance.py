"""The auto-accepted predictions of a project, their spot checks, and suspensions.

The state is stored per project, not per version, so that roll-backs do not lose it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backend.card_records import AutoAcceptSection, AutoAcceptStatus
from backend.errors import DamagedFileError
from backend.json_records import JsonObject, json_field, unknown_keys
from backend.store.record_files import log_once, read_backed_up, write_backed_up

ACCEPTANCE_FILE = "acceptance.json"
ACCEPTANCE_CONSEQUENCE = (
    "auto-accept is suspended until it is restored from a backup, or removed to start the spot "
    "checks again"
)


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
    right: bool | None = json_field(None, required=True)
    ratios: Mapping[str, float] = json_field({})
    unknown: JsonObject = unknown_keys()


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
    unknown: JsonObject = unknown_keys()


@dataclass(frozen=True)
class AcceptanceState:
    """The auto-accept state of a project.

    Attributes:
        given: accepted and held-out predictions by task id, in the order of acceptance.
        suspensions: oldest first.
        since: number of labeled tasks when the first prediction was accepted.
        problem: why the state cannot be read; nothing is accepted then. Empty otherwise.
    """

    given: Mapping[int, AcceptedAnswer] = json_field({}, required=True)
    suspensions: tuple[Suspension, ...] = json_field((), required=True)
    since: int = 0
    problem: str = json_field("", optional=True)
    unknown: JsonObject = unknown_keys()

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
        """Return whether a version is suspended.

        It is if its test used too few audit images, or if the state cannot be read.
        """
        return section is not None and (bool(self.problem) or section.audit < self.min_audit_labels)

    def describe(self, section: AutoAcceptSection | None) -> AutoAcceptStatus | None:
        """Return a card's section with suspension and spot checks; None if auto-accept is off."""
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
        """Read the state; it is empty before the first accepted prediction.

        If both copies are damaged, ``problem`` describes that, and nothing is accepted until a
        person has restored or removed them, because past suspensions are unknown.

        Raises:
            StoreError: the files cannot be read for another reason.
        """
        try:
            return (
                read_backed_up(self._file, AcceptanceState, advice=ACCEPTANCE_CONSEQUENCE)
                or AcceptanceState()
            )
        except DamagedFileError as error:
            log_once(str(error))
            return AcceptanceState(problem=str(error))

    def write(self, state: AcceptanceState) -> None:
        """Save the state.

        Raises:
            StoreError: it cannot be written.
        """
        write_backed_up(self._file, state)
