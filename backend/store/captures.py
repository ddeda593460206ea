"""Images that applications asked about and that are worth labeling, until they are tasks.

Two writers that never write the same file: the endpoint keeps an image with what was said of it
(``captures/``), and the backend notes the task that became of it (``returned/``).
"""

from __future__ import annotations

import hashlib
import heapq
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from backend.errors import StoreError
from backend.store.files import read_json, write_bytes, write_json

log = logging.getLogger("prelabel")
DAY_SECONDS = 86_400.0


@dataclass(frozen=True)
class Capture:
    """An image that comes back.

    Attributes:
        id: the request's.
        at: when, seconds since 1970.
        why: ``uncertain``, ``rare`` or ``random``.
        version: that answered.
        external: the caller's name for it; may be empty.
        look: perceptual hash, hexadecimal.
        said: the prediction, as Label Studio takes it: ``result`` and ``score``.
        suffix: of the image's file.
        width: pixels of the upright image.
        height: the same.
        annotation: a person's answer, in the same form; None while there is none.
        superseded: the caller asked again by the same name, about another image.
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

    @property
    def annotation_hash(self) -> str:
        """Which answer of a person this is, as a hash; empty while there is none."""
        if self.annotation is None:
            return ""
        text = json.dumps(self.annotation, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class ImportRecord:
    """What became of a capture.

    Attributes:
        task_id: its number in Label Studio; 0 while it is none.
        annotation_hash: see :attr:`Capture.annotation_hash`; empty without an annotation.
        annotation_id: the number of the annotation with it; 0 where it is not known.
    """

    task_id: int = 0
    annotation_hash: str = ""
    annotation_id: int = 0


class CaptureStore:
    """The captures of one project.

    Args:
        folder: the project's.
        endpoint_home: the home folder that the endpoint writes to, where that is another one.
    """

    def __init__(self, folder: Path, endpoint_home: Path | None = None) -> None:
        capture_root = endpoint_home / "projects" / folder.name if endpoint_home else folder
        self._captures_folder = capture_root / "captures"
        self._imports_folder = folder / "returned"

    # -- what the endpoint writes -----------------------------------------------------------

    def add(self, capture: Capture, content: bytes) -> None:
        """Keep an image and what was said of it; the image first, so that none is without.

        Raises:
            StoreError: it cannot be written.
        """
        write_bytes(self._captures_folder / f"{capture.id}{capture.suffix}", content, durable=False)
        self.update(capture)

    def update(self, capture: Capture) -> None:
        """Write what is known of an image anew: an answer came in."""
        write_json(self._captures_folder / f"{capture.id}.json", asdict(capture))

    def delete_before(self, cutoff: float) -> int:
        """Remove what is older than a moment, seconds since 1970; how many."""
        deleted = 0
        for capture in list(self.all()):
            if capture.at < cutoff:
                (self._captures_folder / f"{capture.id}.json").unlink(missing_ok=True)
                self.image_path(capture).unlink(missing_ok=True)
                deleted += 1
        return deleted

    # -- what the backend writes ------------------------------------------------------------

    def record_import(
        self, capture: Capture, task: int, has_annotation: bool, annotation_id: int = 0
    ) -> None:
        """A capture is a task of Label Studio now.

        Args:
            capture: which.
            task_status: its number there.
            has_annotation: its answer is there as well, as it stands in ``capture``.
            annotation_id: the number of that, where it is known.
        """
        answer_hash = capture.annotation_hash if has_annotation else ""
        record = {
            "task": task,
            "annotated": has_annotation,
            "answer": answer_hash,
            "annotation": annotation_id,
        }
        write_json(self._imports_folder / f"{capture.id}.json", {**record, "at": time.time()})

    def delete_stale_imports(self, cutoff: float) -> int:
        """Remove notes older than a moment, seconds since 1970, whose image is gone; how many."""
        deleted = 0
        for file in self._imports_folder.glob("*.json"):
            has_capture = (self._captures_folder / file.name).exists()
            if not has_capture and _modified_at(file) < cutoff:
                file.unlink(missing_ok=True)
                deleted += 1
        return deleted

    def pending(self) -> Iterator[Capture]:
        """What is no task yet, or whose latest answer is not there yet; oldest first."""
        for capture in self.all():
            record = self.import_record(capture)
            if not record.task_id or record.annotation_hash != capture.annotation_hash:
                yield capture

    def last_modified(self) -> float:
        """When the endpoint last wrote something, seconds since 1970; 0: never. Cheap."""
        try:
            return self._captures_folder.stat().st_mtime
        except OSError:
            return 0.0

    def counts(self) -> tuple[int, int]:
        """How many wait, and how many became tasks."""
        imported_ids = {file.stem for file in self._imports_folder.glob("*.json")}
        captured_ids = {file.stem for file in self._captures_folder.glob("*.json")}
        return len(captured_ids - imported_ids), len(imported_ids)

    # -- what both read ---------------------------------------------------------------------

    def all(self) -> Iterator[Capture]:
        """Everything that is kept, oldest first; what is damaged costs nothing else."""
        loaded = [_read_capture(file) for file in self._captures_folder.glob("*.json")]
        yield from sorted((entry for entry in loaded if entry), key=lambda capture: capture.at)

    def latest(self, count: int) -> list[Capture]:
        """The last few that were kept or answered, newest first; only these are read."""
        files = heapq.nlargest(count, self._captures_folder.glob("*.json"), key=_modified_at)
        loaded = [_read_capture(file) for file in files]
        return sorted((entry for entry in loaded if entry), key=lambda capture: -capture.at)

    def read_image(self, capture: Capture) -> bytes | None:
        """The image's bytes; None where it was removed."""
        try:
            return self.image_path(capture).read_bytes()
        except FileNotFoundError:
            return None

    def image_path(self, capture: Capture) -> Path:
        """The image's file."""
        return self._captures_folder / f"{capture.id}{capture.suffix}"

    def task_status(self, capture: Capture) -> tuple[int, bool]:
        """The number of its task, 0 while there is none, and whether its annotation is there."""
        record = self.import_record(capture)
        return record.task_id, bool(record.annotation_hash)

    def import_record(self, capture: Capture) -> ImportRecord:
        """What became of it."""
        record = read_json(self._imports_folder / f"{capture.id}.json") or {}
        answer_hash = record.get("answer")
        if answer_hash is None:  # noted by a Prelabel that knew of one answer only
            answer_hash = capture.annotation_hash if record.get("annotated") else ""
        return ImportRecord(
            int(record.get("task", 0)), str(answer_hash), int(record.get("annotation", 0))
        )


def _read_capture(file: Path) -> Capture | None:
    """A capture; None where it went away, or is damaged."""
    try:
        row = read_json(file)
        return Capture(**row) if row else None
    except (StoreError, TypeError) as error:
        log.warning("a captured image is left out: %s: %s", file, error)
        return None


def _modified_at(file: Path) -> float:
    """When a file was last written; 0 where it went away meanwhile."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0
