"""Call Label Studio's API for projects, predictions, users and ML backends."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from backend.errors import NotFoundError, ProjectMissingError
from backend.label_studio import Json
from backend.label_studio.api_errors import not_label_studio
from backend.label_studio.json_values import read_objects
from backend.label_studio.project_details import (
    BackendConnection,
    ProjectCounters,
    ProjectDetails,
)
from backend.label_studio.project_names import match_projects
from backend.label_studio.task_requests import TaskRequests

PROJECT_PAGE_SIZE = 500
PREDICTION_BATCH_SIZE = 500
"""Predictions per request; on SQLite, a request blocks all other writes for up to 5 s."""
UNCERTAINTY_SAMPLING = "Uncertainty sampling"
"""Value of a project's ``sampling`` that sorts its queue by prediction score, lowest first."""
MACHINE_USER: Json = {
    "email": "prelabel@machine.invalid",
    "username": "prelabel",
    "first_name": "Prelabel",
    "last_name": "(machine)",
}
"""User that auto-accepted annotations are created as; it has no password, so nobody can log in."""


class LabelStudioClient(TaskRequests):
    """A client of Label Studio's API. See :class:`.ApiSession` for its arguments."""

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
        parameters = {"page_size": PROJECT_PAGE_SIZE, "include": fields}
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

    def prediction_results(self, number: int, version: str) -> dict[int, list[Json]]:
        """Return task id → result of the prediction of a version."""
        rows = self._list_predictions(number, version)
        return {row["task"]: read_objects(row, "result") for row in rows}

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
