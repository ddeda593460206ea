"""The formats of an export, and which of them hold the labels of a project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backend.domain import Control
from backend.errors import ConfigError
from backend.tools.dataset.class_folders import ClassFolderWriter
from backend.tools.dataset.coco import CocoWriter
from backend.tools.dataset.tables import TableWriter
from backend.tools.dataset.writer import DatasetWriter
from backend.tools.dataset.yolo import YoloWriter

WRITERS: Mapping[str, type[DatasetWriter]] = {
    "coco": CocoWriter,
    "yolo": YoloWriter,
    "csv": TableWriter,
    "folders": ClassFolderWriter,
}


def make_writer(format_name: str, controls: Sequence[Control]) -> DatasetWriter:
    """Return the writer of a format for the controls that it holds.

    Args:
        format_name: a key of ``WRITERS``.
        controls: controls of the project.

    Raises:
        ConfigError: it holds none of them; the message lists the formats that do.
    """
    writer_class = WRITERS[format_name]
    held = [control for control in controls if writer_class.holds(control)]
    if held:
        return writer_class(held)
    fitting = [name for name, writer in WRITERS.items() if any(map(writer.holds, controls))]
    advice = (
        f"use --data {' or --data '.join(fitting)}"
        if fitting
        else "Prelabel uses none of its controls; the page Export in Label Studio has other formats"
    )
    raise ConfigError(
        f"{writer_class.title} holds {writer_class.content}, and the labeling config has none: "
        f"{advice}."
    )
