"""Images → tasks, a batch at a time; what is in the project already is not sent again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from backend.callbacks import ProgressCallback
from backend.label_studio import Json
from backend.label_studio.client import LabelStudioClient
from backend.onboarding.folder_project import DIGEST_FIELD
from backend.onboarding.image_folder import DUPLICATE_REASON, FolderImage, SkippedFile

IMPORT_BATCH_SIZE = 50
"""Images in one call; Label Studio takes 100."""
MAX_BATCH_BYTES = 32_000_000
"""And at most so many bytes, unless one image alone has more."""
MAX_NAMED_FILES = 3
"""Files that are named for each reason."""


class TaskUploader(Protocol):
    """What takes images: Label Studio."""

    def upload_images(self, number: int, files: list[tuple[str, bytes]]) -> list[str]:
        """Keep files; their addresses."""
        ...

    def add_tasks(self, number: int, rows: list[Json]) -> int:
        """Make tasks; how many."""
        ...


@dataclass
class ImportSummary:
    """What became of a folder's files.

    Attributes:
        image_count: imported now.
        skipped_counts: files that were not, counted by reason.
        example_files: some of those files, by reason.
    """

    image_count: int = 0
    skipped_counts: Counter[str] = field(default_factory=Counter)
    example_files: dict[str, list[str]] = field(default_factory=dict)

    def add_skipped(self, file: SkippedFile) -> None:
        """Count a file that is not imported."""
        self.skipped_counts[file.reason] += 1
        examples = self.example_files.setdefault(file.reason, [])
        if len(examples) < MAX_NAMED_FILES:
            examples.append(file.path)

    def format_skipped(self) -> list[str]:
        """For people: a line for each reason, with some of the files."""
        return [
            _format_reason(reason, count, self.example_files[reason])
            for reason, count in self.skipped_counts.items()
        ]


def summarize_if_empty(files: Iterable[FolderImage | SkippedFile]) -> ImportSummary | None:
    """What is the matter with a folder in which there is no image; None where there is one.

    Args:
        files: one after the other; they are read up to the first image.
    """
    summary = ImportSummary()
    for entry in files:
        if isinstance(entry, FolderImage):
            return None
        summary.add_skipped(entry)
    return summary


def imported_digests(client: LabelStudioClient, number: int) -> frozenset[str]:
    """The digests of the images that were imported into a project before."""
    task_data = (task["data"] for task in client.iter_tasks(number))
    return frozenset(str(data[DIGEST_FIELD]) for data in task_data if data.get(DIGEST_FIELD))


def import_images(
    files: Iterable[FolderImage | SkippedFile],
    uploader: TaskUploader,
    number: int,
    total: int,
    progress: ProgressCallback,
) -> ImportSummary:
    """Import images. Killed in between, it can be done again: a batch is there or not.

    Args:
        files: one after the other; read while it goes on.
        uploader: takes them.
        number: the project's.
        total: how many files.
        progress: told (done, of) after each batch.

    Raises:
        LabelStudioError: Label Studio refused or went away; what was imported stays.
    """
    summary = ImportSummary()
    for batch in make_batches(_iter_images(files, summary)):
        addresses = uploader.upload_images(number, [(image.name, image.content) for image in batch])
        rows: list[Json] = [
            {"data": {"image": address, "file": image.path, DIGEST_FIELD: image.digest}}
            for address, image in zip(addresses, batch, strict=True)
        ]
        summary.image_count += uploader.add_tasks(number, rows)
        progress(summary.image_count + summary.skipped_counts.total(), total)
    return summary


def make_batches(images: Iterable[FolderImage]) -> Iterator[list[FolderImage]]:
    """Images in groups that one call takes."""
    batch: list[FolderImage] = []
    byte_count = 0
    for image in images:
        if batch and (
            len(batch) == IMPORT_BATCH_SIZE or byte_count + len(image.content) > MAX_BATCH_BYTES
        ):
            yield batch
            batch, byte_count = [], 0
        batch.append(image)
        byte_count += len(image.content)
    if batch:
        yield batch


def _iter_images(
    files: Iterable[FolderImage | SkippedFile], summary: ImportSummary
) -> Iterator[FolderImage]:
    for entry in files:
        if isinstance(entry, FolderImage):
            yield entry
        else:
            summary.add_skipped(entry)


def _format_reason(reason: str, count: int, examples: list[str]) -> str:
    ellipsis = ", …" if count > len(examples) else ""
    example_text = (
        ""
        if reason == DUPLICATE_REASON and count > MAX_NAMED_FILES
        else f" ({', '.join(examples)}{ellipsis})"
    )
    return f"{count} × {reason}{example_text}"
