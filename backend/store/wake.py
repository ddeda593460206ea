"""Requests from other processes to the server, as empty files in a project's folder.

The name of the file is the request. An empty file is never read half-written, and a request that
arrives while an earlier one is consumed creates the file again, so it is not lost.
"""

from __future__ import annotations

from pathlib import Path

from backend.store.files import remove_file, write_text

WAKE_FILE, TRAIN_FILE = "wake", "wake-train"


def request_wake(folder: Path, *, train: bool = False) -> None:
    """Request a round from a running server.

    Args:
        folder: the project's folder.
        train: train, regardless of the number of new labels.

    Raises:
        StoreError: the folder cannot be written.
    """
    write_text(folder / (TRAIN_FILE if train else WAKE_FILE), "")


def consume_wake(folder: Path) -> tuple[bool, bool]:
    """Remove pending requests; return whether there was any, and whether one was to train.

    Raises:
        StoreError: a request cannot be removed.
    """
    train, is_woken = remove_file(folder / TRAIN_FILE), remove_file(folder / WAKE_FILE)
    return train or is_woken, train
