"""When people last changed the annotations that a rename of a label changed after them.

Label Studio sets ``updated_at`` with every change. For training it says which labels a person could
choose, and which of several annotations is the latest, so a rename must not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from backend.errors import DamagedFileError
from backend.json_records import JsonObject
from backend.store.record_files import log_once, read_backed_up, write_backed_up

ANNOTATION_TIMES_FILE = "annotation_times.json"
UpdateTimes = tuple[str, str]
"""``updated_at`` of an annotation before and after a rename, ISO 8601."""


def record_annotation_times(folder: Path, renamed: Mapping[int, UpdateTimes]) -> None:
    """Record the times of renamed annotations.

    Args:
        folder: the project's folder.
        renamed: id of the annotation → its times.

    Raises:
        StoreError: they cannot be written.
    """
    times = _read_times(folder)
    for id, (before, after) in renamed.items():
        times[str(id)] = [_original_time(times, str(id), before), after]
    write_backed_up(folder / ANNOTATION_TIMES_FILE, times)


class AnnotationTimes:
    """The recorded times of a project.

    Args:
        folder: the project's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._times = _read_times(folder)

    def restore(self, annotations: Iterable[JsonObject]) -> list[JsonObject]:
        """Return annotations with the ``updated_at`` that they had before they were renamed.

        One that was changed after the rename keeps its own.
        """
        return [self._restore(annotation) for annotation in annotations]

    def _restore(self, annotation: JsonObject) -> JsonObject:
        current = str(annotation.get("updated_at") or "")
        original = _original_time(self._times, str(annotation.get("id")), current)
        return annotation if original == current else {**annotation, "updated_at": original}


def _original_time(times: Mapping[str, list[str]], id: str, current: str) -> str:
    before, after = times.get(id, ("", ""))
    return before if current and after == current else current


def _read_times(folder: Path) -> dict[str, list[str]]:
    """Return id → times before and after; empty if both copies of the file are damaged."""
    try:
        file, hint = folder / ANNOTATION_TIMES_FILE, dict[str, list[str]]
        return read_backed_up(file, hint, check=_check_times) or {}
    except DamagedFileError as error:
        log_once(str(error))
        return {}


def _check_times(times: Mapping[str, list[str]]) -> None:
    for id, pair in times.items():
        if len(pair) != len(("before", "after")):
            raise TypeError(f"annotation {id[:40]} has not two times")
