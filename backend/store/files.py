"""Files that are whole or not there: the one owner of writing to disk."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from backend.errors import PrelabelError, StoreError


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an operating system's error about ``path`` into one sentence.

    Raises:
        StoreError: whatever was done inside failed for a reason of the disk.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(_error_message(error, path)) from error


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Write a text file; see :func:`write_bytes`."""
    write_bytes(path, text.encode("utf-8"), private=private)


def write_bytes(path: Path, content: bytes, *, private: bool = False, durable: bool = True) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part.

    Args:
        path: where; its folder is made when missing.
        content: what.
        private: readable by the owner alone, for tokens.
        durable: it must outlive a power failure; what can be made again need not.

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


def read_json(path: Path) -> Any:
    """The value in a JSON file, None where there is no such file.

    Raises:
        StoreError: the file is there and cannot be read or is no JSON.
    """
    try:
        with disk_errors(path):
            return json.loads(path.read_text(encoding="utf-8"))
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            return None
        raise
    except ValueError as error:
        raise StoreError(f"{path} is damaged ({error}); delete it to start anew.") from error


def remove_file(path: Path) -> bool:
    """Remove a file; whether there was one.

    Raises:
        StoreError: it is there and cannot be removed.
    """
    with disk_errors(path):
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


def stat_files(files: Iterable[Path]) -> list[tuple[os.stat_result, Path]]:
    """Files with what the system tells of them; without those that went away meanwhile."""
    stat_pairs = []
    for file in files:
        with contextlib.suppress(FileNotFoundError):  # another process removed or renamed it
            stat_pairs.append((file.stat(), file))
    return stat_pairs


def append_line(path: Path, text: str) -> None:
    """Add one line to a file that only grows; a line that a crash cut off stays one of its own.

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
    """Make a folder that appears whole, by filling a temporary one and renaming it.

    Args:
        path: where the folder shall appear; when it is there already it stays as it is.
        fill: writes the contents into the folder it is given.

    Raises:
        StoreError: the disk is full, or the folder cannot be written; nothing is left behind.
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
    """Hold a lock across threads and processes; it is released however a process ends.

    Args:
        file: lock file; its folder is created when missing.
        busy_error: raised when another process holds the lock for too long.
        timeout_seconds: how long to wait.
        reentrant: a thread that holds the lock may take it again.

    Raises:
        PrelabelError: ``busy_error``, or the folder cannot be written.
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
    """Remove what a killed process left half made in a folder. Call it under the folder's lock."""
    for leftover in folder.glob(".making-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def check_writable(folder: Path) -> None:
    """Make sure that a folder exists and can be written to.

    Raises:
        StoreError: it cannot.
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
            return f"{path} is in the way of a folder: set PRELABEL_HOME to another place."
    return f"{path} cannot be used ({error.strerror or error}): set PRELABEL_HOME elsewhere."
