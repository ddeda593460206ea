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
DAY = 86_400.0


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
    def answer(self) -> str:
        """Which answer of a person this is, as a hash; empty while there is none."""
        if self.annotation is None:
            return ""
        text = json.dumps(self.annotation, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Returned:
    """What became of a capture.

    Attributes:
        task: its number in Label Studio; 0 while it is none.
        answer: the answer that is there, see :attr:`Capture.answer`; empty while none is.
        annotation: the number of the annotation with it; 0 where it is not known.
    """

    task: int = 0
    answer: str = ""
    annotation: int = 0


class Captures:
    """The captures of one project.

    Args:
        folder: the project's.
        kept: the home folder that the endpoint writes to, where that is another one.
    """

    def __init__(self, folder: Path, kept: Path | None = None) -> None:
        theirs = kept / "projects" / folder.name if kept else folder
        self._captures = theirs / "captures"
        self._returned = folder / "returned"

    # -- what the endpoint writes -----------------------------------------------------------

    def keep(self, capture: Capture, content: bytes) -> None:
        """Keep an image and what was said of it; the image first, so that none is without.

        Raises:
            StoreError: it cannot be written.
        """
        write_bytes(self._captures / f"{capture.id}{capture.suffix}", content, lasting=False)
        self.change(capture)

    def change(self, capture: Capture) -> None:
        """Write what is known of an image anew: an answer came in."""
        write_json(self._captures / f"{capture.id}.json", asdict(capture))

    def forget_before(self, moment: float) -> int:
        """Remove what is older than a moment, seconds since 1970; how many."""
        gone = 0
        for capture in list(self.all()):
            if capture.at < moment:
                (self._captures / f"{capture.id}.json").unlink(missing_ok=True)
                self.image(capture).unlink(missing_ok=True)
                gone += 1
        return gone

    # -- what the backend writes ------------------------------------------------------------

    def returned(self, capture: Capture, task: int, annotated: bool, annotation: int = 0) -> None:
        """A capture is a task of Label Studio now.

        Args:
            capture: which.
            task: its number there.
            annotated: its answer is there as well, as it stands in ``capture``.
            annotation: the number of that, where it is known.
        """
        answer = capture.answer if annotated else ""
        noted = {"task": task, "annotated": annotated, "answer": answer, "annotation": annotation}
        write_json(self._returned / f"{capture.id}.json", {**noted, "at": time.time()})

    def forget_returned(self, moment: float) -> int:
        """Remove notes older than a moment, seconds since 1970, whose image is gone; how many."""
        gone = 0
        for file in self._returned.glob("*.json"):
            kept = (self._captures / file.name).exists()
            if not kept and _changed(file) < moment:
                file.unlink(missing_ok=True)
                gone += 1
        return gone

    def waiting(self) -> Iterator[Capture]:
        """What is no task yet, or whose latest answer is not there yet; oldest first."""
        for capture in self.all():
            noted = self.noted(capture)
            if not noted.task or noted.answer != capture.answer:
                yield capture

    def changed(self) -> float:
        """When the endpoint last wrote something, seconds since 1970; 0: never. Cheap."""
        try:
            return self._captures.stat().st_mtime
        except OSError:
            return 0.0

    def counts(self) -> tuple[int, int]:
        """How many wait, and how many became tasks."""
        returned = {file.stem for file in self._returned.glob("*.json")}
        kept = {file.stem for file in self._captures.glob("*.json")}
        return len(kept - returned), len(returned)

    # -- what both read ---------------------------------------------------------------------

    def all(self) -> Iterator[Capture]:
        """Everything that is kept, oldest first; what is damaged costs nothing else."""
        found = [_read(file) for file in self._captures.glob("*.json")]
        yield from sorted((one for one in found if one), key=lambda capture: capture.at)

    def latest(self, count: int) -> list[Capture]:
        """The last few that were kept or answered, newest first; only these are read."""
        files = heapq.nlargest(count, self._captures.glob("*.json"), key=_changed)
        found = [_read(file) for file in files]
        return sorted((one for one in found if one), key=lambda capture: -capture.at)

    def read(self, capture: Capture) -> bytes | None:
        """The image's bytes; None where it was removed."""
        try:
            return self.image(capture).read_bytes()
        except FileNotFoundError:
            return None

    def image(self, capture: Capture) -> Path:
        """The image's file."""
        return self._captures / f"{capture.id}{capture.suffix}"

    def task(self, capture: Capture) -> tuple[int, bool]:
        """The number of its task, 0 while there is none, and whether its annotation is there."""
        noted = self.noted(capture)
        return noted.task, bool(noted.answer)

    def noted(self, capture: Capture) -> Returned:
        """What became of it."""
        noted = read_json(self._returned / f"{capture.id}.json") or {}
        answer = noted.get("answer")
        if answer is None:  # noted by a Prelabel that knew of one answer only
            answer = capture.answer if noted.get("annotated") else ""
        return Returned(int(noted.get("task", 0)), str(answer), int(noted.get("annotation", 0)))


def _read(file: Path) -> Capture | None:
    """A capture; None where it went away, or is damaged."""
    try:
        row = read_json(file)
        return Capture(**row) if row else None
    except (StoreError, TypeError) as error:
        log.warning("a captured image is left out: %s: %s", file, error)
        return None


def _changed(file: Path) -> float:
    """When a file was last written; 0 where it went away meanwhile."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0
