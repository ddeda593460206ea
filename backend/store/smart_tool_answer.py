"""Why the last use of a smart tool suggested nothing, because Label Studio does not show it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backend.store.files import read_json, remove_file
from backend.store.record_files import ReadJson, read_cache, write_record

ANSWER_FILE = "smart-tool.json"


@dataclass(frozen=True)
class EmptyAnswer:
    """An answer of a smart tool without a suggestion.

    Attributes:
        task: id of the task.
        reason: why nothing was suggested, a sentence; "" if the last answer had suggestions.
    """

    task: int = 0
    reason: str = ""


SUGGESTED = EmptyAnswer()


def save_answer(folder: Path, task: int, reason: str) -> None:
    """Save why a smart tool suggested nothing; "" after an answer with suggestions.

    Args:
        folder: the project's folder.
        task: id of the task.
        reason: see :class:`EmptyAnswer`.

    Raises:
        StoreError: it cannot be written.
    """
    answer = EmptyAnswer(task, reason) if reason else SUGGESTED
    if answer == load_answer(folder):  # most answers have suggestions, as the one before
        return
    if reason:
        write_record(folder / ANSWER_FILE, answer)
    else:
        remove_file(folder / ANSWER_FILE)


def load_answer(folder: Path, read: ReadJson = read_json) -> EmptyAnswer:
    """Return why the last use of a smart tool suggested nothing; ``SUGGESTED`` otherwise."""
    return read_cache(folder / ANSWER_FILE, EmptyAnswer, SUGGESTED, read=read)
