"""Import images captured by the endpoint as tasks, with their predictions.

Each image becomes exactly one task, even if the process is killed during the import: the next
import finds the task by the request id in its data.
"""

from __future__ import annotations

import logging
import time
import unicodedata
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

from backend.errors import LabelStudioError, NotFoundError
from backend.label_studio.labeling_config import read_config
from backend.label_studio.task_results import CAPTURE_REASON_FIELD
from backend.runtime.project_session import ProjectSession
from backend.store.captures import DAY_SECONDS, Capture

log = logging.getLogger("prelabel")
REQUEST_ID_KEY, EXTERNAL_ID_KEY = "prelabel_request", "prelabel_external"
"""Fields of an imported task's data: the request id, and the caller's id for the image."""
RETRYABLE_STATUSES = frozenset({401, 403, 408, 429})
"""4xx statuses after which a retry can succeed; others reject the request for good."""
CAPTURE_BATCH_SIZE = 16
"""Number of images imported between two calls of ``should_stop``."""


class CaptureImporter:
    """Imports the captured images of one project.

    Args:
        session: the project's session.
    """

    def __init__(self, session: ProjectSession) -> None:
        self._session = session
        self._captures = session.captures
        self._connection = session.connection

    def import_pending(self, should_stop: Callable[[], bool] = lambda: False) -> int:
        """Import the pending captures.

        Args:
            should_stop: called after each batch; if it returns True, the rest stays pending.

        Returns:
            the number of captures that became tasks, or whose task got a correction by an
            application.

        Raises:
            LabelStudioError: Label Studio is unreachable or rejected the token; the captures stay
                pending.
        """
        waiting = list(self._captures.pending())
        if not waiting:
            return 0
        tasks_by_request = self._connection.client.tasks_by_field(
            self._session.number, REQUEST_ID_KEY
        )
        imported_count = 0
        for start in range(0, len(waiting), CAPTURE_BATCH_SIZE):
            for capture in waiting[start : start + CAPTURE_BATCH_SIZE]:
                imported_count += self._import_or_defer(capture, tasks_by_request)
            if should_stop():
                break
        retention_days = self._session.settings.capture_retention_days
        self._captures.delete_stale_imports(time.time() - retention_days * DAY_SECONDS)
        if imported_count:
            log.info("project %s: imported %s captured images", self._session.id, imported_count)
        return imported_count

    def _import_or_defer(self, capture: Capture, tasks_by_request: dict[str, int]) -> bool:
        """Import one capture; if Label Studio rejects it, log it and leave it pending."""
        try:
            return self._import_capture(capture, tasks_by_request)
        except LabelStudioError as error:
            if not _is_rejected(error):
                raise
            log.warning(
                "project %s: captured image %s was rejected and stays pending: %s",
                self._session.id,
                capture.id,
                error,
            )
            return False

    def _import_capture(self, capture: Capture, tasks_by_request: dict[str, int]) -> bool:
        import_state = self._captures.import_record(capture)
        task = import_state.task_id or tasks_by_request.get(capture.id, 0)
        if not task:
            content = self._captures.read_image(capture)
            if content is None:
                return False  # deleted in the meantime, because its retention ended
            task = self._create_task(capture, content)
        annotation_id = 0
        if (
            capture.annotation is not None
            and import_state.annotation_hash != capture.annotation_hash
        ):
            try:
                annotation_id = self._write_annotation(
                    task, capture.annotation, import_state.annotation_id
                )
            except NotFoundError:
                self._connection.client.get_project(
                    self._session.number
                )  # raises if the project is gone
                log.info(
                    "project %s: task %s was deleted, so its annotation is dropped",
                    self._session.id,
                    task,
                )
        has_annotation = capture.annotation is not None
        self._captures.record_import(
            capture, task, has_annotation, annotation_id or import_state.annotation_id
        )
        return True

    def _write_annotation(self, task: int, result: list[dict[str, Any]], previous_id: int) -> int:
        """Create or replace the annotation of a task.

        Args:
            task: id of the task.
            result: result of the annotation.
            previous_id: id of the annotation to replace; 0: unknown.

        Returns:
            the id of the annotation.

        Raises:
            NotFoundError: the task was deleted.
        """
        client = self._connection.client
        for annotation in client.task_annotations(task):
            if _comparable_result(annotation.get("result")) == _comparable_result(
                result
            ) and not annotation.get("was_cancelled"):
                return int(annotation["id"])  # created before a crash, but not recorded
            if annotation["id"] == previous_id:
                client.update_annotation(previous_id, result)
                return previous_id
        return client.create_annotation(task, result)

    def _create_task(self, capture: Capture, content: bytes) -> int:
        client, project_number = self._connection.client, self._session.number
        (address,) = client.upload_images(
            project_number, [(f"{capture.id}{capture.suffix}", content)]
        )
        data: dict[str, Any] = dict.fromkeys(self._image_keys, address)
        data |= {CAPTURE_REASON_FIELD: capture.why, REQUEST_ID_KEY: capture.id}
        external_id = "".join(
            character for character in capture.external if unicodedata.category(character) != "Cc"
        )
        data |= {EXTERNAL_ID_KEY: external_id} if external_id else {}
        prediction = {**capture.said, "model_version": capture.version}
        try:
            task, created_count = client.import_task(project_number, data, [prediction])
        except LabelStudioError as error:
            if not _is_rejected(error):  # the task may exist; the next import checks
                raise
            # the config may have lost a predicted label; the next round predicts again
            log.warning(
                "project %s: imported an image without its prediction: %s", project_number, error
            )
            return client.import_task(project_number, data)[0]
        if not created_count:
            client.import_predictions(project_number, [{"task": task, **prediction}])
        return task

    @cached_property
    def _image_keys(self) -> Iterable[str]:
        project = self._connection.client.get_project(self._session.number)
        config = read_config(str(project.get("label_config") or ""))
        return sorted({control.image_key for control in config.controls})


def _is_rejected(error: LabelStudioError) -> bool:
    """Return whether Label Studio rejected the request for good, without any effect."""
    return 400 <= error.status < 500 and error.status not in RETRYABLE_STATUSES


def _comparable_result(result: Any) -> list[Any]:
    """Return a result without the fields that Label Studio adds."""
    rows = result if isinstance(result, list) else []
    return [[row.get(key) for key in ("from_name", "to_name", "type", "value")] for row in rows]
