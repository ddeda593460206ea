"""How other processes wake the server: an empty file in the project's folder.

What is wished stands in the file's name. So there is nothing to read that another process may be
writing, and a wish that comes while the last one is taken is a new file.
"""

from __future__ import annotations

from pathlib import Path

from backend.store.files import remove_file, write_text

WAKE_FILE, TRAIN_FILE = "wake", "wake-train"


def request_wake(folder: Path, *, train: bool = False) -> None:
    """Let a running server look at a project.

    Args:
        folder: the project's.
        train: and train, however few labels are new.

    Raises:
        StoreError: the folder cannot be written.
    """
    write_text(folder / (TRAIN_FILE if train else WAKE_FILE), "")


def consume_wake(folder: Path) -> tuple[bool, bool]:
    """Whether somebody asked since the last time, and whether it was to train.

    Raises:
        StoreError: the wish is there and cannot be removed.
    """
    train, is_woken = remove_file(folder / TRAIN_FILE), remove_file(folder / WAKE_FILE)
    return train or is_woken, train
