"""Images captured by the endpoint for labeling, and the tasks created from them.

The endpoint writes an image and its prediction to ``captures/``; the backend records the imported
task in ``returned/``. So each file has a single writer.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.errors import DamagedFileError
from backend.json_records import JsonObject, json_field, unknown_keys
from backend.store.files import write_bytes
from backend.store.record_files import log_once, read_cache, read_record, write_record

DAY_SECONDS = 86_400.0
SUFFIX_PATTERN = re.compile(r"\.\w+")
MAX_TIME = 253_402_300_800.0
"""The year 10000, in seconds since 1970."""


@dataclass(frozen=True)
class Capture:
    """A captured image with its prediction.

    Attributes:
        id: id of the request.
        at: time of the request, seconds since 1970.
        why: ``uncertain``, ``rare`` or ``random``.
        version: the version that predicted.
        external: the caller's id for the image; may be empty.
        look: perceptual hash, hexadecimal.
        said: the prediction in Label Studio's format: ``result`` and ``score``.
        suffix: suffix of the image file.
        width: width of the upright image in pixels.
        height: its height in pixels.
        annotation: a person's correction in the format of ``result``; None without one.
        superseded: a later request had the same external id but another image.
    """

    id: str
    at: float
    why: str
    version: str
    external: str = ""
    look: str = ""
    said: dict[str, Any] = field(default_factory=dict)
    suffix: str = ".jpg"
    width: int = 0
    height: int = 0
    annotation: list[dict[str, Any]] | None = None
    superseded: bool = False
    unknown: JsonObject = unknown_keys()

    @property
    def annotation_hash(self) -> str:
        """Hash of the correction; empty without one."""
        if self.annotation is None:
            return ""
        text = json.dumps(self.annotation, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class StoredImport:
    """The file of an import record.

    Attributes:
        task: id of the task.
        annotated: the correction was imported.
        answer: its hash; None in files from before several corrections were supported.
        annotation: id of the imported annotation; 0 if unknown.
        at: time of the import, seconds since 1970.
    """

    task: int = 0
    annotated: bool = False
    answer: str | None = json_field(None, optional=True)
    annotation: int = 0
    at: float = 0.0


@dataclass(frozen=True)
class ImportRecord:
    """The task that was created from a capture.

    Attributes:
        task_id: its id in Label Studio; 0 before the import.
        annotation_hash: :attr:`Capture.annotation_hash` of the imported correction; may be empty.
        annotation_id: id of the imported annotation; 0 if unknown.
    """

    task_id: int = 0
    annotation_hash: str = ""
    annotation_id: int = 0


class CaptureStore:
    """The captures of one project.

    Args:
        folder: the project's folder.
        endpoint_home: home folder that the endpoint writes to, if it is a different one.
    """

    def __init__(self, folder: Path, endpoint_home: Path | None = None) -> None:
        capture_root = endpoint_home / "projects" / folder.name if endpoint_home else folder
        self._captures_folder = capture_root / "captures"
        self._imports_folder = folder / "returned"

    # -- written by the endpoint ------------------------------------------------------------

    def add(self, capture: Capture, content: bytes) -> None:
        """Save an image and then its record, so that every record has an image.

        Raises:
            StoreError: it cannot be written.
        """
        write_bytes(self._captures_folder / f"{capture.id}{capture.suffix}", content, durable=False)
        self.update(capture)

    def update(self, capture: Capture) -> None:
        """Save a changed record, such as one with a correction."""
        write_record(self._captures_folder / f"{capture.id}.json", capture)

    def delete_before(self, cutoff: float) -> int:
        """Remove captures from before ``cutoff``, seconds since 1970, and return their number."""
        deleted = 0
        for capture in list(self.all()):
            if capture.at < cutoff:
                (self._captures_folder / f"{capture.id}.json").unlink(missing_ok=True)
                self.image_path(capture).unlink(missing_ok=True)
                deleted += 1
        return deleted

    # -- written by the backend -------------------------------------------------------------

    def record_import(
        self, capture: Capture, task: int, has_annotation: bool, annotation_id: int = 0
    ) -> None:
        """Record that a capture was imported.

        Args:
            capture: the capture.
            task: id of its task.
            has_annotation: the correction in ``capture`` was imported too.
            annotation_id: id of that annotation; 0 if unknown.
        """
        answer_hash = capture.annotation_hash if has_annotation else ""
        stored = StoredImport(task, has_annotation, answer_hash, annotation_id, time.time())
        write_record(self._imports_folder / f"{capture.id}.json", stored)

    def delete_stale_imports(self, cutoff: float) -> int:
        """Remove import records from before ``cutoff`` without a capture; return their number."""
        deleted = 0
        for file in self._imports_folder.glob("*.json"):
            has_capture = (self._captures_folder / file.name).exists()
            if not has_capture and _modified_at(file) < cutoff:
                file.unlink(missing_ok=True)
                deleted += 1
        return deleted

    def pending(self) -> Iterator[Capture]:
        """Yield captures that are not imported, or whose correction is not; oldest first."""
        for capture in self.all():
            record = self.import_record(capture)
            if not record.task_id or record.annotation_hash != capture.annotation_hash:
                yield capture

    def last_modified(self) -> float:
        """Return the time of the endpoint's last write, seconds since 1970; 0 without one."""
        try:
            return self._captures_folder.stat().st_mtime
        except OSError:
            return 0.0

    def counts(self) -> tuple[int, int]:
        """Return the numbers of waiting and of imported captures."""
        imported_ids = {file.stem for file in self._imports_folder.glob("*.json")}
        captured_ids = {file.stem for file in self._captures_folder.glob("*.json")}
        return len(captured_ids - imported_ids), len(imported_ids)

    # -- read by both -----------------------------------------------------------------------

    def all(self) -> Iterator[Capture]:
        """Yield all captures, oldest first; damaged ones are skipped."""
        loaded = [_read_capture(file) for file in self._captures_folder.glob("*.json")]
        yield from sorted((entry for entry in loaded if entry), key=lambda capture: capture.at)

    def latest(self, count: int) -> list[Capture]:
        """Return the most recent captures, newest first, without reading the others."""
        files = heapq.nlargest(count, self._captures_folder.glob("*.json"), key=_modified_at)
        loaded = [_read_capture(file) for file in files]
        return sorted((entry for entry in loaded if entry), key=lambda capture: -capture.at)

    def read_image(self, capture: Capture) -> bytes | None:
        """Read the image file; None if it was removed."""
        try:
            return self.image_path(capture).read_bytes()
        except FileNotFoundError:
            return None

    def image_path(self, capture: Capture) -> Path:
        """Return the path of the image file."""
        return self._captures_folder / f"{capture.id}{capture.suffix}"

    def task_status(self, capture: Capture) -> tuple[int, bool]:
        """Return the id of its task (0 before import), and whether its correction is imported."""
        record = self.import_record(capture)
        return record.task_id, bool(record.annotation_hash)

    def import_record(self, capture: Capture) -> ImportRecord:
        """Read the import record of a capture.

        A damaged one counts as none: the next import finds the task in Label Studio.
        """
        stored = read_cache(
            self._imports_folder / f"{capture.id}.json", StoredImport, StoredImport()
        )
        answer_hash = stored.answer
        if answer_hash is None:  # written before several corrections were supported
            answer_hash = capture.annotation_hash if stored.annotated else ""
        return ImportRecord(stored.task, answer_hash, stored.annotation)


def _read_capture(file: Path) -> Capture | None:
    """Read a capture; None if it was removed or is damaged."""

    def check(capture: Capture) -> None:
        if capture.id != file.stem or not SUFFIX_PATTERN.fullmatch(capture.suffix):
            raise TypeError(f"it is that of {capture.id[:80]!a}")
        if not 0 <= capture.at < MAX_TIME:
            raise TypeError("its time is unknown")

    try:
        return read_record(file, Capture, check=check)
    except DamagedFileError as error:
        log_once(f"A captured image is skipped: {error}")
        return None


def _modified_at(file: Path) -> float:
    """Return the time of a file's last write; 0 if it was removed."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0
