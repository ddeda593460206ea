"""Label Studio's API: projects, tasks, annotations, predictions, ML backends and exports."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict
from urllib.parse import urlsplit

from backend.errors import ConfigError, LabelStudioError, LabelStudioNotFoundError, NotFoundError
from backend.label_studio import Json
from backend.label_studio.api_errors import not_label_studio
from backend.label_studio.api_session import ApiSession

TASK_PAGE_SIZE = 500
"""Tasks per page: on SQLite, Label Studio fails at 1,000 ('Expression tree is too large')."""
CHANGED_TASK_PAGE_SIZE = 50
"""Tasks per page of a list that usually ends early."""
PREDICTION_BATCH_SIZE = 500
"""Predictions per request: on SQLite, it blocks all other writes for up to 5 s."""
EXPORT_TIMEOUT_SECONDS = 600.0
"""An export reads the size of every image, and downloads all images if they are included."""
TASK_FIELDS = "id,data,is_labeled,updated_at"
ANNOTATION_FIELDS = (
    "id,annotations,result,was_cancelled,ground_truth,completed_by,created_at,updated_at"
)
"""Label Studio applies the list to the annotations inside a task as well."""
CHANGE_FIELDS = "id,is_labeled,total_annotations,cancelled_annotations,updated_at"
ANNOTATION_COUNT_FIELDS = "id,data,total_annotations,cancelled_annotations"
LATEST_FIRST: Json = {"ordering": ["-tasks:updated_at"]}
UNCERTAINTY_SAMPLING = "Uncertainty sampling"
"""The value of a project's ``sampling`` with which its queue follows the score, low first."""
MACHINE_USER: Json = {
    "email": "prelabel@machine.invalid",
    "username": "prelabel",
    "first_name": "Prelabel",
    "last_name": "(machine)",
}
"""The user that signs accepted predictions; nobody can log in as it."""


class ProjectDetails(TypedDict, total=False):
    """A project as Label Studio lists it; only the fields that are read here."""

    id: int
    title: str
    description: str | None
    created_at: str
    label_config: str
    sampling: str
    model_version: str | None
    show_collab_predictions: bool
    task_number: int
    num_tasks_with_annotations: int


class ProjectCounters(TypedDict, total=False):
    """The counters of a project; only those that are read here."""

    task_number: int
    total_annotations_number: int
    skipped_annotations_number: int
    total_predictions_number: int


@dataclass(frozen=True)
class BackendConnection:
    """An ML backend that a project is connected to.

    Attributes:
        url: address at which Label Studio calls it; may contain the webhook secret.
        state: result of Label Studio's last call, such as ``CO`` (connected).
        error: error of that call.
    """

    url: str
    state: str
    error: str


class LabelStudioClient(ApiSession):
    """The API of one Label Studio with one token. See :class:`ApiSession`."""

    # -- projects ---------------------------------------------------------------------------

    def get_project(self, number: int) -> ProjectDetails:
        """Return a project with its counters.

        Raises:
            NotFoundError: there is no such project.
        """
        try:
            project: ProjectDetails | list[object] = self.get_json(f"api/projects/{number}/")
        except NotFoundError as error:
            self._list_projects("id")  # fails if the server is no Label Studio
            raise NotFoundError(
                f"{self.server} has no project {number}: its number is in the address of its page."
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
        """Return the number of the project with this number or title.

        Raises:
            NotFoundError: none or several match; the message lists all projects.
        """
        if name.isdigit():
            return self.get_project(int(name))["id"]
        projects = self.list_projects()
        numbers = [project["id"] for project in projects if project["title"] == name]
        if len(numbers) != 1:
            titles = ", ".join(f"{p['id']} ({p['title']})" for p in projects) or "none"
            raise NotFoundError(f"Which project is {name!r}? {self.server} has: {titles}.")
        return numbers[0]

    def create_project(self, fields: Json) -> ProjectDetails:
        """Create a project and return it."""
        created: ProjectDetails = self.request_json("POST", "api/projects/", json=fields)
        return created

    def set_model_version(self, number: int, version: str) -> None:
        """Point a project at a version and let its queue follow the score, low first."""
        body = {"model_version": version, "sampling": UNCERTAINTY_SAMPLING}
        self.request_json("PATCH", f"api/projects/{number}/", json=body)

    def get_counters(self, number: int) -> ProjectCounters:
        """Return the counters of a project, which change with its tasks and annotations."""
        rows: list[ProjectCounters] = self.get_json("api/projects/counts/", {"ids": number})[
            "results"
        ]
        if not rows:
            raise LabelStudioNotFoundError(f"{self.server} has no project {number}.")
        return rows[0]

    def export_labels(self, number: int, format_name: str) -> tuple[str, bytes]:
        """Export the labeled tasks of a project with Label Studio's converter.

        Args:
            number: the project's.
            format_name: of the converter, such as ``COCO``.

        Returns:
            the file's name and content, mostly a zip.

        Raises:
            ConfigError: the labeling config has nothing that the format can hold.
            LabelStudioError: Label Studio refused, or failed.
        """
        rows = self.get_json(f"api/projects/{number}/export/formats")
        available = [str(row["name"]) for row in rows if not row.get("disabled")]
        if format_name not in available:
            raise ConfigError(
                f"Label Studio cannot export project {number} as {format_name}, which holds boxes "
                f"(RectangleLabels). It offers {', '.join(available)} on the project's page Export."
            )
        path, parameters = f"api/projects/{number}/export", {"exportType": format_name}
        response = self.request("GET", path, parameters, timeout=EXPORT_TIMEOUT_SECONDS)
        if response.status_code >= 400:
            raise LabelStudioError(
                f"Label Studio failed to export {format_name} ({response.status_code}). Its log "
                "has the reason; often it cannot read an image of the project."
            )
        file_name = str(response.headers.get("filename") or f"{format_name}.zip")
        return file_name, bytes(response.content)

    # -- tasks ------------------------------------------------------------------------------

    def upload_images(self, number: int, files: Sequence[tuple[str, bytes]]) -> list[str]:
        """Upload images without creating tasks.

        Args:
            number: the project's.
            files: name and content; at most 100, Label Studio's limit per request.

        Returns:
            the address of each image for the data of a task.
        """
        parts = {str(index): file for index, file in enumerate(files)}
        path, query = f"api/projects/{number}/import", {"commit_to_project": "false"}
        ids = self.request_json("POST", path, query, files=parts)["file_upload_ids"]
        rows = self.get_json(f"api/projects/{number}/file-uploads", {"ids": json.dumps(ids)})
        file_paths = {row["id"]: row["file"] for row in rows}
        prefix = urlsplit(self.server).path
        return [f"{prefix}/data/{file_paths[id]}" for id in ids]

    def add_tasks(self, number: int, rows: Sequence[Json]) -> int:
        """Add tasks by their ``data`` and return how many were added."""
        path = f"api/projects/{number}/import"
        return int(self.request_json("POST", path, json=rows)["task_count"])

    def import_tasks(self, number: int, tasks: Sequence[Json]) -> list[int]:
        """Add tasks with ``data``, ``predictions`` and ``annotations``; return their numbers."""
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

        Each has ``id, is_labeled, total_annotations, cancelled_annotations, updated_at``. Skipped
        annotations are not part of the total.

        Args:
            number: the project's.
            since: ISO 8601, as returned by :meth:`last_updated_at`.
        """
        for row in self._iter_tasks(number, CHANGE_FIELDS, LATEST_FIRST, CHANGED_TASK_PAGE_SIZE):
            if str(row["updated_at"]) <= since:
                return
            yield row

    def tasks_by_field(self, number: int, field: str) -> dict[str, int]:
        """Return the tasks whose data have a field: its value → the task's number."""
        query = _task_filter(f"data.{field}", "empty", "String", False)
        rows = self._iter_tasks(number, "id,data", query)
        return {str(row["data"][field]): row["id"] for row in rows if row["data"].get(field)}

    def iter_annotation_counts(self, number: int) -> Iterator[Json]:
        """Yield all tasks with ``id``, ``data`` and the number of annotations and of skips."""
        yield from self._iter_tasks(number, ANNOTATION_COUNT_FIELDS, {})

    def skipped_task_ids(self, number: int) -> set[int]:
        """Return the tasks that somebody skipped; :meth:`task_annotations` omits skips."""
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

    def annotations_by_task(self, number: int) -> dict[int, list[Json]]:
        """Return the annotations of all tasks that have any, by task; includes skipped ones."""
        annotations_by_id: dict[int, list[Json]] = {}
        for counter in ("total_annotations", "cancelled_annotations"):
            for row in self._iter_tasks(number, ANNOTATION_FIELDS, _nonzero_filter(counter)):
                annotations_by_id[row["id"]] = row["annotations"]
        return annotations_by_id

    def task_annotations(self, task: int) -> list[Json]:
        """Return the annotations of a task; Label Studio omits skipped ones.

        Raises:
            NotFoundError: the task was deleted.
        """
        return list(self.get_json(f"api/tasks/{task}/annotations/"))

    def create_annotation(self, task: int, result: Sequence[Json], user_id: int = 0) -> int:
        """Annotate a task in the name of a user (0: the token's) and return the annotation's id."""
        body: Json = {"result": list(result), "lead_time": 0}
        body |= {"completed_by": user_id} if user_id else {}
        created = self.request_json("POST", f"api/tasks/{task}/annotations/", json=body)
        return int(created["id"])

    def update_annotation(self, id: int, result: Sequence[Json]) -> None:
        """Replace the result of an annotation.

        Raises:
            NotFoundError: it was deleted.
        """
        body = {"result": list(result)}
        self.request_json("PATCH", f"api/annotations/{id}/", json=body)

    # -- predictions ------------------------------------------------------------------------

    def prediction_counts(self, number: int) -> dict[str, int]:
        """Return the number of predictions in a project by version."""
        path = f"api/projects/{number}/model-versions/"
        response = self.get_json(path, {"extended": "true"})
        return {str(row["model_version"]): int(row["count"]) for row in response["static"] or []}

    def prediction_tasks(self, number: int, *versions: str) -> dict[int, int]:
        """Return the predictions of some versions: prediction id → task number."""
        return {row["id"]: row["task"] for row in self._list_predictions(number, *versions)}

    def queue_scores(self, number: int, version: str) -> dict[int, tuple[int, float]]:
        """Return a version's predictions: task number → (prediction id, score)."""
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
            how many Label Studio created. Fewer than sent if some refer to a label or task that
            no longer exists.
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

    # -- users, tabs and ML backends ----------------------------------------------------------

    def count_users(self) -> int:
        """Return the number of users without the machine user."""
        return len(self._user_ids().keys() - {MACHINE_USER["email"]})

    def ensure_machine_user(self) -> int:
        """Return the id of the user that signs accepted predictions; create it if needed."""
        user_id = self.find_machine_user()
        return user_id or int(self.request_json("POST", "api/users/", json=MACHINE_USER)["id"])

    def find_machine_user(self) -> int:
        """Return the id of the user that signs accepted predictions; 0 if there is none."""
        return self._user_ids().get(MACHINE_USER["email"], 0)

    def _user_ids(self) -> dict[str, int]:
        return {str(row["email"]): int(row["id"]) for row in self.get_json("api/users/")}

    def ensure_tab(self, number: int, title: str, view: Json) -> None:
        """Create or update a tab of the Data Manager.

        Args:
            number: the project's.
            title: of the tab.
            view: its ``filters`` and ``ordering``.
        """
        columns: Json = {"hiddenColumns": {"explore": [], "labeling": []}}
        path, query = "api/dm/views/", {"project": number}
        tabs = self.get_json(path, query)
        tab = next((tab for tab in tabs if tab["data"].get("title") == title), None)
        if tab is None:
            body: Json = {"project": number, "data": {"title": title, **columns, **view}}
            self.request_json("POST", path, query, json=body)
        elif any(tab["data"].get(key) != value for key, value in view.items()):
            body = {"project": number, "data": {**tab["data"], **view}}
            self.request_json("PATCH", f"{path}{tab['id']}/", query, json=body)

    def list_backends(self, number: int) -> list[BackendConnection]:
        """Return a project's ML backends; Label Studio calls each before it answers."""
        return [
            BackendConnection(
                str(row["url"]).rstrip("/"), str(row["state"]), str(row.get("error_message") or "")
            )
            for row in self.get_json("api/ml/", {"project": number})
        ]

    def add_backend(self, number: int, url: str, auth: tuple[str, str] | None) -> None:
        """Connect an ML backend; Label Studio calls it at once and adds its webhook."""
        body: Json = {"project": number, "url": url, "title": "Prelabel", "is_interactive": False}
        if auth:
            user, password = auth
            body |= {
                "auth_method": "BASIC_AUTH",
                "basic_auth_user": user,
                "basic_auth_pass": password,
            }
        self.request_json("POST", "api/ml/", json=body)


def _nonzero_filter(counter: str) -> Json:
    """Return a query for the tasks whose counter is not 0."""
    return _task_filter(counter, "greater", "Number", 0)


def _task_filter(field: str, operator: str, type_name: str, value: object) -> Json:
    item = {
        "filter": f"filter:tasks:{field}",
        "operator": operator,
        "type": type_name,
        "value": value,
    }
    return {"filters": {"conjunction": "and", "items": [item]}}
