"""An adapter for the ``label-studio-ml`` server.

Create a ``model.py`` with the line ``from backend.server.stock import Prelabel``. Then run
``label-studio-ml init DIR --script model.py`` and ``label-studio-ml start DIR``. Version 1.0.9
(PyPI) and 2.x (its repository) are supported, although they pass different arguments.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from label_studio_ml.model import LabelStudioMLBase

from backend.label_studio.ml_protocol import NO_VERSION, START_TRAINING, parse_id, parse_project
from backend.runtime.connection import parse_created_at
from backend.scheduler.service import Service
from backend.server_url import strip_credentials
from backend.settings import read_settings
from backend.store import wake
from backend.store.projects import ProjectStore

T = TypeVar("T")
RESULT_TIMEOUT_SECONDS = 95.0
"""Label Studio disconnects from ``/predict`` after 100 seconds."""


class Prelabel(LabelStudioMLBase):  # type: ignore[misc]
    """Forward calls to the service of this process.

    Args:
        project_id: id of the project (2.x).
        label_config: the labeling config, as first positional argument (1.0.9) or second (2.x).
        extra: ``hostname`` and ``access_token`` (1.0.9).
    """

    TRAIN_EVENTS = (
        "START_TRAINING",
        "PROJECT_UPDATED",
        "TASKS_CREATED",
        "TASKS_DELETED",
        "ANNOTATION_CREATED",
        "ANNOTATIONS_CREATED",
        "ANNOTATION_UPDATED",
        "ANNOTATIONS_DELETED",
        "ANNOTATION_DELETED",
    )

    def __init__(
        self, project_id: str | None = None, label_config: str | None = None, **extra: Any
    ) -> None:
        if project_id and project_id.lstrip().startswith("<"):  # positional argument of 1.0.9
            project_id, label_config = None, project_id
        self._project_id = project_id or ""
        self._config_xml = label_config or ""
        self._hostname = strip_credentials(str(extra.get("hostname") or ""))
        self._token = str(extra.get("access_token") or "")
        self.label_config = self._config_xml
        self.hostname, self.access_token = self._hostname, self._token
        self.train_output = extra.get("train_output") or {}

    @property
    def model_version(self) -> str:
        """Return the newest version of all projects."""
        return next(iter(_service_thread().service.versions()), NO_VERSION)

    def predict(
        self, tasks: Sequence[dict[str, Any]], context: Any = None, **extra: Any
    ) -> list[dict[str, Any]]:
        """Return one result per task."""
        request = {"tasks": list(tasks), "project": self._project_id}
        if self._config_xml:
            request["label_config"] = self._config_xml
        self._register_project(request)
        service_thread = _service_thread()
        response = json.loads(
            service_thread.run_coroutine(
                service_thread.service.predict(json.dumps(request).encode())
            )
        )
        results: list[dict[str, Any]] = response["results"]
        return results

    def fit(self, tasks: Any = (), *extra_positional: Any, **extra: Any) -> dict[str, Any]:
        """Request a round, which reads the labels from Label Studio.

        1.0.9 calls this in another process, so the request is written to the home folder.
        """
        event = str(extra.get("event") or (tasks if isinstance(tasks, str) else ""))
        payload = extra.get("data") or (extra_positional[0] if extra_positional else {})
        project = payload.get("project") if isinstance(payload, dict) else None
        number = parse_id(str((project or {}).get("id") or ""))
        created = parse_created_at(str((project or {}).get("created_at") or ""))
        projects = ProjectStore(read_settings().home)
        if number and not projects.find_by_number(number, created):
            projects.register(self._hostname, number, created, self._token)
        woken_projects = projects.find_by_number(number, created) if number else projects.all()
        for record in woken_projects:
            wake.request_wake(projects.folder(record.id), train=event == START_TRAINING)
        return {"status": "woken", "projects": [record.id for record in woken_projects]}

    def _register_project(self, request: dict[str, Any]) -> None:
        number, created = parse_project(request)
        if number:
            service_thread = _service_thread()
            project_key = f"{number}.{created or ''}"
            service_thread.run_coroutine(
                service_thread.service.setup(project_key, self._hostname, self._token)
            )


class ServiceThread:
    """Run the service on an event loop in a thread."""

    def __init__(self) -> None:
        self.service = Service(read_settings())
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.run_coroutine(self.service.start())

    def run_coroutine(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the service's loop and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(
            RESULT_TIMEOUT_SECONDS
        )


_service_threads: dict[int, ServiceThread] = {}
_creation_lock = threading.Lock()


def _service_thread() -> ServiceThread:
    """Return the service thread of this process; a forked child starts its own."""
    with _creation_lock:
        if os.getpid() not in _service_threads:
            _service_threads.clear()
            _service_threads[os.getpid()] = ServiceThread()
        return _service_threads[os.getpid()]
