"""Import images as tasks in batches, without those that the project already has."""

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

UPLOAD_BATCH_SIZE = 50
"""Maximum number of images per request; Label Studio accepts 100."""
MAX_BATCH_BYTES = 32_000_000
"""Maximum size of a request; a larger image is sent alone."""
MAX_NAMED_FILES = 3
"""Number of example files for each reason."""


class TaskUploader(Protocol):
    """The part of the Label Studio client that imports images."""

    def upload_images(self, number: int, files: list[tuple[str, bytes]]) -> list[str]:
        """Upload files and return their addresses."""
        ...

    def add_tasks(self, number: int, rows: list[Json]) -> int:
        """Create tasks and return their number."""
        ...


@dataclass
class ImportSummary:
    """The result of an import.

    Attributes:
        image_count: number of imported images.
        skipped_counts: reason → number of skipped files.
        example_files: reason → some of the skipped files.
    """

    image_count: int = 0
    skipped_counts: Counter[str] = field(default_factory=Counter)
    example_files: dict[str, list[str]] = field(default_factory=dict)

    def add_skipped(self, file: SkippedFile) -> None:
        """Count a skipped file."""
        self.skipped_counts[file.reason] += 1
        examples = self.example_files.setdefault(file.reason, [])
        if len(examples) < MAX_NAMED_FILES:
            examples.append(file.path)

    def format_skipped(self) -> list[str]:
        """Return a line for each reason, with some of the files."""
        return [
            _format_reason(reason, count, self.example_files[reason])
            for reason, count in self.skipped_counts.items()
        ]


def summarize_if_empty(files: Iterable[FolderImage | SkippedFile]) -> ImportSummary | None:
    """Summarize the skipped files of a folder without images; return None if it has an image.

    Args:
        files: entries of the folder; read only up to the first image.
    """
    summary = ImportSummary()
    for entry in files:
        if isinstance(entry, FolderImage):
            return None
        summary.add_skipped(entry)
    return summary


def imported_digests(client: LabelStudioClient, number: int) -> frozenset[str]:
    """Return the digests of the images that a project already has."""
    task_data = (task["data"] for task in client.iter_tasks(number))
    return frozenset(str(data[DIGEST_FIELD]) for data in task_data if data.get(DIGEST_FIELD))


def import_images(
    files: Iterable[FolderImage | SkippedFile],
    uploader: TaskUploader,
    number: int,
    total: int,
    progress: ProgressCallback,
) -> ImportSummary:
    """Import images in batches; an interrupted import can be repeated.

    Args:
        files: entries of the folder, read lazily.
        uploader: client of Label Studio.
        number: project number.
        total: number of files.
        progress: called with (done, total) after each batch.

    Raises:
        LabelStudioError: a request failed; tasks of earlier batches stay.
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
    """Group images into batches within the limits of a request."""
    batch: list[FolderImage] = []
    byte_count = 0
    for image in images:
        if batch and (
            len(batch) == UPLOAD_BATCH_SIZE or byte_count + len(image.content) > MAX_BATCH_BYTES
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
