"""Images like a task, like a file, or like some words, among all images of a project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backend.arrays import Floats
from backend.domain import Task
from backend.errors import NotThere, UsageError
from backend.inference.embed import vectors_of
from backend.inference.predict import sources
from backend.learning.nearest_neighbours import nearest
from backend.loop.observe import observe, take_pulse
from backend.runtime.resources import Resources
from backend.store.projects import ProjectRecord
from backend.vision.encoders.base import Encoder, unit_rows
from backend.vision.images.decode import decode

TAB = "Prelabel: similar"


@dataclass(frozen=True)
class Match:
    """A task that shows something similar.

    Attributes:
        task: its number.
        similarity: cosine of the embeddings, −1 to 1.
        address: of its page in Label Studio.
        answer: what a person answered, for people; empty where nobody did.
    """

    task: int
    similarity: float
    address: str
    answer: str


class Search:
    """Looks through one project.

    Args:
        resources: of this process.
        record: the project.
    """

    def __init__(self, resources: Resources, record: ProjectRecord) -> None:
        self._resources = resources
        self._record = record
        self._connection = resources.connection(record)

    def like(self, what: str, count: int) -> list[Match]:
        """The most similar images, best first.

        Args:
            what: a task's number, an image file, or words.
            count: how many.

        Raises:
            PrelabelError: there is no such task, the image cannot be read, or the encoder knows
                no words.
        """
        seen = observe(
            self._connection, self._resources.folder(self._record), take_pulse(self._connection)
        )
        encoder = self._resources.viewer(self._record)
        embedder = self._resources.embedder(self._record, encoder)
        wanted = sources(seen.tasks, seen.config.controls)
        vectors = vectors_of(seen.tasks, embedder.embed(wanted, lambda done, of: None))
        task = int(what) if what.isdigit() else None
        query = self._query(what, encoder, vectors)
        rows = [number for number in vectors if number != task]
        if not rows:
            return []
        table = np.stack([vectors[number] for number in rows])
        found, cosine = nearest(table, query[None], count)
        tasks = {one.id: one for one in seen.tasks}
        return [
            Match(rows[i], round(float(c), 4), self._address(rows[i]), _answer(tasks[rows[i]]))
            for i, c in zip(found[0], cosine[0], strict=True)
        ]

    def show(self, matches: Sequence[Match]) -> str:
        """A tab of the Data Manager with these tasks; its title."""
        ids = [match.task for match in matches]
        items = [{"filter": "filter:tasks:id", "operator": "in_list", "type": "List", "value": ids}]
        view = {"ordering": [], "filters": {"conjunction": "and", "items": items}}
        self._connection.client.keep_tab(self._record.number, TAB, view)
        return TAB

    def _query(self, what: str, encoder: Encoder, vectors: Mapping[int, Floats]) -> Floats:
        found: Floats
        if what.isdigit():
            if int(what) not in vectors:
                raise NotThere(
                    f"Project {self._record.id} has no task {what} with a readable image."
                )
            return vectors[int(what)]
        if Path(what).is_file():
            limit = self._resources.settings.max_image_pixels
            picture = decode(Path(what).read_bytes(), max_pixels=limit, at_least=512)
            found = unit_rows(encoder.encode_images([picture.image]))[0]
            return found
        if not encoder.has_text:
            raise UsageError(
                f"{what!r} is neither a task's number nor a file, and the encoder {encoder.name} "
                "knows no words: set PRELABEL_ENCODER to a CLIP to search by words."
            )
        found = unit_rows(encoder.encode_texts([f"a photo of {what}"]))[0]
        return found

    def _address(self, task: int) -> str:
        server = self._connection.client.server
        return f"{server}/projects/{self._record.number}/data?task={task}"


def _answer(task: Task) -> str:
    given = sorted({name for answer in (task.answers or {}).values() for name in answer})
    marked = sorted({p.label for places in (task.places or {}).values() for p in places})
    return ", ".join([*given, *marked])
