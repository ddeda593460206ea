"""The address of the Data Manager tab in the order of the queue; the loop writes it for pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from backend.store.files import read_json, write_json

LABEL_TAB_FILE = "label_tab.json"


def save_labeling_path(folder: Path, path: str) -> None:
    """Save where people label, below the project's address in Label Studio.

    Raises:
        StoreError: it cannot be written.
    """
    write_json(folder / LABEL_TAB_FILE, {"path": path})


def read_labeling_path(folder: Path, read: Callable[[Path], Any] = read_json) -> str:
    """Return the saved path, such as ``data?tab=12&labeling=1``; empty before the first round.

    Args:
        folder: the project's folder.
        read: reads a JSON file; None when it does not exist.
    """
    return str((read(folder / LABEL_TAB_FILE) or {}).get("path", ""))
