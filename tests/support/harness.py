"""What tests do by hand otherwise: start a backend, work in Label Studio, draw small images."""

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

from demo.label_studio import Program, free_port

Json = dict[str, Any]
SECONDS = 90.0
ROUND_SECONDS = 300.0
"""A round that trains a detector takes a minute or two where other programs run."""
CHOICES = """
<View>
  <Image name="image" value="$image"/>
  <Choices name="colour" toName="image" choice="{choice}">
    <Choice value="red"/><Choice value="blue"/>
  </Choices>
</View>
"""
COLOURS = {"red": (200, 40, 40), "blue": (40, 60, 200)}


def png(colour: str, number: int, size: int = 48) -> bytes:
    """A noisy square of a colour; every number makes another one."""
    random = np.random.default_rng([number, len(colour)])
    noise = random.normal(0, 25, (size, size, 3)) + random.normal(0, 25, 3)
    pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def data_uri(content: bytes, kind: str = "png") -> str:
    """An image as it may stand in a task."""
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()


def until(what: str, check: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Wait until a check is true; what it returned."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = check()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


class Backend:
    """``prelabel serve`` in a process, with a home of its own."""

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self.home = home
        self.port = free_port()
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
        self._program: Program | None = None

    def start(self) -> None:
        """Start it and wait for its first answer."""
        command = [sys.executable, "-m", "backend.cli", "serve", "--port", str(self.port)]
        self._program = Program(command, self.environment, self.log)
        self._program.wait_for(f"{self.url}/health", 60, lambda waited: None)

    def stop(self, how: int = signal.SIGTERM) -> None:
        """End it."""
        if self._program is not None:
            self._program.stop(how)
            self._program = None

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._program is not None
        return self._program.pid

    def kill(self) -> None:
        """End it without a word; its working processes are left to notice."""
        assert self._program is not None
        os.kill(self._program.pid, signal.SIGKILL)
        self._program.forget()
        self._program = None

    def project(self, number: int) -> Json:
        """The project as the backend shows it."""
        answer = self.http.get(f"/api/projects/{number}")
        return answer.json() if answer.status_code == 200 else {}

    def settled(self, number: int, labels: int = 0, version: str = "") -> Json:
        """Wait until the project's round is done and has seen so many labels."""

        def check() -> Json:
            state = self.project(number)
            if not state or not state["version"] or state["round"]["state"] != "idle":
                return {}
            seen = state["labels"] >= labels and not state["waiting"]
            return state if seen and state["version"] != version else {}

        found: Json = until(f"round of {number}: {self.project(number)}", check, ROUND_SECONDS)
        return found

    def learn(self, number: int, labels: int, version: str = "") -> Json:
        """Ask for a round and wait until it has seen so many labels."""
        self.http.post("/webhook", json={"action": "START_TRAINING", "project": {"id": number}})
        return self.settled(number, labels, version)

    def failed(self, number: int) -> str:
        """Wait until a round failed; why."""

        def check() -> str:
            return (self.project(number).get("round") or {}).get("error") or ""

        return str(until("a failed round", check))


class Application:
    """``prelabel endpoint`` in a process, over a home, and an application that asks it."""

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
        self.log = home.parent / f"{home.name}-endpoint.log"
        command = [sys.executable, "-m", "backend.cli", "endpoint", "--port", str(self.port)]
        self.program = Program(command, {"PRELABEL_HOME": str(home), **environment}, self.log)
        self.program.wait_for(f"{self.url}/health", 60, lambda waited: None)

    def ask(self, function: int | str, content: bytes, **parameters: Any) -> Json:
        """One invocation."""
        path = f"/v1/functions/{function}/invoke"
        answer = self.http.post(path, content=content, params=parameters)
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    def stop(self, how: int = signal.SIGTERM) -> None:
        """End it."""
        self.http.close()
        self.program.stop(how)


class Lab:
    """A person in Label Studio, by its API."""

    def __init__(self, url: str, token: str, scheme: str = "Token") -> None:
        headers = {"Authorization": f"{scheme} {token}"}
        self.url = url
        self.http = httpx.Client(base_url=url, headers=headers, timeout=100, trust_env=False)
        self.truth: dict[int, str] = {}

    def close(self) -> None:
        self.http.close()

    def colleague(self, email: str) -> Lab:
        """Somebody else, who followed an invitation and works in the browser."""
        other = Lab(self.url, "")
        del other.http.headers["Authorization"]
        page = self.call("GET", "/api/invite")["invite_url"]
        other.http.get(page)
        form = {"csrfmiddlewaretoken": other.http.cookies["csrftoken"], "email": email}
        here = {"Referer": self.url + page}
        answer = other.http.post(page, data={**form, "password": "open sesame"}, headers=here)
        assert answer.status_code == 302, answer.text[:500]
        other.http.headers.update({"X-CSRFToken": other.http.cookies["csrftoken"], **here})
        other.truth = self.truth
        return other

    def call(self, method: str, path: str, **more: Any) -> Any:
        answer = self.http.request(method, path, **more)
        assert answer.status_code < 300, (
            f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        )
        return answer.json() if answer.content else {}

    def project(self, config: str = CHOICES.format(choice="single"), title: str = "colours") -> int:
        """A new project; its number."""
        return int(
            self.call("POST", "/api/projects/", json={"title": title, "label_config": config})["id"]
        )

    def add(self, project: int, per_colour: int, start: int = 0) -> list[int]:
        """Import images, half red, half blue; their task numbers, in turn."""
        numbers = range(start, start + per_colour)
        wanted = [(colour, number) for number in numbers for colour in COLOURS]
        before = {task["id"] for task in self.tasks(project)}
        images = [{"image": data_uri(png(c, n))} for c, n in wanted]
        self.call("POST", f"/api/projects/{project}/import", json=images)
        new = sorted({task["id"] for task in self.tasks(project)} - before)
        self.truth |= dict(zip(new, (c for c, _ in wanted), strict=True))
        return new

    def add_raw(self, project: int, images: Sequence[str]) -> list[int]:
        """Import image addresses as they are; their task numbers."""
        before = {task["id"] for task in self.tasks(project)}
        self.call("POST", f"/api/projects/{project}/import", json=[{"image": i} for i in images])
        return sorted({task["id"] for task in self.tasks(project)} - before)

    def connect(self, project: int, url: str, **auth: Any) -> Json:
        """What the page Connect Model does."""
        body = {"project": project, "url": url, "title": "Prelabel", **auth}
        made: Json = self.call("POST", "/api/ml/", json=body)
        return made

    def tasks(self, project: int) -> list[Json]:
        """All tasks with predictions and annotations."""
        parameters: Json = {"project": project, "fields": "all", "page_size": 1000}
        found: list[Json] = self.call("GET", "/api/tasks/", params=parameters)["tasks"]
        return found

    def predictions(self, project: int) -> list[Json]:
        """All predictions of a project."""
        found: list[Json] = self.call("GET", "/api/predictions/", params={"project": project})
        return found

    def info(self, project: int) -> Json:
        """The project itself."""
        found: Json = self.call("GET", f"/api/projects/{project}/")
        return found

    def identity(self, project: int) -> str:
        """What the audit slice is drawn by."""
        created = datetime.fromisoformat(self.info(project)["created_at"])
        return f"{project}.{int(created.timestamp())}"

    def label(self, task: int, *labels: str, control: str = "colour") -> Json:
        """Submit an annotation; the true label when none is given."""
        chosen = list(labels) or [self.truth[task]]
        body = {"result": [self.region(chosen, control)], "lead_time": 1.0}
        made: Json = self.call("POST", f"/api/tasks/{task}/annotations/", json=body)
        return made

    def skip(self, task: int) -> Json:
        """Skip a task."""
        body = {"result": [], "was_cancelled": True}
        made: Json = self.call("POST", f"/api/tasks/{task}/annotations/", json=body)
        return made

    @staticmethod
    def region(choices: Sequence[str], control: str = "colour") -> Json:
        """A choice as the browser sends it."""
        value = {"choices": list(choices)}
        return {"from_name": control, "to_name": "image", "type": "choices", "value": value}

    def next(self, project: int) -> Json:
        """The task that is served next."""
        found: Json = self.call("GET", f"/api/projects/{project}/next/")
        return found

    def train(self, connection: Json) -> None:
        """Press Start Training."""
        self.call("POST", f"/api/ml/{connection['id']}/train", json={})


def choice_of(prediction: Json) -> str:
    """The one choice of a prediction."""
    (region,) = prediction["result"]
    (choice,) = region["value"]["choices"]
    return str(choice)
