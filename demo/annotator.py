"""A simulated annotator that uses Label Studio's API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from backend.errors import LabelStudioError
from backend.label_studio import Json

UPLOAD_BATCH_SIZE = 50


class SimulatedAnnotator:
    """A client of Label Studio that sends the requests of an annotator's browser.

    Args:
        url: address of Label Studio.
        token: legacy token.
    """

    def __init__(self, url: str, token: str) -> None:
        headers = {"Authorization": f"Token {token}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=120, trust_env=False)

    def create_project(self, title: str, config: str) -> int:
        """Create a project and return its number."""
        body = {"title": title, "label_config": config}
        return int(self._request("POST", "/api/projects/", json=body)["id"])

    def upload_images(self, project: int, files: list[Path]) -> None:
        """Upload image files as tasks."""
        for start in range(0, len(files), UPLOAD_BATCH_SIZE):
            batch = files[start : start + UPLOAD_BATCH_SIZE]
            parts = [(file.name, (file.name, file.read_bytes(), "image/jpeg")) for file in batch]
            self._request("POST", f"/api/projects/{project}/import", files=parts)

    def connect_backend(self, project: int, backend: str) -> None:
        """Connect the backend as the page Settings → Model does."""
        self._request(
            "POST", "/api/ml/", json={"project": project, "url": backend, "title": "Prelabel"}
        )

    def live_version(self, project: int) -> str:
        """Return the model version of a project."""
        return str(self._request("GET", f"/api/projects/{project}/").get("model_version") or "")

    def list_tasks(self, project: int) -> list[Json]:
        """Return the id and data of all tasks."""
        query = {"project": project, "page_size": 1000, "include": "id,data"}
        tasks: list[Json] = self._request("GET", "/api/tasks/", params=query)["tasks"]
        return tasks

    def next_task(self, project: int) -> Json:
        """Return the task that Label Studio serves next."""
        task: Json = self._request("GET", f"/api/projects/{project}/next/")
        return task

    def submit_annotation(self, task: Json, result: list[Json]) -> None:
        """Submit regions as an annotation."""
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
    """Return the regions of a task's newest prediction; None if it has none."""
    predictions = task.get("predictions") or []
    return list(predictions[-1].get("result") or []) if predictions else None
