"""The Data Manager tab in the order of the queue, written by the loop and read by the dashboard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from backend.store.files import read_json, write_json

LABEL_TAB_FILE = "label_tab.json"


def save_label_tab(folder: Path, tab: int) -> None:
    """Save the id of the tab in a project's folder.

    Raises:
        StoreError: it cannot be written.
    """
    if read_label_tab(folder) != tab:
        write_json(folder / LABEL_TAB_FILE, {"tab": tab})


def read_label_tab(folder: Path, read: Callable[[Path], Any] = read_json) -> int:
    """Return the id of the tab; 0 before the first round.

    Args:
        folder: the project's folder.
        read: reads a JSON file; None when it does not exist.
    """
    return int((read(folder / LABEL_TAB_FILE) or {}).get("tab", 0))


def labeling_url(project_url: str, tab: int) -> str:
    """Return the address at which Label Studio serves one task after the other from a tab.

    Without a tab the order is that of the Data Manager's first one, not that of the queue.

    Example:
        >>> labeling_url("http://localhost:8080/projects/3", 12)
        'http://localhost:8080/projects/3/data?tab=12&labeling=1'
    """
    return f"{project_url}/data?tab={tab}&labeling=1" if tab else f"{project_url}/data?labeling=1"
