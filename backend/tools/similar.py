"""Find the images of a project that are similar to a task, a file, or a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backend.arrays import Floats
from backend.domain import Task
from backend.errors import NotFoundError, UsageError
from backend.inference.embed import task_vectors
from backend.inference.images import image_sources
from backend.label_studio.tab_views import task_list_view
from backend.label_studio.tabs import SIMILAR_TAB, ProjectTabs
from backend.learning.nearest_neighbours import find_nearest
from backend.loop.observe import fetch_fingerprint, observe
from backend.runtime.project_session import ProjectSession
from backend.vision.encoders.base import Encoder, normalize_rows
from backend.vision.images.decode import decode_upright_image


@dataclass(frozen=True)
class SimilarTask:
    """A task with a similar image.

    Attributes:
        task: task id.
        similarity: cosine similarity of the embeddings, −1 to 1.
        address: URL of the task in Label Studio.
        answer: annotated labels, separated by commas; empty if there are none.
    """

    task: int
    similarity: float
    address: str
    answer: str


class SimilaritySearch:
    """Searches the images of one project."""

    def __init__(self, session: ProjectSession) -> None:
        self._session = session
        self._connection = session.connection

    def find_similar(self, query_text: str, count: int) -> list[SimilarTask]:
        """Return the most similar images, best first.

        Args:
            query_text: task id, path of an image file, or text.
            count: maximum number of images.

        Raises:
            PrelabelError: the task does not exist, the image is unreadable, or the encoder does not
                embed texts.
        """
        fingerprint = fetch_fingerprint(self._connection)
        observation = observe(self._connection, self._session.folder, fingerprint)
        encoder = self._session.live_encoder()
        embedder = self._session.embedder(encoder)
        sources = image_sources(observation.tasks, observation.config.controls)
        vectors = task_vectors(observation.tasks, embedder.embed(sources))
        query_task = int(query_text) if query_text.isdigit() else None
        query = self._query_vector(query_text, encoder, vectors)
        task_ids = [task_id for task_id in vectors if task_id != query_task]
        if not task_ids:
            return []
        vector_table = np.stack([vectors[task_id] for task_id in task_ids])
        neighbor_rows, cosine = find_nearest(vector_table, query[None], count)
        tasks = {task.id: task for task in observation.tasks}
        return [
            SimilarTask(
                task_ids[i],
                round(float(similarity), 4),
                self._task_url(task_ids[i]),
                _label_text(tasks[task_ids[i]]),
            )
            for i, similarity in zip(neighbor_rows[0], cosine[0], strict=True)
        ]

    def show_tab(self, matches: Sequence[SimilarTask]) -> str:
        """List the tasks in a tab of the Data Manager, and return the title of the tab."""
        view = task_list_view(match.task for match in matches)
        ProjectTabs(self._connection.client, self._session.number).ensure(SIMILAR_TAB, view)
        return SIMILAR_TAB

    def _query_vector(
        self, query_text: str, encoder: Encoder, vectors: Mapping[int, Floats]
    ) -> Floats:
        embedding: Floats
        if query_text.isdigit():
            if int(query_text) not in vectors:
                raise NotFoundError(
                    f"Project {self._session.id} has no task {query_text} with a readable image."
                )
            return vectors[int(query_text)]
        if Path(query_text).is_file():
            limit = self._session.settings.max_image_pixels
            decoded = decode_upright_image(
                Path(query_text).read_bytes(), max_pixels=limit, min_side=512
            )
            embedding = normalize_rows(encoder.encode_images([decoded.image]))[0]
            return embedding
        if not encoder.has_text:
            raise UsageError(
                f"{query_text!r} is neither a task id nor a file, and the encoder {encoder.name} "
                "does not embed texts: set PRELABEL_ENCODER to a CLIP model to search by text."
            )
        embedding = normalize_rows(encoder.encode_texts([f"a photo of {query_text}"]))[0]
        return embedding

    def _task_url(self, task: int) -> str:
        server = self._connection.client.server
        return f"{server}/projects/{self._session.number}/data?task={task}"


def _label_text(task: Task) -> str:
    choice_labels = sorted({name for answer in (task.choices or {}).values() for name in answer})
    region_labels = sorted({p.label for regions in (task.regions or {}).values() for p in regions})
    return ", ".join([*choice_labels, *region_labels])
