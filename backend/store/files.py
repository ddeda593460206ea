"""Atomic file writes and file locks, for all other modules."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from backend.errors import DamagedFileError, PrelabelError, StoreError

FileSignature = tuple[int, int, int] | None
"""Modification time in ns, size, and inode; None if there is no file."""
TEMPORARY_FILE_PATTERN = re.compile(r"\..+[.-][0-9a-f]{8}|\.[0-9a-f]{8}-.+\.json")
TEMPORARY_FOLDER_PATTERN = re.compile(r"\.making-.+-[0-9a-f]{8}")
TEMPORARY_FILE_SECONDS = 3600.0
"""Age from which a temporary file has no writer any more; a write takes seconds."""


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Convert an ``OSError`` about ``path`` into a :class:`StoreError` that says what to do."""
    try:
        yield
    except OSError as error:
        raise StoreError(_error_message(error, path)) from error


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Write a text file; see :func:`write_bytes`."""
    write_bytes(path, text.encode("utf-8"), private=private)


def write_bytes(path: Path, content: bytes, *, private: bool = False, durable: bool = True) -> None:
    """Write a file atomically: readers see the old or the new content, never a part.

    Args:
        path: the file; missing parent folders are created.
        content: the complete content.
        private: make it readable by its owner only.
        durable: flush it to disk (fsync), so that it survives a power failure.

    Raises:
        StoreError: the disk is full, or the folder cannot be written.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        mode = 0o600 if private else 0o644
        try:
            temporary.touch(mode=mode, exist_ok=False)
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any, *, private: bool = False) -> None:
    """Write a value as JSON; see :func:`write_text`."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n", private=private)


def read_text(path: Path) -> str | None:
    """Read a UTF-8 text file; None if it does not exist.

    Raises:
        StoreError: it cannot be read.
        UnicodeDecodeError: it is not UTF-8.
    """
    with disk_errors(path):
        try:
            return path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None


def read_json(path: Path) -> Any:
    """Read a JSON file; None if it does not exist.

    Raises:
        DamagedFileError: it is not JSON.
        StoreError: it cannot be read.
    """
    try:
        text = read_text(path)
        if text is None:
            return None
        value = json.loads(text)
        if "\\ud" in text.lower():  # half of a surrogate pair could not be written again
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path} is damaged ({error}): delete it to start over.") from error


def remove_file(path: Path) -> bool:
    """Remove a file, and return whether it existed.

    Raises:
        StoreError: it cannot be removed.
    """
    with disk_errors(path):
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


def file_signature(path: Path) -> FileSignature:
    """Return what changes when a file is replaced; None if it does not exist."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def stat_files(files: Iterable[Path]) -> list[tuple[os.stat_result, Path]]:
    """Return the files that exist, each with its ``stat``."""
    stat_pairs = []
    for file in files:
        with contextlib.suppress(FileNotFoundError):  # another process removed or renamed it
            stat_pairs.append((file.stat(), file))
    return stat_pairs


def append_line(path: Path, text: str) -> None:
    """Append a line to a log file; a last line that a crash cut off is ended first.

    Raises:
        StoreError: the disk is full, or the folder cannot be written.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                text = text if file.read(1) == b"\n" else "\n" + text
            file.write(f"{text}\n".encode())
            file.flush()
            os.fsync(file.fileno())


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Create a folder atomically, by filling a temporary one and renaming it.

    Args:
        path: the new folder; an existing one is left unchanged.
        fill: writes the contents into the temporary folder.

    Raises:
        StoreError: the disk is full, or the folder cannot be written; no partial folder remains.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".making-{path.name}-{secrets.token_hex(4)}"
        temporary.mkdir()
        try:
            fill(temporary)
            _fsync_folder(temporary)
            if not path.exists():
                temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def exclusive_lock(
    file: Path, busy_error: PrelabelError, timeout_seconds: float, *, reentrant: bool = False
) -> Iterator[None]:
    """Hold a lock across threads and processes; it is also released if the process is killed.

    Args:
        file: lock file; missing parent folders are created.
        busy_error: raised if the lock is not acquired in time.
        timeout_seconds: maximum time to wait.
        reentrant: a thread that holds the lock may acquire it again.

    Raises:
        PrelabelError: ``busy_error``.
        StoreError: the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    with disk_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file, timeout=timeout_seconds, is_singleton=reentrant)
        try:
            lock.acquire()
        except Timeout as error:
            raise busy_error from error
    try:
        yield
    finally:
        lock.release()


def remove_leftovers(folder: Path) -> None:
    """Remove partial folders of killed processes; the caller holds the folder's lock."""
    for leftover in folder.glob(".making-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def sweep_temporary_files(root: Path, min_age_seconds: float = TEMPORARY_FILE_SECONDS) -> int:
    """Remove the temporary files and folders that killed processes left, and return their number.

    Recent ones are kept, because another process may still write them.

    Args:
        root: folder that is searched with all its subfolders.
        min_age_seconds: time since they were last written.
    """
    cutoff, removed = time.time() - min_age_seconds, 0
    for folder, folder_names, file_names in os.walk(root):
        for name in [name for name in folder_names if TEMPORARY_FOLDER_PATTERN.fullmatch(name)]:
            folder_names.remove(name)
            temporary = Path(folder, name)
            if _last_written(temporary) < cutoff:
                shutil.rmtree(temporary, ignore_errors=True)
                removed += 1
        for name in filter(TEMPORARY_FILE_PATTERN.fullmatch, file_names):
            with contextlib.suppress(OSError):
                temporary = Path(folder, name)
                if temporary.lstat().st_mtime < cutoff:
                    temporary.unlink()
                    removed += 1
    return removed


def _last_written(folder: Path) -> float:
    """Return when a folder or a file in it was last written, seconds since 1970."""
    stat_pairs = stat_files([folder, *folder.rglob("*")])
    return max((stat.st_mtime for stat, _ in stat_pairs), default=0.0)


def check_writable(folder: Path) -> None:
    """Create a folder if it is missing, and check that it is writable.

    Raises:
        StoreError: it is not writable.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()


def _fsync_folder(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())


def _error_message(error: OSError, path: Path) -> str:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"The disk that holds {path} is full: free some space; nothing was lost."
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"{path} cannot be written: set PRELABEL_HOME to a folder of your own."
        case errno.ENOTDIR | errno.EEXIST:
            return f"A file blocks the folder {path}: set PRELABEL_HOME to another path."
    return f"{path} cannot be used ({error.strerror or error}): set PRELABEL_HOME to another path."
