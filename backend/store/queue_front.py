"""The front of the queue and its thumbnails, written by the loop for the dashboard."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from backend.errors import DamagedFileError, NotFoundError
from backend.json_records import json_field
from backend.store.confirmed_labels import ConfirmedLabels
from backend.store.decision_lock import decision_lock
from backend.store.files import read_json, remove_file, stat_files, write_bytes
from backend.store.record_files import (
    ReadJson,
    has_equal_copies,
    log_once,
    read_backed_up,
    read_cache,
    write_backed_up,
    write_record,
)

QueueReason = Literal["audit", "check", "sought", "unlike", "uncertain", "typical"]
"""Reason for a task's position in the queue, as stored."""
RARE_LABEL: Final = "sought"
DIFFERENT: Final = "unlike"
MAX_THUMBNAILS = 500
"""Maximum number of stored thumbnails; the oldest that are not shown are removed first."""

UNCERTAIN_LABELED_CONSEQUENCE = "earlier labels of uncertain images are not counted"
MIN_SHOWN_UNCERTAINTY = 0.2
"""Uncertainty from which a task is described as uncertain, 0 to 1."""


@dataclass(frozen=True)
class QueuedTask:
    """A task at the front of the queue.

    Attributes:
        task: id of the task.
        reason: reason for its position. ``audit``: random task of the audit set; ``check``: random
            spot check of auto-accept; ``RARE_LABEL``: likely to show a label with few examples;
            ``DIFFERENT``: least similar to all labeled images; ``uncertain``: high uncertainty,
            also for many similar images; ``typical``: similar to many images, before the first
            training.
        uncertainty: uncertainty of the model, 0 to 1; 0 if it is not the reason.
    """

    task: int
    reason: QueueReason = json_field(key="why")
    uncertainty: float = json_field(0.0, key="unsure")

    @property
    def is_uncertain(self) -> bool:
        """Whether it comes next because the model is uncertain about its image."""
        return self.reason == "uncertain" and self.uncertainty >= MIN_SHOWN_UNCERTAINTY


@dataclass(frozen=True)
class StoredLabelError:
    """A probable label error; see ``backend.learning.label_errors``.

    Attributes:
        task: id of the task.
        given: the annotated label.
        suggested: the predicted label.
        quality: quality of the label, 0 to 1.
        why: kind of the error.
        control: name of the control; empty in files of early releases.
    """

    task: int
    given: str
    suggested: str
    quality: float
    why: str
    control: str = ""

    @property
    def identity(self) -> tuple[int, str, str, str]:
        """What is the same for a label error in every label check."""
        return self.task, self.control, self.given, self.suggested


@dataclass(frozen=True)
class StoredLabelErrors:
    """The result of the last label check.

    Attributes:
        version: the live version at that time.
        suspects: probable label errors, the most likely first.
        unchecked: sentences on the controls that could not be checked.
    """

    version: str = ""
    suspects: tuple[StoredLabelError, ...] = ()
    unchecked: tuple[str, ...] = json_field((), optional=True)


NO_LABEL_ERRORS = StoredLabelErrors()


class QueueFront:
    """The front of a project's queue.

    Args:
        folder: the project's folder.
        read: reads a JSON file; returns None if it does not exist.
    """

    def __init__(self, folder: Path, read: ReadJson = read_json) -> None:
        self._folder = folder
        self._file = folder / "queue.json"
        self._uncertain_file = folder / "labeled_from_queue.json"
        self._label_errors_file = folder / "suspects.json"
        self._thumbnails_folder = folder / "thumbnails"
        self._read = read

    def save_tasks(self, queued: Sequence[QueuedTask]) -> None:
        """Save the next tasks, in order.

        Raises:
            StoreError: it cannot be written.
        """
        write_record(self._file, queued)

    def tasks(self) -> Sequence[QueuedTask]:
        """Read the next tasks, in order; none from a damaged file."""
        return read_cache(self._file, tuple[QueuedTask, ...], (), read=self._read)

    def save_label_errors(
        self, label_errors: StoredLabelErrors, known: StoredLabelErrors = NO_LABEL_ERRORS
    ) -> Sequence[StoredLabelError]:
        """Save the result of a label check, without labels that a person decided on.

        Args:
            label_errors: the result.
            known: label errors that were stored when the check began. Those that are not stored any
                more were decided on while it ran.

        Returns:
            the saved label errors.

        Raises:
            StoreError: it cannot be written.
        """
        confirmed = ConfirmedLabels(self._folder)
        with decision_lock(self._folder):
            stored = {suspect.identity for suspect in self.label_errors().suspects}
            decided = {suspect.identity for suspect in known.suspects} - stored
            suspects = tuple(
                suspect
                for suspect in confirmed.without_confirmed(label_errors.suspects)
                if suspect.identity not in decided
            )
            write_record(self._label_errors_file, replace(label_errors, suspects=suspects))
        return suspects

    def label_errors(self) -> StoredLabelErrors:
        """Read the result of the last label check; an empty one from a damaged file."""
        file = self._label_errors_file
        return read_cache(file, StoredLabelErrors, NO_LABEL_ERRORS, read=self._read)

    def find_label_error(self, error: StoredLabelError) -> StoredLabelError:
        """Return the stored label error with the same task, control and labels.

        Raises:
            NotFoundError: it is not listed any more.
        """
        for suspect in self.label_errors().suspects:
            if suspect.identity == error.identity:
                return suspect
        raise NotFoundError(
            f"The label of task {error.task} is not listed any more: go back and reload the page."
        )

    def add_label_error(self, error: StoredLabelError) -> None:
        """List a label error again, the first of all, because a person undid the decision.

        Raises:
            StoreError: it cannot be written.
        """
        with decision_lock(self._folder):
            stored = self.label_errors()
            others = (s for s in stored.suspects if s.identity != error.identity)
            write_record(self._label_errors_file, replace(stored, suspects=(error, *others)))

    def remove_label_error(self, error: StoredLabelError) -> None:
        """Remove a label error that a person decided on.

        Raises:
            StoreError: it cannot be written.
        """
        with decision_lock(self._folder):
            stored = self.label_errors()
            suspects = tuple(s for s in stored.suspects if s.identity != error.identity)
            write_record(self._label_errors_file, replace(stored, suspects=suspects))

    def record_labeled(self, labeled: Iterable[int]) -> None:
        """Record which labeled tasks were at the front because the model was uncertain.

        Tasks labeled in another order are rarely at the front, and tasks that were imported with
        their labels never are.

        Args:
            labeled: tasks that a person labeled, of any age.

        Raises:
            StoreError: it cannot be written.
        """
        uncertain = {queued_task.task for queued_task in self.tasks() if queued_task.is_uncertain}
        with decision_lock(self._folder):
            recorded = self.uncertain_labeled()
            added = uncertain.intersection(labeled) - recorded
            if added or (recorded and not has_equal_copies(self._uncertain_file)):
                write_backed_up(self._uncertain_file, sorted(recorded | added))

    def uncertain_labeled(self) -> set[int]:
        """Read the tasks that were labeled because the model was uncertain about them.

        There are none if both copies of the file are damaged.
        """
        try:
            return set(
                read_backed_up(
                    self._uncertain_file, tuple[int, ...], advice=UNCERTAIN_LABELED_CONSEQUENCE
                )
                or ()
            )
        except DamagedFileError as error:
            log_once(str(error))
            return set()

    def thumbnail_path(self, name: str) -> Path:
        """Return the path of a thumbnail, which may not exist.

        Args:
            name: a task id or ``capture-<id>``; the caller validates names from requests.
        """
        return self._thumbnails_folder / f"{name}.jpg"

    def save_thumbnail(self, name: str, jpeg: bytes) -> None:
        """Save a thumbnail.

        Raises:
            StoreError: it cannot be written.
        """
        write_bytes(self.thumbnail_path(name), jpeg, durable=False)

    def trim_thumbnails(self, shown: Collection[str]) -> None:
        """Remove the oldest thumbnails beyond ``MAX_THUMBNAILS``.

        Args:
            shown: names of thumbnails that the dashboard shows, which are kept in any case.

        Raises:
            StoreError: one cannot be removed.
        """
        stat_pairs = stat_files(self._thumbnails_folder.glob("*.jpg"))
        excess = max(0, len(stat_pairs) - MAX_THUMBNAILS)
        removable = [pair for pair in stat_pairs if pair[1].stem not in shown]
        removable.sort(key=lambda stat_pair: stat_pair[0].st_mtime)
        for _, file in removable[:excess]:
            remove_file(file)
