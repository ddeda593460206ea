"""A few labeled tasks of each label, written by the loop for the dashboard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from backend.json_records import json_field
from backend.store.files import read_json
from backend.store.record_files import ReadJson, read_cache, write_record

LABEL_EXAMPLES_FILE = "label_examples.json"


@dataclass(frozen=True)
class LabelExample:
    """A labeled task.

    Attributes:
        task: id of the task.
        regions: corners x0 y0 x1 y1 of each box or point of the label, 0 to 1.
    """

    task: int
    regions: tuple[tuple[float, ...], ...] = json_field((), optional=True)


@dataclass(frozen=True)
class LabelExamples:
    """Labeled tasks by control and label."""

    controls: Mapping[str, Mapping[str, tuple[LabelExample, ...]]] = field(default_factory=dict)

    def of_label(self, control: str, label: str) -> tuple[LabelExample, ...]:
        """Return the tasks of a label; there may be none."""
        return self.controls.get(control, {}).get(label, ())

    def tasks(self) -> list[int]:
        """Return the ids of all tasks; a task may be repeated."""
        return [
            example.task
            for labels in self.controls.values()
            for examples in labels.values()
            for example in examples
        ]


def save_label_examples(examples: LabelExamples, folder: Path) -> None:
    """Save the examples of a project.

    Raises:
        StoreError: they cannot be written.
    """
    write_record(folder / LABEL_EXAMPLES_FILE, examples)


def load_label_examples(folder: Path, read: ReadJson = read_json) -> LabelExamples:
    """Load the examples of a project; none from a damaged file."""
    file = folder / LABEL_EXAMPLES_FILE
    return read_cache(file, LabelExamples, LabelExamples(), check=_check_corners, read=read)


def _check_corners(examples: LabelExamples) -> None:
    for labels in examples.controls.values():
        for rows in labels.values():
            if any(len(corners) != 4 for row in rows for corners in row.regions):
                raise TypeError("a region does not have four corners")
