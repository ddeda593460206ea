"""Check and list the output folder of an export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from backend.errors import UsageError
from backend.store.files import disk_errors, write_folder


def check_empty_folder(folder: Path) -> None:
    """Check that a folder is new or empty.

    Raises:
        UsageError: the folder contains files, or the path is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty: choose another --output.")


def write_output_folder(folder: Path, fill: Callable[[Path], None]) -> tuple[str, ...]:
    """Create a folder atomically and return the relative paths of its files, sorted.

    Args:
        folder: new or empty.
        fill: writes the contents into the folder that it is given.

    Raises:
        UsageError: the folder has files.
        StoreError: the folder cannot be written.
    """
    check_empty_folder(folder)
    with disk_errors(folder):
        if folder.exists():
            folder.rmdir()
    write_folder(folder, fill)
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return tuple(sorted(map(str, files)))
