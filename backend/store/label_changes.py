"""The last labels that a person changed on the dashboard, so that a change can be undone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backend.errors import NotFoundError
from backend.store.decision_lock import decision_lock
from backend.store.files import read_json
from backend.store.queue_front import StoredLabelError
from backend.store.record_files import ReadJson, read_cache, write_record

LABEL_CHANGES_FILE = "label_changes.json"
MAX_LABEL_CHANGES = 10
"""Number of changes that can be undone; the oldest are removed first."""


@dataclass(frozen=True)
class LabelChange:
    """A label that was changed to the predicted one.

    Attributes:
        error: the probable label error.
        annotations: ids of the changed annotations.
    """

    error: StoredLabelError
    annotations: tuple[int, ...]


class LabelChanges:
    """The last changes of one project.

    Args:
        folder: the project's folder.
        read: reads a JSON file; returns None if it does not exist.
    """

    def __init__(self, folder: Path, read: ReadJson = read_json) -> None:
        self._folder = folder
        self._file = folder / LABEL_CHANGES_FILE
        self._read = read

    def all(self) -> tuple[LabelChange, ...]:
        """Return the changes, oldest first; none from a damaged file."""
        return read_cache(self._file, tuple[LabelChange, ...], (), read=self._read)

    def find(self, error: StoredLabelError) -> LabelChange:
        """Return the change of a label.

        Raises:
            NotFoundError: it was undone, or is too old.
        """
        for change in self.all():
            if change.error.identity == error.identity:
                return change
        raise NotFoundError(
            f"The change of task {error.task} is not listed any more: open the task."
        )

    def add(self, change: LabelChange) -> None:
        """Add a change; it replaces an earlier one of the same label.

        Raises:
            StoreError: it cannot be written.
        """
        with decision_lock(self._folder):
            changes = [*self._without(change.error), change]
            write_record(self._file, changes[-MAX_LABEL_CHANGES:])

    def remove(self, error: StoredLabelError) -> None:
        """Remove the change of a label.

        Raises:
            StoreError: it cannot be written.
        """
        with decision_lock(self._folder):
            write_record(self._file, self._without(error))

    def _without(self, error: StoredLabelError) -> list[LabelChange]:
        return [change for change in self.all() if change.error.identity != error.identity]
