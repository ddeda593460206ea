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
from backend.inference.images import Source
from backend.loop.publish.queue_order import HEAD, Order
from backend.runtime.resources import Resources
from backend.store.projects import ProjectRecord
from backend.store.queue_front import Front
from backend.vision.images.decode import Picture, decode

log = logging.getLogger("prelabel")
SIDE = 240
"""Pixels of a small picture's longer edge: twice what a page shows, for dense screens."""
QUALITY = 80
LATEST = 6
"""Captured images that are shown."""
SUSPECTS = 12
"""Suspects that are shown with a picture."""
NEAR = 60
"""Tasks from which the front may be refilled before the next round."""


class Showcase:
    """Leaves what people look at in one project's folder.

    Args:
        resources: of this process.
        record: the project.
    """

    def __init__(self, resources: Resources, record: ProjectRecord) -> None:
        self._resources = resources
        self._record = record
        self._front = Front(resources.folder(record))

    def show_round(self, order: Order, tasks: Iterable[Task]) -> None:
        """After a round: the front of the queue, and the latest captured images."""
        near = set(order.tasks(HEAD)[:NEAR])
        order.images = addresses(task for task in tasks if task.id in near)
        self.show_queue(order)
        self._show_captures()
        self._front.trim()

    def show_queue(self, order: Order) -> None:
        """The front of the queue as it stands now."""
        asked = order.front(HEAD)
        try:
            self._front.keep(asked)
        except StoreError as error:
            log.warning("project %s: the queue is not shown: %s", self._record.id, error)
        wanted = {one.task for one in asked}
        self.keep_pictures({t: a for t, a in order.images.items() if t in wanted})

    def keep_pictures(self, images: Mapping[int, str]) -> None:
        """Small pictures of tasks that have none yet; one that cannot be read stays without."""
        missing = {t: a for t, a in images.items() if not self._front.picture(str(t)).exists()}
        if not missing:
            return
        sources = [Source(address, task) for task, address in missing.items()]
        fetched, _ = self._resources.pictures(self._record).fetch(sources, SIDE)
        found = {one.address: one.picture for one in fetched}
        for task, address in missing.items():
            if address in found:
                self._keep(str(task), found[address])

    def _show_captures(self) -> None:
        captures = self._resources.captures(self._record)
        for capture in captures.latest(LATEST):
            name = f"capture-{capture.id}"
            if self._front.picture(name).exists():
                continue
            try:
                content = captures.image(capture).read_bytes()
                most = self._resources.settings.max_image_pixels
                self._keep(name, decode(content, max_pixels=most, at_least=SIDE))
            except (ImageError, OSError) as error:
                log.info("capture %s is shown without its image: %s", capture.id, error)

    def _keep(self, name: str, picture: Picture) -> None:
        image = picture.image
        image.thumbnail((SIDE, SIDE))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=QUALITY)
        try:
            self._front.keep_picture(name, file.getvalue())
        except StoreError as error:
            log.warning("project %s: a small picture is missing: %s", self._record.id, error)


def addresses(tasks: Iterable[Task]) -> dict[int, str]:
    """By task, the address of its first image."""
    return {task.id: next(iter(task.images.values())) for task in tasks if task.images}
