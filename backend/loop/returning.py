"""Images that applications asked about become tasks, with what was said of them.

Each image becomes one task, also when this process is killed in between: whoever goes on finds
the task by the request's id in its data.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

from backend.errors import LabelStudioError
from backend.label_studio.config import read_config
from backend.label_studio.regions import CAPTURED
from backend.loop.resources import Resources
from backend.store.captures import DAY, Capture, Captures
from backend.store.projects import ProjectRecord

log = logging.getLogger("prelabel")
REQUEST, EXTERNAL = "prelabel_request", "prelabel_external"
"""In the data of a task that came back: the request's id, and the caller's name for the image."""
AT_ONCE = 16
"""Images between two looks at whether there is something better to do."""


class Returner:
    """Brings back the captures of one project.

    Args:
        resources: of this process.
        record: the project.
    """

    def __init__(self, resources: Resources, record: ProjectRecord) -> None:
        self._resources = resources
        self._record = record
        self._captures = Captures(resources.folder(record), resources.settings.kept)
        self._connection = resources.connection(record)

    def bring(self, enough: Callable[[], bool] = lambda: False) -> int:
        """Bring back what waits.

        Args:
            enough: asked after every few images; what is left waits for the next time.

        Returns:
            how many became tasks or got their annotation.

        Raises:
            LabelStudioError: Label Studio refused or went away; nothing is lost.
        """
        waiting = list(self._captures.waiting())
        if not waiting:
            return 0
        known = self._connection.client.tasks_with(self._record.number, REQUEST)
        done = 0
        for start in range(0, len(waiting), AT_ONCE):
            for capture in waiting[start : start + AT_ONCE]:
                done += self._one(capture, known)
            if enough():
                break
        days = self._resources.settings.capture_days
        self._captures.forget_returned(time.time() - days * DAY)
        if done:
            log.info("project %s: %s images came back to be labeled", self._record.id, done)
        return done

    def _one(self, capture: Capture, known: dict[str, int]) -> bool:
        task, annotated = self._captures.task(capture)
        task = task or known.get(capture.id, 0)
        if not task:
            content = self._captures.read(capture)
            if content is None:
                return False  # too old, and removed meanwhile
            task = self._make(capture, content)
        if capture.annotation is not None and not annotated:
            if not self._connection.client.annotated(task):
                self._connection.client.annotate(task, capture.annotation)
            annotated = True
        self._captures.returned(capture, task, annotated)
        return True

    def _make(self, capture: Capture, content: bytes) -> int:
        client, number = self._connection.client, self._record.number
        (address,) = client.upload(number, [(f"{capture.id}{capture.suffix}", content)])
        data: dict[str, Any] = dict.fromkeys(self._keys, address)
        data |= {CAPTURED: capture.why, REQUEST: capture.id}
        data |= {EXTERNAL: capture.external} if capture.external else {}
        prediction = {**capture.said, "model_version": capture.version}
        try:
            return client.import_tasks(number, [{"data": data, "predictions": [prediction]}])[0]
        except LabelStudioError as error:
            # the config may have lost a label that was said; the next round says something new
            log.warning("project %s: an image comes without prediction: %s", number, error)
            return client.import_tasks(number, [{"data": data}])[0]

    @cached_property
    def _keys(self) -> Iterable[str]:
        project = self._connection.client.project(self._record.number)
        config = read_config(str(project.get("label_config") or ""))
        return sorted({control.image_key for control in config.controls})
