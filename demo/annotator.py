"""A simulated annotator: asks Label Studio what is next, looks at the truth, submits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from backend.errors import LabelStudioError

UPLOAD_BATCH = 50
Json = dict[str, Any]


class SimulatedAnnotator:
    """Works in one project through Label Studio's API, as a browser does.

    Args:
        url: Label Studio's address.
        token: a legacy token.
    """

    def __init__(self, url: str, token: str) -> None:
        headers = {"Authorization": f"Token {token}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=120, trust_env=False)

    def create_project(self, title: str, config: str) -> int:
        """Make a project; its number."""
        body = {"title": title, "label_config": config}
        return int(self._request("POST", "/api/projects/", json=body)["id"])

    def upload_images(self, project: int, files: list[Path]) -> None:
        """Import images as a person who drops them on the page."""
        for start in range(0, len(files), UPLOAD_BATCH):
            batch = files[start : start + UPLOAD_BATCH]
            parts = [(file.name, (file.name, file.read_bytes(), "image/jpeg")) for file in batch]
            self._request("POST", f"/api/projects/{project}/import", files=parts)

    def connect_backend(self, project: int, backend: str) -> None:
        """What the page Settings → Model → Connect Model does."""
        self._request(
            "POST", "/api/ml/", json={"project": project, "url": backend, "title": "Prelabel"}
        )

    def live_version(self, project: int) -> str:
        """The version that the project's queue follows."""
        return str(self._request("GET", f"/api/projects/{project}/").get("model_version") or "")

    def list_tasks(self, project: int) -> list[Json]:
        """All tasks of a project."""
        query = {"project": project, "page_size": 1000, "include": "id,data"}
        tasks: list[Json] = self._request("GET", "/api/tasks/", params=query)["tasks"]
        return tasks

    def next_task(self, project: int) -> Json:
        """The task that Label Studio serves next."""
        task: Json = self._request("GET", f"/api/projects/{project}/next/")
        return task

    def submit_annotation(self, task: Json, result: list[Json]) -> None:
        """Submit the regions for a task that :meth:`next_task` served."""
        body = {"result": result, "lead_time": 1.0}
        self._request("POST", f"/api/tasks/{task['id']}/annotations/", json=body)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _request(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            response = self._http.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise LabelStudioError(
                f"Label Studio does not answer {method} {path}: {error}."
            ) from error
        if response.status_code >= 400:
            text = f"{response.status_code}: {response.text[:300]}"
            raise LabelStudioError(f"Label Studio answered {method} {path} with {text}.")
        return response.json()


def suggested_regions(task: Json) -> list[Json] | None:
    """The regions that the newest prediction of a task suggests; None where there is none."""
    predictions = task.get("predictions") or []
    return list(predictions[-1].get("result") or []) if predictions else None
