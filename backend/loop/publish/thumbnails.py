"""What the dashboard shows of a project's images: the front of the queue, with small pictures.

Made in the working process, where the images are at hand: a page is read from files, fetches
nothing, and can only show what was put there.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Mapping

from backend.domain import Task
from backend.errors import ImageError, StoreError
from backend.inference.images import ImageSource
from backend.loop.publish.queue_order import QUEUE_HEAD_SIZE, QueueOrder
from backend.runtime.project_session import ProjectSession
from backend.store.queue_front import QueueFront
from backend.vision.images.decode import DecodedImage, decode_upright_image

log = logging.getLogger("prelabel")
THUMBNAIL_PIXELS = 240
"""Pixels of a small picture's longer edge: twice what a page shows, for dense screens."""
JPEG_QUALITY = 80
MAX_CAPTURES = 6
"""Captured images that are shown."""
MAX_SUSPECTS = 12
"""Suspects that are shown with a picture."""
THUMBNAIL_TASKS = 60
"""Tasks from which the front may be refilled before the next round."""


class ThumbnailPublisher:
    """Leaves what people look at in one project's folder.

    Args:
        session: of the project.
    """

    def __init__(self, session: ProjectSession) -> None:
        self._session = session
        self._front = QueueFront(session.folder)

    def publish_round(self, order: QueueOrder, tasks: Iterable[Task]) -> None:
        """After a round: the front of the queue, and the latest captured images."""
        upcoming_tasks = set(order.ranked_tasks(QUEUE_HEAD_SIZE)[:THUMBNAIL_TASKS])
        order.image_addresses = first_image_addresses(
            task for task in tasks if task.id in upcoming_tasks
        )
        self.publish_queue(order)
        self._save_capture_thumbnails()
        self._front.trim_thumbnails()

    def publish_queue(self, order: QueueOrder) -> None:
        """The front of the queue as it stands now."""
        entries = order.first_tasks(QUEUE_HEAD_SIZE)
        try:
            self._front.save_tasks(entries)
        except StoreError as error:
            log.warning("project %s: the queue is not shown: %s", self._session.id, error)
        queued_tasks = {entry.task for entry in entries}
        self.save_thumbnails(
            {
                task_id: address
                for task_id, address in order.image_addresses.items()
                if task_id in queued_tasks
            }
        )

    def save_thumbnails(self, images: Mapping[int, str]) -> None:
        """Small pictures of tasks that have none yet; one that cannot be read stays without."""
        missing = {
            t: a for t, a in images.items() if not self._front.thumbnail_path(str(t)).exists()
        }
        if not missing:
            return
        sources = [ImageSource(address, task) for task, address in missing.items()]
        fetched, _ = self._session.images.fetch(sources, THUMBNAIL_PIXELS)
        decoded_images = {fetched_image.address: fetched_image.decoded for fetched_image in fetched}
        for task, address in missing.items():
            if address in decoded_images:
                self._save_thumbnail(str(task), decoded_images[address])

    def _save_capture_thumbnails(self) -> None:
        captures = self._session.captures
        for capture in captures.latest(MAX_CAPTURES):
            name = f"capture-{capture.id}"
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
                log.info("capture %s is shown without its image: %s", capture.id, error)

    def _save_thumbnail(self, name: str, decoded: DecodedImage) -> None:
        image = decoded.image
        image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=JPEG_QUALITY)
        try:
            self._front.save_thumbnail(name, buffer.getvalue())
        except StoreError as error:
            log.warning("project %s: a small picture is missing: %s", self._session.id, error)


def first_image_addresses(tasks: Iterable[Task]) -> dict[int, str]:
    """By task, the address of its first image."""
    return {task.id: next(iter(task.images.values())) for task in tasks if task.images}
