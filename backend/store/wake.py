"""Requests of other processes to the server: empty files in a project's folder.

The file's name is the request. No reader meets a partial file, and a request that arrives while
the last one is consumed is a new file.
"""

from __future__ import annotations

from pathlib import Path

from backend.store.files import remove_file, write_text

WAKE_FILE, TRAIN_FILE = "wake", "wake-train"


def request_wake(folder: Path, *, train: bool = False) -> None:
    """Request a round from a running server.

    Args:
        folder: the project's folder.
        train: train, however few labels are new.

    Raises:
        StoreError: the folder cannot be written.
    """
    write_text(folder / (TRAIN_FILE if train else WAKE_FILE), "")


def consume_wake(folder: Path) -> tuple[bool, bool]:
    """Remove the pending requests; return whether there was one, and one to train.

    Raises:
        StoreError: a request cannot be removed.
    """
    train, is_woken = remove_file(folder / TRAIN_FILE), remove_file(folder / WAKE_FILE)
    return train or is_woken, train
