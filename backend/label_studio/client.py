"""Label Studio's API, over its SDK: the one owner of calls to it.

The SDK brings the two kinds of token (a personal access token is renewed by it), the retries and
the path prefix. Lists go through its HTTP client as plain JSON: its typed models take longer to
build than Label Studio takes to answer.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from backend.errors import (
    AccessDeniedError,
    LabelStudioError,
    LabelStudioNotFoundError,
    NotFoundError,
)
from backend.label_studio.api_errors import TOKEN_PAGE, api_error, not_label_studio, parse_json

TASK_PAGE_SIZE = 500
"""Tasks in one list: on SQLite Label Studio fails at 1,000 ('Expression tree is too large')."""
CHANGED_TASK_PAGE_SIZE = 50
"""Tasks in a list that is likely to end soon."""
PREDICTION_BATCH_SIZE = 500
"""Predictions in one call: on SQLite nobody else can write meanwhile, for 5 s at the most."""
ANNOTATION_FIELDS = (
    "id,annotations,result,was_cancelled,ground_truth,completed_by,created_at,updated_at"
)
"""The list is applied to the annotations inside a task as well."""
CHANGE_FIELDS = "id,is_labeled,total_annotations,cancelled_annotations,updated_at"
CALL_TIMEOUT_SECONDS = 120.0
MAX_RETRIES = 3
Json = dict[str, Any]
MACHINE_USER: Json = {
    "email": "prelabel@machine.invalid",
    "username": "prelabel",
    "first_name": "Prelabel",
    "last_name": "(machine)",
}
"""Who signs accepted predictions; nobody can log in as it."""


class LabelStudioClient:
    """One Label Studio with one token.

    Args:
        server: its address, with the path prefix where it has one.
        token: a legacy token or a personal access token.
        timeout: seconds that a call may take.

    Raises:
        AccessDeniedError: the token is empty or has expired.
    """

    def __init__(self, server: str, token: str, timeout: float = CALL_TIMEOUT_SECONDS) -> None:
        from label_studio_sdk.client import LabelStudio
        from label_studio_sdk.core.api_error import ApiError

        self.server = server.rstrip("/")
        if not token:
            raise AccessDeniedError(
                f"No token for {self.server}: copy one from its page “{TOKEN_PAGE}” and set "
                "LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY."
            )
        try:
            self._wrapper = LabelStudio(
                base_url=self.server, api_key=token, timeout=timeout
            )._client_wrapper
        except ApiError as error:
            status = error.status_code or 401
            raise api_error(self.server, "the token", status, error.body) from error

    def auth_headers(self) -> dict[str, str]:
        """The header that proves who asks; for this server alone."""
        return {"Authorization": self._wrapper.get_headers()["Authorization"]}

    def get_project(self, number: int) -> Json:
        """A project with its counters."""
        try:
            row = self._request_json("GET", f"api/projects/{number}/")
        except NotFoundError as error:
            self._list_projects("id")  # tells whether it is a Label Studio at all
            raise NotFoundError(
                f"{self.server} has no project {number}: its number stands in the address of its "
                "page."
            ) from error
        if not isinstance(row, dict) or "label_config" not in row:
            raise not_label_studio(self.server)
        return row

    def list_projects(self) -> list[Json]:
        """All projects, id and title."""
        return self._list_projects("id,title")

    def list_project_descriptions(self) -> list[Json]:
        """All projects, ``id, title, description, created_at``."""
        return self._list_projects("id,title,description,created_at")

    def _list_projects(self, fields: str) -> list[Json]:
        try:
            response = self._request_json(
                "GET", "api/projects/", {"page_size": TASK_PAGE_SIZE, "include": fields}
            )
            return list(response["results"])
        except (NotFoundError, TypeError, KeyError) as error:  # every Label Studio has this list
            raise not_label_studio(self.server) from error

    def create_project(self, fields: Json) -> Json:
        """Make a project; as Label Studio then shows it."""
        return dict(self._request_json("POST", "api/projects/", json=fields, retries=0))

    def upload_images(self, number: int, files: Sequence[tuple[str, bytes]]) -> list[str]:
        """Upload images without making tasks of them.

        Args:
            number: the project's.
            files: plain name and content; one call, which Label Studio limits to 100 files.

        Returns:
            the address of each, as tasks carry it.
        """
        parts = {str(index): file for index, file in enumerate(files)}
        path, query = f"api/projects/{number}/import", {"commit_to_project": "false"}
        ids = self._request_json("POST", path, query, files=parts, retries=0)["file_upload_ids"]
        rows = self._request_json(
            "GET", f"api/projects/{number}/file-uploads", {"ids": json.dumps(ids)}
        )
        file_paths = {row["id"]: row["file"] for row in rows}
        prefix = urlsplit(self.server).path
        return [f"{prefix}/data/{file_paths[id]}" for id in ids]

    def add_tasks(self, number: int, rows: Sequence[Json]) -> int:
        """Add tasks by their ``data``; how many there are now more."""
        path = f"api/projects/{number}/import"
        return int(self._request_json("POST", path, json=list(rows), retries=0)["task_count"])

    def get_counters(self, number: int) -> Json:
        """The counters of a project that tell whether anything changed."""
        response = self._request_json("GET", "api/projects/counts/", {"ids": number})
        if not response["results"]:
            raise LabelStudioNotFoundError(f"{self.server} has no project {number}.")
        row: Json = response["results"][0]
        return row

    def last_updated_at(self, number: int) -> str:
        """When a task or an annotation was last touched (ISO 8601); empty without tasks."""
        query = {"ordering": ["-tasks:updated_at"]}
        rows = self._get_task_page(number, "id,updated_at", 1, query, size=1)
        return str(rows[0]["updated_at"]) if rows else ""

    def iter_tasks(self, number: int) -> Iterator[Json]:
        """All tasks: ``id, data, is_labeled, updated_at``."""
        yield from self._iter_tasks(number, "id,data,is_labeled,updated_at", {})

    def annotations_by_task(self, number: int) -> dict[int, list[Json]]:
        """The annotations of all tasks that have any, by task; skipped ones too."""
        annotations_by_id: dict[int, list[Json]] = {}
        for counter in ("total_annotations", "cancelled_annotations"):
            for row in self._iter_tasks(number, ANNOTATION_FIELDS, _nonzero_filter(counter)):
                annotations_by_id[row["id"]] = row["annotations"]
        return annotations_by_id

    def skipped_task_ids(self, number: int) -> set[int]:
        """Tasks that somebody skipped; :meth:`task_annotations` leaves skips out."""
        rows = self._iter_tasks(
            number, "id,cancelled_annotations", _nonzero_filter("cancelled_annotations")
        )
        return {row["id"] for row in rows if row["cancelled_annotations"]}

    def iter_changed_tasks(self, number: int, since: str) -> Iterator[Json]:
        """Tasks that were touched after a moment, latest first.

        Each has ``id, is_labeled, total_annotations, cancelled_annotations, updated_at``; skipped
        annotations are not of the total.

        Args:
            number: the project's.
            since: ISO 8601, as :meth:`last_updated_at` tells it.
        """
        query = {"ordering": ["-tasks:updated_at"]}
        for row in self._iter_tasks(number, CHANGE_FIELDS, query, CHANGED_TASK_PAGE_SIZE):
            if str(row["updated_at"]) <= since:
                return
            yield row

    def prediction_counts(self, number: int) -> dict[str, int]:
        """Predictions in the project, by version string."""
        path = f"api/projects/{number}/model-versions/"
        response = self._request_json("GET", path, {"extended": "true"})
        return {str(row["model_version"]): int(row["count"]) for row in response["static"] or []}

    def prediction_tasks(self, number: int, *versions: str) -> dict[int, int]:
        """The predictions of some versions: their number → the task's."""
        return {row["id"]: row["task"] for row in self._list_predictions(number, *versions)}

    def queue_scores(self, number: int, version: str) -> dict[int, tuple[int, float]]:
        """Where a version's predictions stand in the queue: task → the prediction, its score."""
        rows = self._list_predictions(number, version)
        return {row["task"]: (row["id"], float(row["score"] or 0.0)) for row in rows}

    def _list_predictions(self, number: int, *versions: str) -> list[Json]:
        rows = self._request_json("GET", "api/predictions/", {"project": number})
        return [row for row in rows if row["model_version"] in versions]

    def update_prediction(self, id: int, fields: Json) -> None:
        """Change the ``score`` or ``mislabeling`` of a prediction; nothing when it is gone."""
        with contextlib.suppress(NotFoundError):
            self._request_json("PATCH", f"api/predictions/{id}/", json=fields)

    def add_prediction(self, prediction: Json) -> int:
        """Add one prediction, with all its fields; its number."""
        return int(self._request_json("POST", "api/predictions/", json=prediction, retries=0)["id"])

    def import_predictions(self, number: int, predictions: Sequence[Json]) -> int:
        """Add predictions; one bulk call.

        Returns:
            how many Label Studio says it made. Fewer than sent: some name a label or a task that
            it does not have (any more).
        """
        path = f"api/projects/{number}/import/predictions"
        return int(self._request_json("POST", path, json=list(predictions), retries=0)["created"])

    def delete_prediction(self, id: int) -> None:
        """Delete one prediction; nothing happens when it is gone already."""
        with contextlib.suppress(NotFoundError):
            self._request_json("DELETE", f"api/predictions/{id}/")

    def set_model_version(self, number: int, version: str) -> None:
        """Point the project at a version and let its queue follow the score, low first."""
        body = {"model_version": version, "sampling": "Uncertainty sampling"}
        self._request_json("PATCH", f"api/projects/{number}/", json=body)

    def count_users(self) -> int:
        """How many work in this Label Studio, the machine not counted."""
        return len(self._user_ids().keys() - {MACHINE_USER["email"]})

    def ensure_machine_user(self) -> int:
        """The user that accepted predictions are signed by; made when it is not there yet."""
        user_id = self.find_machine_user()
        return user_id or int(
            self._request_json("POST", "api/users/", json=MACHINE_USER, retries=0)["id"]
        )

    def find_machine_user(self) -> int:
        """The same user; 0 where it is not there yet."""
        return self._user_ids().get(MACHINE_USER["email"], 0)

    def _user_ids(self) -> dict[str, int]:
        return {
            str(row["email"]): int(row["id"]) for row in self._request_json("GET", "api/users/")
        }

    def create_annotation(self, task: int, result: Sequence[Json], user_id: int = 0) -> int:
        """Answer a task, in a user's name; in that of the token when not given.

        Returns:
            the annotation's number.
        """
        body: Json = {"result": list(result), "lead_time": 0}
        body |= {"completed_by": user_id} if user_id else {}
        created = self._request_json("POST", f"api/tasks/{task}/annotations/", json=body, retries=0)
        return int(created["id"])

    def import_tasks(self, number: int, tasks: Sequence[Json]) -> list[int]:
        """Add tasks, with ``data``, ``prediction_tasks`` and ``annotations_by_task``; their numbers in order."""
        path = f"api/projects/{number}/import"
        query = {"return_task_ids": "true"}
        created = self._request_json("POST", path, query, json=list(tasks), retries=0)
        return [int(id) for id in created["task_ids"]]

    def tasks_by_field(self, number: int, field: str) -> dict[str, int]:
        """Tasks whose data have a field: its value → the task's number."""
        item: Json = {
            "filter": f"filter:tasks:data.{field}",
            "operator": "empty",
            "type": "String",
            "value": False,
        }
        query = {"filters": {"conjunction": "and", "items": [item]}}
        rows = self._iter_tasks(number, "id,data", query)
        return {str(row["data"][field]): row["id"] for row in rows if row["data"].get(field)}

    def task_annotations(self, task: int) -> list[Json]:
        """The annotations of a task; those that skip it are left out by Label Studio.

        Raises:
            NotFoundError: it was deleted.
        """
        return list(self._request_json("GET", f"api/tasks/{task}/annotations/"))

    def update_annotation(self, id: int, result: Sequence[Json]) -> None:
        """Give an annotation another result.

        Raises:
            NotFoundError: it was deleted.
        """
        self._request_json("PATCH", f"api/annotations/{id}/", json={"result": list(result)})

    def ensure_tab(self, number: int, title: str, view: Json) -> None:
        """Have a tab of the Data Manager with this title look like this.

        Args:
            number: the project's.
            title: of the tab.
            view: its ``filters`` and ``ordering``.
        """
        columns: Json = {"hiddenColumns": {"explore": [], "labeling": []}}
        tab_data = {"title": title, **columns, **view}
        tabs = self._request_json("GET", "api/dm/views/", {"project": number})
        existing_tab = next((tab for tab in tabs if tab["data"].get("title") == title), None)
        if existing_tab is None:
            body = {"project": number, "data": tab_data}
            self._request_json("POST", "api/dm/views/", {"project": number}, json=body, retries=0)
        elif any(existing_tab["data"].get(key) != value for key, value in view.items()):
            body = {"project": number, "data": {**existing_tab["data"], **view}}
            self._request_json(
                "PATCH", f"api/dm/views/{existing_tab['id']}/", {"project": number}, json=body
            )

    def list_backends(self, number: int) -> list[Json]:
        """The ML backends that are connected to a project."""
        rows: list[Json] = self._request_json("GET", "api/ml/", {"project": number})
        return rows

    def add_backend(self, number: int, url: str, auth: tuple[str, str] | None) -> Json:
        """Connect an ML backend; Label Studio calls it at once and adds its webhook."""
        body: Json = {"project": number, "url": url, "title": "Prelabel", "is_interactive": False}
        if auth:
            body |= {
                "auth_method": "BASIC_AUTH",
                "basic_auth_user": auth[0],
                "basic_auth_pass": auth[1],
            }
        return dict(self._request_json("POST", "api/ml/", json=body, retries=0))

    def request_json(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        json: Any = None,
    ) -> Any:
        """One call of another module of this room, tried once; its JSON.

        Raises:
            NotAllowed, NotThere, LabelStudioError: it failed, in one sentence.
        """
        return self._request_json(method, path, parameters, json=json, retries=0)

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
        self, number: int, fields: str, page: int, query: Json, size: int = TASK_PAGE_SIZE
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
            return list(self._request_json("GET", "api/tasks/", parameters)["tasks"])
        except NotFoundError:
            if page > 1:  # the page after the last one
                return []
            raise

    def _request_json(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        json: Any = None,
        files: Mapping[str, tuple[str, bytes]] | None = None,
        retries: int = MAX_RETRIES,
    ) -> Any:
        """One call; its JSON.

        Raises:
            NotAllowed, NotThere, LabelStudioError: it failed, in one sentence.
        """
        response = self._request(method, path, parameters, json, files, retries)
        if response.status_code >= 400:
            raise api_error(self.server, f"{method} {path}", response.status_code, response.text)
        return parse_json(response, self.server)

    def _request_file(self, path: str, parameters: Mapping[str, Any]) -> Any:
        """A file: the response, whatever its status.

        Raises:
            LabelStudioError: there is none.
        """
        return self._request("GET", path, parameters, None, None, 0)

    def _request(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, Any] | None,
        json: Any,
        files: Any,
        retries: int,
    ) -> Any:
        import httpx
        from label_studio_sdk.core.api_error import ApiError

        try:
            return self._wrapper.httpx_client.request(
                path,
                method=method,
                params=parameters,
                json=json,
                files=files,
                headers={} if files else {"Content-Type": "application/json"},
                request_options={"max_retries": retries},
            )
        except httpx.TimeoutException as error:
            raise LabelStudioError(
                f"Label Studio at {self.server} did not answer {method} {path} in time."
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise LabelStudioError(
                f"Label Studio cannot be reached at {self.server} ({error}): is it running, and "
                "is LABEL_STUDIO_URL right?"
            ) from error
        except ApiError as error:  # the SDK renews a personal access token on the way
            status = error.status_code or 401
            raise api_error(self.server, f"{method} {path}", status, error.body) from error


def _nonzero_filter(counter: str) -> Json:
    """A query for the tasks whose counter is not 0."""
    item: Json = {
        "filter": f"filter:tasks:{counter}",
        "operator": "greater",
        "type": "Number",
        "value": 0,
    }
    return {"filters": {"conjunction": "and", "items": [item]}}
