"""Check and list the output folder of an export."""

from __future__ import annotations

from pathlib import Path

from backend.errors import UsageError


def check_empty_folder(folder: Path) -> None:
    """Check that a folder is new or empty.

    Raises:
        UsageError: the folder contains files, or the path is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty: choose another --output.")


def list_written_files(folder: Path) -> tuple[str, ...]:
    """Return the relative paths of all files below a folder, sorted."""
    return tuple(
        sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    )
