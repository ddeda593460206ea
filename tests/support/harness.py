"""Test helpers: start a backend, work in Label Studio, draw small images."""

from __future__ import annotations

import base64
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from backend.label_studio.local_server import LabelStudioServer, ServerProcess, find_free_port

Json = dict[str, Any]
WAIT_SECONDS = 90.0
ROUND_SECONDS = 300.0
"""Training a detector takes up to two minutes on a busy machine."""
CHOICES_CONFIG = """
<View>
  <Image name="image" value="$image"/>
  <Choices name="colour" toName="image" choice="{choice}">
    <Choice value="red"/><Choice value="blue"/>
  </Choices>
</View>
"""
RGB_BY_COLOUR = {"red": (200, 40, 40), "blue": (40, 60, 200)}
MakeStudio = Callable[..., LabelStudioServer]


def make_png(colour: str, number: int, size: int = 48) -> bytes:
    """Draw a noisy square of a colour; each number gives another one."""
    rng = np.random.default_rng([number, len(colour)])
    noise = rng.normal(0, 25, (size, size, 3)) + rng.normal(0, 25, 3)
    pixels = np.clip(np.array(RGB_BY_COLOUR[colour]) + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def make_data_uri(content: bytes, kind: str = "png") -> str:
    """Return an image as a data URI."""
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()


def wait_until(description: str, check: Callable[[], Any], seconds: float = WAIT_SECONDS) -> Any:
    """Wait until a check is true, and return what it returned."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        result = check()
        if result:
            return result
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds:.0f} s: {description}")


class BackendServer:
    """``prelabel serve`` in a process, with its own home folder."""

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self.home = home
        self.port = find_free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "PRELABEL_HOME": str(home),
            "PRELABEL_ENCODER": "builtin",
            "PRELABEL_RETRAIN_AFTER": "4",
            "PRELABEL_RETRAIN_QUIET": "3600",
            "PRELABEL_POLL": "3600",
            **environment,
        }
        self.log = home.parent / f"{home.name}.log"
        self.http = httpx.Client(base_url=self.url, timeout=100, trust_env=False)
        self._server_process: ServerProcess | None = None

    def start(self) -> None:
        """Start the backend and wait until it answers."""
        command = [sys.executable, "-m", "backend.cli", "serve", "--port", str(self.port)]
        self._server_process = ServerProcess(command, self.environment, self.log)
        self._server_process.wait_until_ready(f"{self.url}/health", 60)

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """Stop the backend."""
        if self._server_process is not None:
            self._server_process.stop(signal_number)
            self._server_process = None

    @property
    def pid(self) -> int:
        """Process id of the server."""
        assert self._server_process is not None
        return self._server_process.pid

    def kill(self) -> None:
        """Kill the server process only, as a crash would."""
        assert self._server_process is not None
        os.kill(self._server_process.pid, signal.SIGKILL)
        self._server_process.release()
        self._server_process = None

    def project(self, number: int) -> Json:
        """Return the status of a project; empty if unknown."""
        answer = self.http.get(f"/api/projects/{number}")
        return answer.json() if answer.status_code == 200 else {}

    def wait_for_round(self, number: int, labels: int = 0, version: str = "") -> Json:
        """Wait until a round with so many labels has finished, and return the status."""

        def check() -> Json:
            state = self.project(number)
            if not state or not state["version"] or state["round"]["state"] != "idle":
                return {}
            if state.get("full_training_due"):
                return {}
            has_labels = state["labels"] >= labels and not state["waiting"]
            return state if has_labels and state["version"] != version else {}

        project_state: Json = wait_until(
            f"round of {number}: {self.project(number)}", check, ROUND_SECONDS
        )
        return project_state

    def train_and_wait(self, number: int, labels: int, version: str = "") -> Json:
        """Start training, and wait for a round with this many labels."""
        self.http.post("/webhook", json={"action": "START_TRAINING", "project": {"id": number}})
        return self.wait_for_round(number, labels, version)

    def wait_for_failure(self, number: int) -> str:
        """Wait until a round fails, and return the error."""

        def check() -> str:
            return (self.project(number).get("round") or {}).get("error") or ""

        return str(wait_until("a failed round", check))


MakeBackend = Callable[..., BackendServer]


class EndpointServer:
    """``prelabel endpoint`` in a process, with a client."""

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self.port = find_free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
        self.log = home.parent / f"{home.name}-endpoint.log"
        command = [sys.executable, "-m", "backend.cli", "endpoint", "--port", str(self.port)]
        self.server_process = ServerProcess(
            command, {"PRELABEL_HOME": str(home), **environment}, self.log
        )
        self.server_process.wait_until_ready(f"{self.url}/health", 60)

    def invoke(self, function: int | str, content: bytes, **parameters: Any) -> Json:
        """Invoke a function and return the response."""
        path = f"/v1/functions/{function}/invoke"
        answer = self.http.post(path, content=content, params=parameters)
        assert answer.status_code == 200, answer.text
        response_body: Json = answer.json()
        return response_body

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """Stop the endpoint."""
        self.http.close()
        self.server_process.stop(signal_number)


class LabelStudioUser:
    """A user of Label Studio, through its API."""

    def __init__(self, url: str, token: str, scheme: str = "Token") -> None:
        headers = {"Authorization": f"{scheme} {token}"}
        self.url, self.token = url, token
        self.http = httpx.Client(base_url=url, headers=headers, timeout=100, trust_env=False)
        self.true_labels: dict[int, str] = {}

    def close(self) -> None:
        self.http.close()

    def join_by_invitation(self, email: str) -> LabelStudioUser:
        """Create another user through an invitation, with a browser session."""
        member = LabelStudioUser(self.url, "")
        del member.http.headers["Authorization"]
        page = self.request("GET", "/api/invite")["invite_url"]
        member.http.get(page)
        form = {"csrfmiddlewaretoken": member.http.cookies["csrftoken"], "email": email}
        form_headers = {"Referer": self.url + page}
        answer = member.http.post(
            page, data={**form, "password": "open sesame"}, headers=form_headers
        )
        assert answer.status_code == 302, answer.text[:500]
        member.http.headers.update(
            {"X-CSRFToken": member.http.cookies["csrftoken"], **form_headers}
        )
        member.true_labels = self.true_labels
        return member

    def request(self, method: str, path: str, **arguments: Any) -> Any:
        answer = self.http.request(method, path, **arguments)
        assert answer.status_code < 300, (
            f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        )
        return answer.json() if answer.content else {}

    def create_project(
        self, config: str = CHOICES_CONFIG.format(choice="single"), title: str = "colours"
    ) -> int:
        """Create a project and return its number."""
        return int(
            self.request("POST", "/api/projects/", json={"title": title, "label_config": config})[
                "id"
            ]
        )

    def import_colours(self, project: int, per_colour: int, start: int = 0) -> list[int]:
        """Import images, red and blue in turn, and return their task ids."""
        numbers = range(start, start + per_colour)
        colour_numbers = [(colour, number) for number in numbers for colour in RGB_BY_COLOUR]
        before = {task["id"] for task in self.list_tasks(project)}
        images = [{"image": make_data_uri(make_png(c, n))} for c, n in colour_numbers]
        self.request("POST", f"/api/projects/{project}/import", json=images)
        new_tasks = sorted({task["id"] for task in self.list_tasks(project)} - before)
        self.true_labels |= dict(zip(new_tasks, (c for c, _ in colour_numbers), strict=True))
        return new_tasks

    def import_images(self, project: int, images: Sequence[str]) -> list[int]:
        """Import image addresses and return their task ids."""
        before = {task["id"] for task in self.list_tasks(project)}
        self.request("POST", f"/api/projects/{project}/import", json=[{"image": i} for i in images])
        return sorted({task["id"] for task in self.list_tasks(project)} - before)

    def connect_backend(self, project: int, url: str, **auth: Any) -> Json:
        """Connect a model, as the page Connect Model does."""
        body = {"project": project, "url": url, "title": "Prelabel", **auth}
        connection: Json = self.request("POST", "/api/ml/", json=body)
        return connection

    def list_tasks(self, project: int) -> list[Json]:
        """Return all tasks with predictions and annotations."""
        parameters: Json = {"project": project, "fields": "all", "page_size": 1000}
        found: list[Json] = self.request("GET", "/api/tasks/", params=parameters)["tasks"]
        return found

    def list_predictions(self, project: int) -> list[Json]:
        """Return all predictions of a project."""
        found: list[Json] = self.request("GET", "/api/predictions/", params={"project": project})
        return found

    def fetch_project(self, project: int) -> Json:
        """Return a project."""
        found: Json = self.request("GET", f"/api/projects/{project}/")
        return found

    def audit_identity(self, project: int) -> str:
        """Return the identity from which the audit set is drawn."""
        created = datetime.fromisoformat(self.fetch_project(project)["created_at"])
        return f"{project}.{int(created.timestamp())}"

    def submit_annotation(self, task: int, *labels: str, control: str = "colour") -> Json:
        """Submit an annotation; by default the true label."""
        choices = list(labels) or [self.true_labels[task]]
        return self.submit_regions(task, [self.make_choice_region(choices, control)])

    def submit_regions(self, task: int, regions: Sequence[Json]) -> Json:
        """Submit an annotation of these regions."""
        body = {"result": list(regions), "lead_time": 1.0}
        annotation: Json = self.request("POST", f"/api/tasks/{task}/annotations/", json=body)
        return annotation

    def skip_task(self, task: int) -> Json:
        """Skip a task."""
        body = {"result": [], "was_cancelled": True}
        annotation: Json = self.request("POST", f"/api/tasks/{task}/annotations/", json=body)
        return annotation

    @staticmethod
    def make_choice_region(choices: Sequence[str], control: str = "colour") -> Json:
        """Return a choice as the browser sends it."""
        value = {"choices": list(choices)}
        return {"from_name": control, "to_name": "image", "type": "choices", "value": value}

    def next_task(self, project: int) -> Json:
        """Return the task that is served next."""
        found: Json = self.request("GET", f"/api/projects/{project}/next/")
        return found

    def start_training(self, connection: Json) -> None:
        """Press Start Training."""
        self.request("POST", f"/api/ml/{connection['id']}/train", json={})


def predicted_choice(prediction: Json) -> str:
    """Return the only choice of a prediction."""
    (region,) = prediction["result"]
    (choice,) = region["value"]["choices"]
    return str(choice)


def create_personal_token(studio: LabelStudioServer) -> str:
    """Create a personal access token, and turn legacy tokens off."""
    from backend.label_studio.local_server import LOCAL_EMAIL

    with httpx.Client(base_url=studio.url, trust_env=False, timeout=60) as browser:
        browser.get("/user/login/")
        csrf = browser.cookies["csrftoken"]
        form = {"email": LOCAL_EMAIL, "password": studio.password, "csrfmiddlewaretoken": csrf}
        headers = {"Referer": studio.url}
        answer = browser.post("/user/login/", data=form, headers=headers)
        assert answer.status_code == 302, answer.text[:300]
        headers["X-CSRFToken"] = browser.cookies["csrftoken"]
        made = browser.post("/api/token/", json={}, headers=headers)
        assert made.status_code == 201, made.text
        switch = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": False}
        done = browser.post("/api/jwt/settings", json=switch, headers=headers)
        assert done.status_code < 300, done.text
        return str(made.json()["token"])
