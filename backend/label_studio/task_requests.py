"""Call Label Studio's API for tasks and annotations."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from backend.errors import LabelStudioNotFoundError, NotFoundError
from backend.label_studio import Json
from backend.label_studio.api_session import ApiSession
from backend.label_studio.json_values import read_object, read_objects

TASK_PAGE_SIZE = 500
"""Tasks per page; with 1,000, Label Studio on SQLite fails ('Expression tree is too large')."""
CHANGED_TASK_PAGE_SIZE = 50
"""Tasks per page of changed tasks, which are usually few."""
TASK_FIELDS = "id,data,is_labeled,updated_at"
ANNOTATION_FIELDS = (
    "id,annotations,result,was_cancelled,ground_truth,completed_by,created_at,updated_at"
)
"""Fields of a task and, because Label Studio applies the same list, of its annotations."""
LABELED_TASK_FIELDS = f"data,is_labeled,{ANNOTATION_FIELDS}"
DRAFT_FIELDS = "id,draft_exists"
LABELED_TASK_PAGE_SIZE = 100
"""Labeled tasks per page: a task whose image is part of its data may have megabytes."""
CHANGE_FIELDS = "id,is_labeled,total_annotations,cancelled_annotations,updated_at"
ANNOTATION_COUNT_FIELDS = "id,data,total_annotations,cancelled_annotations"
LATEST_FIRST: Json = {"ordering": ["-tasks:updated_at"]}


class TaskRequests(ApiSession):
    """Requests about tasks and annotations."""

    # -- tasks ------------------------------------------------------------------------------

    def upload_images(self, number: int, files: Sequence[tuple[str, bytes]]) -> list[str]:
        """Upload images without creating tasks.

        Args:
            number: project number.
            files: names and contents; at most 100, Label Studio's limit per request.

        Returns:
            the addresses of the images, for the data of tasks.
        """
        parts = {str(index): file for index, file in enumerate(files)}
        path, query = f"api/projects/{number}/import", {"commit_to_project": "false"}
        ids = self.request_json("POST", path, query, files=parts)["file_upload_ids"]
        rows = self.get_json(f"api/projects/{number}/file-uploads", {"ids": json.dumps(ids)})
        file_paths = {row["id"]: row["file"] for row in rows}
        prefix = urlsplit(self.server).path
        return [f"{prefix}/data/{file_paths[id]}" for id in ids]

    def add_tasks(self, number: int, rows: Sequence[Json]) -> int:
        """Add tasks with ``data`` and return the number of added tasks."""
        path = f"api/projects/{number}/import"
        return int(self.request_json("POST", path, json=rows)["task_count"])

    def import_task(
        self, number: int, data: Json, predictions: Sequence[Json] = ()
    ) -> tuple[int, int]:
        """Add a task with predictions; return its id and the number of created predictions.

        Label Studio on SQLite repeats an import while its database is locked, and the repetition
        creates the task without its predictions.
        """
        path, query = f"api/projects/{number}/import", {"return_task_ids": "true"}
        row = {"data": data, "predictions": list(predictions)}
        created = self.request_json("POST", path, query, json=[row])
        return int(created["task_ids"][0]), int(created["prediction_count"])

    def last_updated_at(self, number: int) -> str:
        """Return when a task or annotation last changed (ISO 8601); "" without tasks."""
        rows = self._get_task_page(number, "id,updated_at", 1, LATEST_FIRST, size=1)
        return str(rows[0]["updated_at"]) if rows else ""

    def iter_tasks(self, number: int) -> Iterator[Json]:
        """Yield all tasks with ``id``, ``data``, ``is_labeled`` and ``updated_at``."""
        yield from self._iter_tasks(number, TASK_FIELDS, {})

    def iter_changed_tasks(self, number: int, since: str) -> Iterator[Json]:
        """Yield the tasks that changed after a time, latest first.

        Each has ``id, is_labeled, total_annotations, cancelled_annotations, updated_at``. The total
        excludes cancelled (skipped) annotations.

        Args:
            number: project number.
            since: time in ISO 8601, as returned by :meth:`last_updated_at`.
        """
        for row in self._iter_tasks(number, CHANGE_FIELDS, LATEST_FIRST, CHANGED_TASK_PAGE_SIZE):
            if str(row["updated_at"]) <= since:
                return
            yield row

    def tasks_by_field(self, number: int, field: str) -> dict[str, int]:
        """Return value of a data field → task id, for the tasks that have the field."""
        query = _task_filter(f"data.{field}", "empty", "String", False)
        rows = self._iter_tasks(number, "id,data", query)
        return {str(row["data"][field]): row["id"] for row in rows if row["data"].get(field)}

    def iter_annotation_counts(self, number: int) -> Iterator[Json]:
        """Yield all tasks with ``id``, ``data`` and the number of annotations and of skips."""
        yield from self._iter_tasks(number, ANNOTATION_COUNT_FIELDS, {})

    def skipped_task_ids(self, number: int) -> set[int]:
        """Return the ids of skipped tasks, which :meth:`task_annotations` does not report."""
        query = _nonzero_filter("cancelled_annotations")
        rows = self._iter_tasks(number, "id,cancelled_annotations", query)
        return {row["id"] for row in rows if row["cancelled_annotations"]}

    def _iter_tasks(
        self, number: int, fields: str, query: Json, size: int = TASK_PAGE_SIZE
    ) -> Iterator[Json]:
        page = 1
        while True:
            rows = self._get_task_page(number, fields, page, query, size)
            yield from rows
            if len(rows) < size:
                return
            page += 1

    def _get_task_page(
        self, number: int, fields: str, page: int, query: Json, size: int
    ) -> list[Json]:
        parameters = {
            "project": number,
            "include": fields,
            "page": page,
            "page_size": size,
            "query": json.dumps({"ordering": ["tasks:id"]} | query),
            "resolve_uri": "false",
        }
        if "annotations" in fields:
            parameters["fields"] = "all"
        try:
            return list(self.get_json("api/tasks/", parameters)["tasks"])
        except NotFoundError:
            if page > 1:  # the page after the last one
                return []
            raise

    # -- annotations ------------------------------------------------------------------------

    def iter_labeled_tasks(self, number: int) -> Iterator[Json]:
        """Yield the tasks with annotations by id, each with ``data`` and ``annotations``.

        Tasks that were only skipped are left out. One page is in memory at a time, and it starts
        after the last id, so that labels submitted meanwhile do not cause tasks to be skipped.
        """
        yield from self._iter_by_id(
            number, LABELED_TASK_FIELDS, _nonzero_filter("total_annotations")
        )

    def iter_annotations(self, number: int) -> Iterator[tuple[int, list[Json]]]:
        """Yield the id and the annotations of each annotated or skipped task, page by page.

        A task with both kinds of annotations may appear twice.
        """
        for counter in ("total_annotations", "cancelled_annotations"):
            for row in self._iter_by_id(number, ANNOTATION_FIELDS, _nonzero_filter(counter)):
                yield row["id"], read_objects(row, "annotations")

    def iter_drafts(self, number: int) -> Iterator[Json]:
        """Yield the drafts of all users, page by page."""
        query = _task_filter("draft_exists", "equal", "Boolean", True)
        for row in self._iter_by_id(number, DRAFT_FIELDS, query):
            # lists of tasks have only the drafts of the token's owner
            yield from self.get_json(f"api/tasks/{row['id']}/drafts")

    def _iter_by_id(self, number: int, fields: str, query: Json) -> Iterator[Json]:
        """Yield tasks page by page; each page starts after the last id."""
        last_id, size = 0, LABELED_TASK_PAGE_SIZE
        while True:
            after = _task_filter("id", "greater", "Number", last_id)
            rows = self._get_task_page(number, fields, 1, _join_filters(query, after), size)
            yield from rows
            if len(rows) < size:
                return
            last_id = rows[-1]["id"]

    def task_data(self, number: int, task: int) -> Json:
        """Return the data of a task.

        Raises:
            LabelStudioNotFoundError: the task was deleted.
        """
        # the task's own page of the API would ask the ML backend for a prediction
        query = _task_filter("id", "equal", "Number", task)
        rows = self._get_task_page(number, "id,data", 1, query, 1)
        if not rows:
            raise LabelStudioNotFoundError(f"{self.server} has no task {task}.")
        return read_object(rows[0], "data")

    def annotations_by_task(self, number: int) -> dict[int, list[Json]]:
        """Return task id → annotations, including skipped ones."""
        return dict(self.iter_annotations(number))

    def task_annotations(self, task: int) -> list[Json]:
        """Return the annotations of a task, without skipped ones.

        Raises:
            NotFoundError: the task was deleted.
        """
        return list(self.get_json(f"api/tasks/{task}/annotations/"))

    def create_annotation(self, task: int, result: Sequence[Json], user_id: int = 0) -> int:
        """Annotate a task as a user (0: the token's owner) and return the annotation id."""
        body: Json = {"result": list(result), "lead_time": 0}
        body |= {"completed_by": user_id} if user_id else {}
        created = self.request_json("POST", f"api/tasks/{task}/annotations/", json=body)
        return int(created["id"])

    def get_annotation(self, id: int) -> Json:
        """Return an annotation.

        Raises:
            NotFoundError: it was deleted.
        """
        annotation: Json = self.get_json(f"api/annotations/{id}/")
        return annotation

    def delete_annotation(self, id: int) -> None:
        """Delete an annotation, if it still exists."""
        with contextlib.suppress(NotFoundError):
            self.request_json("DELETE", f"api/annotations/{id}/")

    def update_draft(self, id: int, result: Sequence[Json]) -> None:
        """Replace the result of a draft.

        Raises:
            NotFoundError: it was submitted or deleted.
        """
        self.request_json("PATCH", f"api/drafts/{id}/", json={"result": list(result)})

    def update_annotation(self, id: int, result: Sequence[Json]) -> Json:
        """Replace the result of an annotation, and return the annotation.

        Raises:
            NotFoundError: the annotation was deleted.
        """
        body = {"result": list(result)}
        annotation: Json = self.request_json("PATCH", f"api/annotations/{id}/", json=body)
        return annotation


def _nonzero_filter(counter: str) -> Json:
    """Return a query for the tasks whose counter is not 0."""
    return _task_filter(counter, "greater", "Number", 0)


def _task_filter(field: str, operator: str, kind: str, value: object) -> Json:
    """Return a query for the tasks whose field meets a condition, such as ``equal`` to a number."""
    item = {"filter": f"filter:tasks:{field}", "operator": operator, "type": kind, "value": value}
    return {"filters": {"conjunction": "and", "items": [item]}}


def _join_filters(*queries: Json) -> Json:
    """Return a query for the tasks that match all queries."""
    items = [item for query in queries for item in query["filters"]["items"]]
    return {"filters": {"conjunction": "and", "items": items}}
