"""Call Label Studio's API for projects, tasks, annotations, predictions, users and ML backends."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from backend.errors import LabelStudioNotFoundError, NotFoundError, ProjectMissingError
from backend.label_studio import Json
from backend.label_studio.api_errors import not_label_studio
from backend.label_studio.api_session import ApiSession
from backend.label_studio.json_values import read_object, read_objects
from backend.label_studio.project_details import (
    BackendConnection,
    ProjectCounters,
    ProjectDetails,
)
from backend.label_studio.project_names import match_projects

TASK_PAGE_SIZE = 500
"""Tasks per page; with 1,000, Label Studio on SQLite fails ('Expression tree is too large')."""
CHANGED_TASK_PAGE_SIZE = 50
"""Tasks per page of changed tasks, which are usually few."""
PREDICTION_BATCH_SIZE = 500
"""Predictions per request; on SQLite, a request blocks all other writes for up to 5 s."""
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
UNCERTAINTY_SAMPLING = "Uncertainty sampling"
"""Value of a project's ``sampling`` that sorts its queue by prediction score, lowest first."""
MACHINE_USER: Json = {
    "email": "prelabel@machine.invalid",
    "username": "prelabel",
    "first_name": "Prelabel",
    "last_name": "(machine)",
}
"""User that auto-accepted annotations are created as; it has no password, so nobody can log in."""


class LabelStudioClient(ApiSession):
    """A client of Label Studio's API. See :class:`ApiSession` for its arguments."""

    # -- projects ---------------------------------------------------------------------------

    def get_project(self, number: int) -> ProjectDetails:
        """Return a project with its counters.

        Raises:
            ProjectMissingError: the project does not exist.
        """
        try:
            project: ProjectDetails | list[object] = self.get_json(f"api/projects/{number}/")
        except NotFoundError as error:
            self._list_projects("id")  # raises if the server is not Label Studio
            raise ProjectMissingError(
                f"{self.server} has no project {number}: use the number in the address of its page."
            ) from error
        if not isinstance(project, dict) or "label_config" not in project:
            raise not_label_studio(self.server)
        return project

    def list_projects(self) -> list[ProjectDetails]:
        """Return all projects with ``id`` and ``title``."""
        return self._list_projects("id,title")

    def list_project_descriptions(self) -> list[ProjectDetails]:
        """Return all projects with ``id``, ``title``, ``description`` and ``created_at``."""
        return self._list_projects("id,title,description,created_at")

    def _list_projects(self, fields: str) -> list[ProjectDetails]:
        parameters = {"page_size": TASK_PAGE_SIZE, "include": fields}
        try:
            return list(self.get_json("api/projects/", parameters)["results"])
        except (NotFoundError, TypeError, KeyError) as error:  # every Label Studio has this list
            raise not_label_studio(self.server) from error

    def find_project_number(self, name: str) -> int:
        """Return the number of the project with a given number, title or start of a title.

        Args:
            name: see :func:`match_projects`; "" for the only project.

        Raises:
            NotFoundError: no project or several projects match; the message lists all projects.
        """
        if name.isdigit():
            return self.get_project(int(name))["id"]
        projects = sorted(self.list_projects(), key=lambda project: project["id"])
        names = {project["id"]: (str(project["id"]), project["title"]) for project in projects}
        numbers = match_projects(name, names)
        if len(numbers) != 1:
            titles = ", ".join(f"{p['id']} ({p['title']})" for p in projects) or "none"
            question = f"Which project is {name!r}?" if name else "Which project?"
            raise NotFoundError(f"{question} {self.server} has: {titles}.")
        return numbers[0]

    def create_project(self, fields: Json) -> ProjectDetails:
        """Create a project and return it."""
        created: ProjectDetails = self.request_json("POST", "api/projects/", json=fields)
        return created

    def set_model_version(self, number: int, version: str) -> None:
        """Set the model version of a project, and sort its queue by prediction score."""
        body = {"model_version": version, "sampling": UNCERTAINTY_SAMPLING}
        self.request_json("PATCH", f"api/projects/{number}/", json=body)

    def set_label_config(self, number: int, xml: str) -> None:
        """Replace the labeling config of a project."""
        self.request_json("PATCH", f"api/projects/{number}/", json={"label_config": xml})

    def get_counters(self, number: int) -> ProjectCounters:
        """Return the counters of a project's tasks, annotations and predictions."""
        rows: list[ProjectCounters] = self.get_json("api/projects/counts/", {"ids": number})[
            "results"
        ]
        if not rows:
            raise ProjectMissingError(f"{self.server} has no project {number}.")
        return rows[0]

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

    def import_tasks(self, number: int, tasks: Sequence[Json]) -> list[int]:
        """Add tasks with ``data``, ``predictions`` and ``annotations``; return their ids."""
        path, query = f"api/projects/{number}/import", {"return_task_ids": "true"}
        created = self.request_json("POST", path, query, json=tasks)
        return [int(id) for id in created["task_ids"]]

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
        after the last id, so that labels of the meantime shift no task out of the list.
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
        annotations_by_id: dict[int, list[Json]] = {}
        for counter in ("total_annotations", "cancelled_annotations"):
            for row in self._iter_tasks(number, ANNOTATION_FIELDS, _nonzero_filter(counter)):
                annotations_by_id[row["id"]] = row["annotations"]
        return annotations_by_id

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

    def update_annotation(self, id: int, result: Sequence[Json]) -> None:
        """Replace the result of an annotation.

        Raises:
            NotFoundError: the annotation was deleted.
        """
        body = {"result": list(result)}
        self.request_json("PATCH", f"api/annotations/{id}/", json=body)

    # -- predictions ------------------------------------------------------------------------

    def prediction_counts(self, number: int) -> dict[str, int]:
        """Return version → number of its predictions in a project."""
        path = f"api/projects/{number}/model-versions/"
        response = self.get_json(path, {"extended": "true"})
        return {str(row["model_version"]): int(row["count"]) for row in response["static"] or []}

    def prediction_tasks(self, number: int, *versions: str) -> dict[int, int]:
        """Return prediction id → task id, for the predictions of some versions."""
        return {row["id"]: row["task"] for row in self._list_predictions(number, *versions)}

    def queue_scores(self, number: int, version: str) -> dict[int, tuple[int, float]]:
        """Return task id → (prediction id, score), for the predictions of a version."""
        rows = self._list_predictions(number, version)
        return {row["task"]: (row["id"], float(row["score"] or 0.0)) for row in rows}

    def _list_predictions(self, number: int, *versions: str) -> list[Json]:
        rows = self.get_json("api/predictions/", {"project": number})
        return [row for row in rows if row["model_version"] in versions]

    def add_prediction(self, prediction: Json) -> int:
        """Add one prediction and return its id."""
        return int(self.request_json("POST", "api/predictions/", json=prediction)["id"])

    def import_predictions(self, number: int, predictions: Sequence[Json]) -> int:
        """Add predictions in one bulk request.

        Returns:
            the number of created predictions. It is lower than the number sent if some refer to a
            label or task that no longer exists.
        """
        path = f"api/projects/{number}/import/predictions"
        return int(self.request_json("POST", path, json=predictions)["created"])

    def update_prediction(self, id: int, fields: Json) -> None:
        """Change the ``score`` or ``mislabeling`` of a prediction, if it still exists."""
        with contextlib.suppress(NotFoundError):
            path = f"api/predictions/{id}/"
            self.request_json("PATCH", path, json=fields)

    def delete_prediction(self, id: int) -> None:
        """Delete a prediction, if it still exists."""
        with contextlib.suppress(NotFoundError):
            self.request_json("DELETE", f"api/predictions/{id}/")

    # -- users and ML backends ----------------------------------------------------------------

    def ensure_machine_user(self) -> int:
        """Return the id of the machine user; create it if it does not exist."""
        user_id = self.find_machine_user()
        return user_id or int(self.request_json("POST", "api/users/", json=MACHINE_USER)["id"])

    def find_machine_user(self) -> int:
        """Return the id of the machine user; 0 if it does not exist."""
        return self._user_ids().get(MACHINE_USER["email"], 0)

    def _user_ids(self) -> dict[str, int]:
        return {str(row["email"]): int(row["id"]) for row in self.get_json("api/users/")}

    def list_backends(self, number: int) -> list[BackendConnection]:
        """Return a project's ML backends; Label Studio first checks the health of each."""
        return [
            BackendConnection(
                str(row["url"]).rstrip("/"),
                str(row["state"]),
                str(row.get("error_message") or ""),
                int(row["id"]),
                bool(row.get("is_interactive")),
            )
            for row in self.get_json("api/ml/", {"project": number})
        ]

    def add_backend(
        self, number: int, url: str, auth: tuple[str, str] | None, *, is_interactive: bool = False
    ) -> None:
        """Connect an ML backend; Label Studio calls it immediately and adds a webhook."""
        body = {**_backend_fields(number, url, auth, is_interactive), "title": "Prelabel"}
        self.request_json("POST", "api/ml/", json=body)

    def set_interactive(
        self,
        connection: BackendConnection,
        number: int,
        auth: tuple[str, str] | None,
        *,
        is_interactive: bool,
    ) -> None:
        """Set whether smart tools call an ML backend; Label Studio calls it immediately."""
        body = _backend_fields(number, connection.url, auth, is_interactive)
        self.request_json("PATCH", f"api/ml/{connection.id}", json=body)


def _backend_fields(
    number: int, url: str, auth: tuple[str, str] | None, is_interactive: bool
) -> Json:
    fields: Json = {"project": number, "url": url, "is_interactive": is_interactive}
    if auth:
        user, password = auth
        fields |= {
            "auth_method": "BASIC_AUTH",
            "basic_auth_user": user,
            "basic_auth_pass": password,
        }
    return fields


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
