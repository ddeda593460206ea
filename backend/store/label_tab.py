"""The address of the Data Manager tab in the order of the queue; the loop writes it for pages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backend.store.files import read_json
from backend.store.record_files import ReadJson, read_cache, write_record

LABEL_TAB_FILE = "label_tab.json"


@dataclass(frozen=True)
class StoredLabelTab:
    """Address of the Data Manager tab that people label from.

    Attributes:
        path: path below the project's address in Label Studio; empty if unknown.
    """

    path: str = ""


def save_labeling_path(folder: Path, path: str) -> None:
    """Save where people label, below the project's address in Label Studio.

    Raises:
        StoreError: it cannot be written.
    """
    write_record(folder / LABEL_TAB_FILE, StoredLabelTab(path))


def read_labeling_path(folder: Path, read: ReadJson = read_json) -> str:
    """Return the saved path, such as ``data?tab=12&labeling=1``.

    It is empty before the first round, and after the file was damaged until the next round.

    Args:
        folder: the project's folder.
        read: reads a JSON file; returns None if it does not exist.
    """
    return read_cache(folder / LABEL_TAB_FILE, StoredLabelTab, StoredLabelTab(), read=read).path
