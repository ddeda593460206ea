"""Read and write the JSON files of the home folder, and survive damaged ones.

There are three policies:

- :func:`read_record` raises one sentence, for what cannot be rebuilt and has another fallback.
- :func:`read_backed_up` falls back to the second copy that :func:`write_backed_up` keeps, for what
  cannot be rebuilt at all.
- :func:`read_cache` sets the file aside and continues with a default, for what is rebuilt.

Files of records have a format number. An older format is migrated while it is read; a newer one is
read as far as possible, and its number and unknown keys are written again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from backend.errors import DamagedFileError
from backend.json_records import JsonObject, from_json, to_json, value_from_json
from backend.store.files import file_signature, read_json, write_json

log = logging.getLogger("prelabel")
ValueT = TypeVar("ValueT")
ReadJson = Callable[[Path], Any]
"""Reads a JSON file; returns None if it does not exist."""
Migration = Callable[[JsonObject], JsonObject]
FORMAT_KEY = "format"
MIGRATIONS: Mapping[str, Sequence[Migration]] = {}
"""By name of the record: what turns format 1 into 2, 2 into 3, and so on.

Files of the first releases have no number. They are read like format 1.
"""
DEFAULT_ADVICE = "delete it to start over"
BACKUP_SUFFIX, DAMAGED_SUFFIX = ".backup", ".damaged"
_logged_messages: set[str] = set()
_log_lock = threading.Lock()


def accept_any(value: object) -> None:
    """Default check: every value of the right type is valid."""


def read_record(
    path: Path,
    hint: type[ValueT],
    *,
    advice: str = DEFAULT_ADVICE,
    check: Callable[[ValueT], None] = accept_any,
    read: ReadJson = read_json,
) -> ValueT | None:
    """Read a record, or another value of a type hint; None if the file does not exist.

    Args:
        path: the file.
        hint: see :func:`backend.json_records.value_from_json`.
        advice: end of the message about a damaged file: what a person can do, or what follows.
        check: raises a ``TypeError`` for a value that no release writes.
        read: reads a JSON file; returns None if it does not exist.

    Raises:
        DamagedFileError: it is damaged, or of a newer release and unreadable.
        StoreError: it cannot be read.
    """
    try:
        row = read(path)
    except DamagedFileError as error:
        raise damaged_file_error(path, error.__cause__ or error, advice) from error.__cause__
    if row is None and not path.exists():
        return None
    try:
        value: ValueT = _decode(hint, row)
        check(value)
    except TypeError as error:
        file_format = row.get(FORMAT_KEY) if isinstance(row, dict) else None
        if isinstance(file_format, int) and file_format > _format_number(hint):
            raise DamagedFileError(
                f"{path} was written by a newer Prelabel (format {file_format}) and cannot be read "
                f"({error}): update Prelabel."
            ) from error
        raise damaged_file_error(path, error, advice) from error
    return value


def write_record(path: Path, value: Any, *, private: bool = False) -> None:
    """Write a record with its format number, or another value, atomically.

    Raises:
        StoreError: it cannot be written.
    """
    write_json(path, _encode(value), private=private)


def read_backed_up(
    path: Path,
    hint: type[ValueT],
    *,
    advice: str = DEFAULT_ADVICE,
    check: Callable[[ValueT], None] = accept_any,
) -> ValueT | None:
    """Read a value that :func:`write_backed_up` wrote; None if neither copy exists.

    See :func:`read_record` for the arguments.

    Raises:
        DamagedFileError: both copies are damaged, or one is and the other does not exist.
        StoreError: they cannot be read.
    """
    problems: list[DamagedFileError] = []
    for copy in (path, backup_path(path)):
        try:
            value = read_record(copy, hint, advice=advice, check=check)
        except DamagedFileError as error:
            problems.append(error)
            continue
        if value is not None:
            if copy != path:
                reason = problems[0] if problems else f"{path} is missing."
                log_once(f"{reason} Its second copy is used: {copy.name}.")
            return value
    if problems:
        raise problems[0]
    return None


def write_backed_up(path: Path, value: Any, *, private: bool = False) -> None:
    """Write a value twice, so that damage to one copy loses nothing.

    The second copy is written first. After a crash it is the newer one, so a change that was made
    for safety, such as a revoked key, is never undone by falling back to it.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        read_record(path, type(value) if is_dataclass(value) else Any)
    except DamagedFileError as error:
        set_aside(path, str(error.__cause__ or error))
    write_record(backup_path(path), value, private=private)
    write_record(path, value, private=private)


def has_equal_copies(path: Path) -> bool:
    """Return whether a file and its second copy exist and are equal."""
    try:
        return path.read_bytes() == backup_path(path).read_bytes()
    except OSError:
        return False


def read_cache(
    path: Path,
    hint: type[ValueT],
    default: ValueT,
    *,
    check: Callable[[ValueT], None] = accept_any,
    read: ReadJson = read_json,
) -> ValueT:
    """Read a file that is rebuilt when it is lost.

    A damaged file is set aside and logged once.

    Raises:
        StoreError: the file cannot be read for another reason, such as its permissions.
    """
    signature = file_signature(path)
    try:
        value = read_record(path, hint, check=check, read=read)
    except DamagedFileError as error:
        if file_signature(path) == signature:  # no other process has replaced it meanwhile
            set_aside(path, str(error.__cause__ or error))
        return default
    return default if value is None else value


def set_aside(path: Path, reason: str) -> None:
    """Rename a damaged file to ``<name>.damaged``, replacing an earlier one, and log it once."""
    aside = path.with_name(path.name + DAMAGED_SUFFIX)
    with contextlib.suppress(OSError):  # a read-only home, or another process was faster
        path.replace(aside)
    log_once(f"{path} is damaged ({reason}). It is set aside as {aside.name} and made again.")


def backup_path(path: Path) -> Path:
    """Return the path of a file's second copy."""
    return path.with_name(path.name + BACKUP_SUFFIX)


def damaged_file_error(path: Path, reason: BaseException | str, advice: str) -> DamagedFileError:
    """Build the error for a damaged file, in one sentence."""
    return DamagedFileError(f"{path} is damaged ({reason}): {advice}.")


def log_once(message: str) -> None:
    """Log a warning, unless this process logged the same one before."""
    with _log_lock:
        is_new = message not in _logged_messages
        _logged_messages.add(message)
    if is_new:
        log.warning("%s", message)


def _format_number(hint: Any) -> int:
    return 1 + len(MIGRATIONS.get(getattr(hint, "__name__", ""), ()))


def _encode(value: Any) -> Any:
    if is_dataclass(value):
        return {FORMAT_KEY: _format_number(type(value)), **to_json(value)}
    if isinstance(value, list | tuple):
        return [to_json(one) if is_dataclass(one) else one for one in value]
    return value


def _decode(hint: Any, row: Any) -> Any:
    if not is_dataclass(hint) or not isinstance(row, Mapping):
        return value_from_json(hint, row)
    return from_json(cast(type, hint), _migrate(hint, row))


def _migrate(hint: Any, row: Mapping[str, Any]) -> JsonObject:
    """Return a record's JSON in this release's format; a newer one keeps its number."""
    file_format, current = row.get(FORMAT_KEY, 1), _format_number(hint)
    if isinstance(file_format, bool) or not isinstance(file_format, int) or file_format < 1:
        raise TypeError(f"{FORMAT_KEY} is {str(file_format)[:40]!a}")
    if file_format > current:
        return dict(row)
    migrated = {key: value for key, value in row.items() if key != FORMAT_KEY}
    for migration in MIGRATIONS.get(hint.__name__, ())[file_format - 1 :]:
        migrated = migration(migrated)
    return migrated
