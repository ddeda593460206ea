"""Save the front of the queue and thumbnails for the dashboard.

The worker writes them as files, so that the dashboard needs no requests to Label Studio.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from backend.domain import Control, Task
from backend.errors import ImageError, StoreError
from backend.inference.images import ImageSource
from backend.learning.audit import hash_rank
from backend.loop.observe import Observation
from backend.loop.publish.queue_order import QUEUE_HEAD_SIZE, QueueOrder
from backend.runtime.project_session import ProjectSession
from backend.store.audit_predictions import load_audit_predictions
from backend.store.label_examples import LabelExample, LabelExamples, save_label_examples
from backend.store.queue_front import QueueFront
from backend.vision.images.decode import DecodedImage, decode_upright_image

log = logging.getLogger("prelabel")
THUMBNAIL_PIXELS = 240
"""Length of a thumbnail's longer edge: twice its size on the page, for high-density screens."""
JPEG_QUALITY = 80
MAX_CAPTURES = 6
"""Maximum number of captured images with a thumbnail."""
MAX_LABEL_ERROR_THUMBNAILS = 12
"""Maximum number of label error candidates with a thumbnail."""
MAX_AUDIT_THUMBNAILS = 200
"""Maximum number of audit images with a thumbnail; those with a wrong prediction come first."""
EXAMPLES_PER_LABEL = 4
MAX_EXAMPLE_LABELS = 40
"""Maximum number of labels with examples, of all controls together."""
THUMBNAIL_TASKS = 60
"""Number of tasks whose image URL is kept, for thumbnails when the front moves up."""


class ThumbnailPublisher:
    """Saves the queue and thumbnails of one project.

    Args:
        session: the project's session.
    """

    def __init__(self, session: ProjectSession) -> None:
        self._session = session
        self._front = QueueFront(session.folder)
        self._shown: set[str] = set()

    def publish_round(self, order: QueueOrder, tasks: Iterable[Task]) -> None:
        """Save the front of the queue and the latest captured images after a round."""
        upcoming_tasks = set(order.ranked_tasks(QUEUE_HEAD_SIZE)[:THUMBNAIL_TASKS])
        order.image_addresses = first_image_addresses(
            task for task in tasks if task.id in upcoming_tasks
        )
        self.publish_queue(order)
        self._save_capture_thumbnails()

    def publish_queue(self, order: QueueOrder) -> None:
        """Save the current front of the queue."""
        entries = order.first_tasks(QUEUE_HEAD_SIZE)
        try:
            self._front.save_tasks(entries)
        except StoreError as error:
            log.warning(
                "project %s: the dashboard's queue could not be saved: %s", self._session.id, error
            )
        queued_tasks = {entry.task for entry in entries}
        self.save_thumbnails(
            {
                task_id: address
                for task_id, address in order.image_addresses.items()
                if task_id in queued_tasks
            }
        )

    def publish_labeled(self, observation: Observation, live_version: str) -> None:
        """Save examples of each label, and the thumbnails of these and of the audit images."""
        labeled = {task.id: task for task in observation.labeled}
        examples = select_examples(observation)
        try:
            save_label_examples(examples, self._session.folder)
        except StoreError as error:
            log.warning("project %s: %s", self._session.id, error)
        audit = load_audit_predictions(self._session.versions.path(live_version))
        wrong = audit.wrong_tasks()
        ranked = dict.fromkeys([*wrong, *audit.tasks])  # without duplicates, in this order
        shown = [*list(ranked)[:MAX_AUDIT_THUMBNAILS], *examples.tasks()]
        self.save_thumbnails(
            first_image_addresses(labeled[task] for task in shown if task in labeled)
        )

    def save_thumbnails(self, images: Mapping[int, str]) -> None:
        """Save missing thumbnails of tasks; skip unreadable images."""
        self._shown.update(map(str, images))
        missing = [
            ImageSource(address, task)
            for task, address in images.items()
            if not self._front.thumbnail_path(str(task)).exists()
        ]
        if not missing:
            return
        project_images = self._session.images
        # decoded images of up to 1280 pixels take 5 MB each, so few are in memory at a time
        for start in range(0, len(missing), project_images.batch_size):
            batch = missing[start : start + project_images.batch_size]
            fetched, _ = project_images.fetch(batch, THUMBNAIL_PIXELS)
            decoded_images = {image.address: image.decoded for image in fetched}
            for source in batch:
                if source.address in decoded_images:
                    self._save_thumbnail(str(source.task_id), decoded_images[source.address])

    def trim(self) -> None:
        """Remove old thumbnails, but none that this object published or of a label error."""
        try:
            suspects = self._front.label_errors().suspects[:MAX_LABEL_ERROR_THUMBNAILS]
            self._front.trim_thumbnails(self._shown | {str(suspect.task) for suspect in suspects})
        except StoreError as error:
            log.warning("project %s: thumbnails could not be removed: %s", self._session.id, error)

    def _save_capture_thumbnails(self) -> None:
        captures = self._session.captures
        for capture in captures.latest(MAX_CAPTURES):
            name = f"capture-{capture.id}"
            self._shown.add(name)
            if self._front.thumbnail_path(name).exists():
                continue
            try:
                content = captures.image_path(capture).read_bytes()
                max_pixels = self._session.settings.max_image_pixels
                self._save_thumbnail(
                    name,
                    decode_upright_image(content, max_pixels=max_pixels, min_side=THUMBNAIL_PIXELS),
                )
            except (ImageError, OSError) as error:
                log.info("captured image %s has no thumbnail: %s", capture.id, error)

    def _save_thumbnail(self, name: str, decoded: DecodedImage) -> None:
        image = decoded.image
        image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=JPEG_QUALITY)
        try:
            self._front.save_thumbnail(name, buffer.getvalue())
        except StoreError as error:
            log.warning("project %s: a thumbnail could not be saved: %s", self._session.id, error)


def first_image_addresses(tasks: Iterable[Task]) -> dict[int, str]:
    """Return task → URL of its first image."""
    return {task.id: next(iter(task.images.values())) for task in tasks if task.images}


def select_examples(observation: Observation) -> LabelExamples:
    """Return some labeled tasks of each label: always the same random ones."""
    labeled = sorted(
        observation.labeled, key=lambda task: -hash_rank(observation.identity, task.id)
    )
    return LabelExamples(
        {
            control.name: {
                label: tuple(
                    LabelExample(task.id, boxes)
                    for task, boxes in islice(
                        _tasks_of_label(labeled, control, label), EXAMPLES_PER_LABEL
                    )
                )
                for label in labels
            }
            for control, labels in _labels_with_examples(observation.config.controls)
        }
    )


def _labels_with_examples(controls: Sequence[Control]) -> list[tuple[Control, list[str]]]:
    """Return the first labels of each control, ``MAX_EXAMPLE_LABELS`` in total."""
    ranked = [
        (rank, place) for place, c in enumerate(controls) for rank in range(len(c.label_names))
    ]
    chosen = set(sorted(ranked)[:MAX_EXAMPLE_LABELS])  # each control's first label comes first
    return [
        (
            control,
            [name for rank, name in enumerate(control.label_names) if (rank, place) in chosen],
        )
        for place, control in enumerate(controls)
    ]


def _tasks_of_label(
    tasks: Iterable[Task], control: Control, label: str
) -> Iterator[tuple[Task, tuple[tuple[float, ...], ...]]]:
    """Yield the tasks with a label, each with the corners of its regions."""
    for task in tasks:
        if label in (task.choices or {}).get(control.name, ()):
            yield task, ()
        regions = [r for r in (task.regions or {}).get(control.name, ()) if r.label == label]
        if regions:
            yield (
                task,
                tuple(
                    (round(r.x0, 4), round(r.y0, 4), round(r.x1, 4), round(r.y1, 4))
                    for r in regions
                ),
            )
