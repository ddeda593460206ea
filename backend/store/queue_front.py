"""What the loop leaves for people to look at: the front of the queue, and small pictures.

The loop writes, the dashboard reads; both live in one home folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from backend.store.files import read_json, stat_files, write_bytes, write_json

QueueReason = Literal["audit", "check", "sought", "unlike", "uncertain", "typical"]
LABEL_ERRORS_FILE = "suspects.json"
"""Labels that are probably wrong: ``version`` and ``suspects``, the most suspicious first."""
MAX_THUMBNAILS = 500
"""Small pictures that are kept; the oldest go first."""


@dataclass(frozen=True)
class QueuedTask:
    """A task at the front of the queue.

    Attributes:
        task: its number.
        why: ``audit``: drawn by lot to measure the model; ``check``: drawn by lot from what
            could have been accepted without a person; ``sought``: most likely shows a label that
            has hardly an example; ``unlike``: least like all that was seen; ``uncertain``:
            the model is unsure of it and of many like it; ``typical``: nothing is learned yet, and
            many are like it.
        unsure: how unsure the model is of it, 0 to 1; 0 where that does not matter.
    """

    task: int
    why: QueueReason
    unsure: float = 0.0


class QueueFront:
    """The front of one project's queue.

    Args:
        folder: the project's.
        read: reads a JSON file; None where there is none.
    """

    def __init__(self, folder: Path, read: Callable[[Path], Any] = read_json) -> None:
        self._file = folder / "queue.json"
        self._thumbnails_folder = folder / "thumbnails"
        self._read = read

    def save_tasks(self, queued: Sequence[QueuedTask]) -> None:
        """Remember which tasks come next.

        Raises:
            StoreError: it cannot be written.
        """
        write_json(self._file, [asdict(queued_task) for queued_task in queued])

    def tasks(self) -> list[QueuedTask]:
        """The tasks that come next, first to last."""
        return [QueuedTask(**row) for row in self._read(self._file) or []]

    def thumbnail_path(self, name: str) -> Path:
        """Where the small picture of a task or a captured image is, or would be.

        Args:
            name: a task's number, or ``capture-<id>``; checked by whoever takes it from outside.
        """
        return self._thumbnails_folder / f"{name}.jpg"

    def save_thumbnail(self, name: str, jpeg: bytes) -> None:
        """Keep a small picture.

        Raises:
            StoreError: it cannot be written.
        """
        write_bytes(self.thumbnail_path(name), jpeg, durable=False)

    def trim_thumbnails(self) -> None:
        """Remove the oldest pictures beyond KEPT."""
        stat_pairs = stat_files(self._thumbnails_folder.glob("*.jpg"))
        stat_pairs.sort(key=lambda stat_pair: stat_pair[0].st_mtime)
        for _, file in stat_pairs[:-MAX_THUMBNAILS]:
            file.unlink(missing_ok=True)
