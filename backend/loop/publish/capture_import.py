"""Images that applications asked about become tasks, with what was said of them.

Each image becomes one task, also when this process is killed in between: whoever goes on finds
the task by the request's id in its data.
"""

from __future__ import annotations

import logging
import time
import unicodedata
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

from backend.errors import LabelStudioError, NotThere
from backend.label_studio.labeling_config import read_config
from backend.label_studio.task_results import CAPTURED
from backend.runtime.resources import Resources
from backend.store.captures import DAY, Capture
from backend.store.projects import ProjectRecord

log = logging.getLogger("prelabel")
REQUEST, EXTERNAL = "prelabel_request", "prelabel_external"
"""In the data of a task that came back: the request's id, and the caller's name for the image."""
ELSEWHERE = frozenset({401, 403, 408, 429})
"""Refusals that are not about what was sent."""
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
        self._captures = resources.captures(record)
        self._connection = resources.connection(record)

    def bring(self, enough: Callable[[], bool] = lambda: False) -> int:
        """Bring back what waits.

        Args:
            enough: asked after every few images; what is left waits for the next time.

        Returns:
            how many became tasks or got their annotation.

        Raises:
            LabelStudioError: Label Studio went away, or refused the token; nothing is lost.
        """
        waiting = list(self._captures.waiting())
        if not waiting:
            return 0
        known = self._connection.client.tasks_with(self._record.number, REQUEST)
        done = 0
        for start in range(0, len(waiting), AT_ONCE):
            for capture in waiting[start : start + AT_ONCE]:
                done += self._or_wait(capture, known)
            if enough():
                break
        days = self._resources.settings.capture_days
        self._captures.forget_returned(time.time() - days * DAY)
        if done:
            log.info("project %s: %s images came back to be labeled", self._record.id, done)
        return done

    def _or_wait(self, capture: Capture, known: dict[str, int]) -> bool:
        """Bring back one; where Label Studio does not want it, it waits, and costs no other."""
        try:
            return self._one(capture, known)
        except LabelStudioError as error:
            if not _clear(error):
                raise
            log.warning("project %s: image %s waits: %s", self._record.id, capture.id, error)
            return False

    def _one(self, capture: Capture, known: dict[str, int]) -> bool:
        noted = self._captures.noted(capture)
        task = noted.task or known.get(capture.id, 0)
        if not task:
            content = self._captures.read(capture)
            if content is None:
                return False  # too old, and removed meanwhile
            task = self._make(capture, content)
        number = 0
        if capture.annotation is not None and noted.answer != capture.answer:
            try:
                number = self._answer(task, capture.annotation, noted.annotation)
            except NotThere:
                self._connection.client.project(self._record.number)  # or all of it is gone
                log.info(
                    "project %s: task %s was deleted, its answer with it", self._record.id, task
                )
        answered = capture.annotation is not None
        self._captures.returned(capture, task, answered, number or noted.annotation)
        return True

    def _answer(self, task: int, result: list[dict[str, Any]], before: int) -> int:
        """Give a task an answer, in place of the one that was given before.

        Args:
            task: its number.
            result: the answer.
            before: the number of the annotation with the earlier answer; 0: not known.

        Returns:
            the number of the annotation.

        Raises:
            NotThere: the task was deleted.
        """
        client = self._connection.client
        for given in client.given(task):
            if _plain(given.get("result")) == _plain(result) and not given.get("was_cancelled"):
                return int(given["id"])  # it was given, and the note of it was lost
            if given["id"] == before:
                client.change_annotation(before, result)
                return before
        return client.annotate(task, result)

    def _make(self, capture: Capture, content: bytes) -> int:
        client, number = self._connection.client, self._record.number
        (address,) = client.upload(number, [(f"{capture.id}{capture.suffix}", content)])
        data: dict[str, Any] = dict.fromkeys(self._keys, address)
        data |= {CAPTURED: capture.why, REQUEST: capture.id}
        external = "".join(c for c in capture.external if unicodedata.category(c) != "Cc")
        data |= {EXTERNAL: external} if external else {}
        prediction = {**capture.said, "model_version": capture.version}
        try:
            return client.import_tasks(number, [{"data": data, "predictions": [prediction]}])[0]
        except LabelStudioError as error:
            if not _clear(error):  # it may have made the task: the next look finds it, or not
                raise
            # the config may have lost a label that was said; the next round says something new
            log.warning("project %s: an image comes without prediction: %s", number, error)
            return client.import_tasks(number, [{"data": data}])[0]

    @cached_property
    def _keys(self) -> Iterable[str]:
        project = self._connection.client.project(self._record.number)
        config = read_config(str(project.get("label_config") or ""))
        return sorted({control.image_key for control in config.controls})


def _clear(error: LabelStudioError) -> bool:
    """Whether Label Studio does not want this one thing, and has done nothing."""
    return 400 <= error.status < 500 and error.status not in ELSEWHERE


def _plain(result: Any) -> list[Any]:
    """What a result says, without what Label Studio adds: numbers of its own, and where from."""
    rows = result if isinstance(result, list) else []
    return [[row.get(key) for key in ("from_name", "to_name", "type", "value")] for row in rows]
