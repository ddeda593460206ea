"""Labels that a person confirmed, so that they are not listed as probable errors again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from backend.errors import DamagedFileError
from backend.store.decision_lock import decision_lock
from backend.store.record_files import log_once, read_backed_up, write_backed_up

CONFIRMED_LABELS_FILE = "confirmed_labels.json"
MAX_CONFIRMED_LABELS = 10_000
"""Maximum number of stored labels; the oldest are removed first."""
CONFIRMED_LABELS_CONSEQUENCE = "confirmed labels are listed again"


@dataclass(frozen=True)
class ConfirmedLabel:
    """A label that is right; another label of the same task may be listed.

    Attributes:
        task: id of the task.
        control: name of the control.
        given: the annotated label as text.
    """

    task: int
    control: str
    given: str


class LabelErrorLike(Protocol):
    """A probable label error, stored or just found."""

    @property
    def task(self) -> int:
        """Id of the task."""
        ...

    @property
    def control(self) -> str:
        """Name of the control."""
        ...

    @property
    def given(self) -> str:
        """The annotated label as text."""
        ...


ErrorT = TypeVar("ErrorT", bound=LabelErrorLike)


class ConfirmedLabels:
    """The confirmed labels of one project.

    Args:
        folder: the project's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / CONFIRMED_LABELS_FILE

    def add(self, error: LabelErrorLike) -> None:
        """Confirm the label of a probable label error.

        Raises:
            StoreError: it cannot be written.
        """
        label = ConfirmedLabel(error.task, error.control, error.given)
        with decision_lock(self._folder):
            known = [confirmed for confirmed in self._read() if confirmed != label]
            write_backed_up(self._file, [*known, label][-MAX_CONFIRMED_LABELS:])

    def without_confirmed(self, errors: Iterable[ErrorT]) -> list[ErrorT]:
        """Return the probable label errors whose label nobody confirmed."""
        confirmed = set(self._read())
        return [
            error
            for error in errors
            if ConfirmedLabel(error.task, error.control, error.given) not in confirmed
        ]

    def _read(self) -> tuple[ConfirmedLabel, ...]:
        try:
            return (
                read_backed_up(
                    self._file, tuple[ConfirmedLabel, ...], advice=CONFIRMED_LABELS_CONSEQUENCE
                )
                or ()
            )
        except DamagedFileError as error:
            log_once(str(error))
            return ()
