"""What people decided about labels that annotations use and the labeling config lacks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backend.json_records import JsonObject, json_field, unknown_keys
from backend.store.decision_lock import decision_lock
from backend.store.files import read_json
from backend.store.record_files import ReadJson, read_cache, write_record

LABEL_ANSWERS_FILE = "label_answers.json"


@dataclass(frozen=True)
class LabelAnswer:
    """A decision about one label.

    Attributes:
        control: name of the control.
        label: the label.
        new: the label that its annotations get; empty to leave them out.
        keeps_old: the config has the old label until its annotations have the new one.
    """

    control: str
    label: str
    new: str = ""
    keeps_old: bool = json_field(False, optional=True)
    unknown: JsonObject = unknown_keys()

    def is_about(self, control: str, label: str) -> bool:
        """Return whether it is about this label of this control."""
        return (self.control, self.label) == (control, label)


@dataclass(frozen=True)
class LabelAnswers:
    """All decisions of a project, oldest first."""

    answers: tuple[LabelAnswer, ...] = json_field((), required=True)
    unknown: JsonObject = unknown_keys()


def read_label_answers(folder: Path, read: ReadJson = read_json) -> tuple[LabelAnswer, ...]:
    """Return the decisions of a project; after damage to the file none, and people are asked again.

    Args:
        folder: the project's folder.
        read: reads a JSON file; returns None if it does not exist.
    """
    return read_cache(folder / LABEL_ANSWERS_FILE, LabelAnswers, LabelAnswers(), read=read).answers


def save_label_answer(folder: Path, answer: LabelAnswer) -> None:
    """Save a decision; it replaces an earlier one about the same label.

    Raises:
        StoreError: it cannot be written.
    """
    with decision_lock(folder):
        answers = read_label_answers(folder)
        others = (a for a in answers if not a.is_about(answer.control, answer.label))
        _write(folder, (*others, answer))


def remove_label_answer(folder: Path, control: str, label: str, new: str | None = None) -> None:
    """Remove the decision about a label, if there is one.

    Args:
        folder: the project's folder.
        control: name of the control.
        label: the label.
        new: only remove the decision for this new label; None for any.

    Raises:
        StoreError: it cannot be written.
    """
    with decision_lock(folder):
        answers = read_label_answers(folder)
        others = tuple(
            a for a in answers if not a.is_about(control, label) or new not in (None, a.new)
        )
        if others != answers:
            _write(folder, others)


def _write(folder: Path, answers: tuple[LabelAnswer, ...]) -> None:
    write_record(folder / LABEL_ANSWERS_FILE, LabelAnswers(answers))
