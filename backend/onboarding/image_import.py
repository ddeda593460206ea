"""Images → tasks, a batch at a time; what is in the project already is not sent again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from backend.callbacks import ProgressCallback
from backend.label_studio.client import Client, Json
from backend.onboarding.folder_project import DIGEST
from backend.onboarding.image_folder import TWICE, Found, Passed

BATCH = 50
"""Images in one call; Label Studio takes 100."""
BATCH_BYTES = 32_000_000
"""And at most so many bytes, unless one image alone has more."""
NAMED = 3
"""Files that are named for each reason."""


class Takes(Protocol):
    """What takes images: Label Studio."""

    def upload(self, number: int, files: list[tuple[str, bytes]]) -> list[str]:
        """Keep files; their addresses."""
        ...

    def add_tasks(self, number: int, rows: list[Json]) -> int:
        """Make tasks; how many."""
        ...


@dataclass
class Imported:
    """What became of a folder's files.

    Attributes:
        images: imported now.
        passed: files that were not, counted by reason.
        named: some of those files, by reason.
    """

    images: int = 0
    passed: Counter[str] = field(default_factory=Counter)
    named: dict[str, list[str]] = field(default_factory=dict)

    def pass_over(self, file: Passed) -> None:
        """Count a file that is not imported."""
        self.passed[file.reason] += 1
        named = self.named.setdefault(file.reason, [])
        if len(named) < NAMED:
            named.append(file.file)

    def lines(self) -> list[str]:
        """For people: a line for each reason, with some of the files."""
        return [_line(reason, count, self.named[reason]) for reason, count in self.passed.items()]


def no_image(files: Iterable[Found | Passed]) -> Imported | None:
    """What is the matter with a folder in which there is no image; None where there is one.

    Args:
        files: one after the other; they are read up to the first image.
    """
    looked = Imported()
    for one in files:
        if isinstance(one, Found):
            return None
        looked.pass_over(one)
    return looked


def known_images(client: Client, number: int) -> frozenset[str]:
    """The digests of the images that were imported into a project before."""
    rows = (task["data"] for task in client.tasks(number))
    return frozenset(str(data[DIGEST]) for data in rows if data.get(DIGEST))


def bring(
    files: Iterable[Found | Passed], to: Takes, number: int, total: int, progress: ProgressCallback
) -> Imported:
    """Import images. Killed in between, it can be done again: a batch is there or not.

    Args:
        files: one after the other; read while it goes on.
        to: takes them.
        number: the project's.
        total: how many files.
        progress: told (done, of) after each batch.

    Raises:
        LabelStudioError: Label Studio refused or went away; what was imported stays.
    """
    imported = Imported()
    for batch in batches(_images(files, imported)):
        addresses = to.upload(number, [(one.name, one.content) for one in batch])
        rows: list[Json] = [
            {"data": {"image": address, "file": one.file, DIGEST: one.digest}}
            for address, one in zip(addresses, batch, strict=True)
        ]
        imported.images += to.add_tasks(number, rows)
        progress(imported.images + imported.passed.total(), total)
    return imported


def batches(images: Iterable[Found]) -> Iterator[list[Found]]:
    """Images in groups that one call takes."""
    batch: list[Found] = []
    size = 0
    for one in images:
        if batch and (len(batch) == BATCH or size + len(one.content) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += len(one.content)
    if batch:
        yield batch


def _images(files: Iterable[Found | Passed], imported: Imported) -> Iterator[Found]:
    for one in files:
        if isinstance(one, Found):
            yield one
        else:
            imported.pass_over(one)


def _line(reason: str, count: int, named: list[str]) -> str:
    more = ", …" if count > len(named) else ""
    shown = "" if reason == TWICE and count > NAMED else f" ({', '.join(named)}{more})"
    return f"{count} × {reason}{shown}"
