"""For people who run the stock ``label-studio-ml`` server: the same service behind its class.

``label-studio-ml init DIR --script model.py`` with a ``model.py`` of one line,
``from backend.server.stock import Prelabel``, and ``label-studio-ml start DIR`` serve Prelabel.
Written for 1.0.9 (PyPI) and for the 2.x line of its repository; where they differ, both forms of a
call are taken.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from label_studio_ml.model import LabelStudioMLBase

from backend.label_studio.ml_protocol import START_TRAINING, project_of
from backend.runtime.connection import created_at
from backend.scheduler.predict_queue import NO_VERSION
from backend.scheduler.service import Service
from backend.settings import read_settings
from backend.store import wake
from backend.store.projects import Projects

T = TypeVar("T")
SECONDS = 95.0
"""Label Studio gives up on /predict after 100 s."""


class Prelabel(LabelStudioMLBase):  # type: ignore[misc]
    """A thin adapter: knows nothing itself, asks the service of its process.

    Args:
        label_config: 1.0.9 gives it first, 2.x second, both may give it by name.
        more: ``hostname``, ``access_token`` (1.0.9), ``project_id`` (2.x).
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
        self, project_id: str | None = None, label_config: str | None = None, **more: Any
    ) -> None:
        if project_id and project_id.lstrip().startswith("<"):  # 1.0.9 called by position
            project_id, label_config = None, project_id
        self._asked_project = project_id or ""
        self._config = label_config or ""
        self._hostname = str(more.get("hostname") or "")
        self._token = str(more.get("access_token") or "")
        self.label_config = self._config
        self.hostname, self.access_token = self._hostname, self._token
        self.train_output = more.get("train_output") or {}

    @property
    def model_version(self) -> str:
        """The newest version of all projects."""
        return next(iter(_host().service.versions()), NO_VERSION)

    def predict(
        self, tasks: Sequence[dict[str, Any]], context: Any = None, **more: Any
    ) -> list[dict[str, Any]]:
        """One result per task."""
        request = {"tasks": list(tasks), "project": self._asked_project}
        if self._config:
            request["label_config"] = self._config
        self._make_known(request)
        host = _host()
        answer = json.loads(host.wait(host.service.predict(json.dumps(request).encode())))
        results: list[dict[str, Any]] = answer["results"]
        return results

    def fit(self, tasks: Any = (), *arguments: Any, **more: Any) -> dict[str, Any]:
        """Wake the loop; what is to be learned is asked of Label Studio.

        1.0.9 calls this in a process of its own, so the wake-up is a file in the home folder.
        """
        event = str(more.get("event") or (tasks if isinstance(tasks, str) else ""))
        payload = more.get("data") or (arguments[0] if arguments else {})
        project = payload.get("project") if isinstance(payload, dict) else None
        number = str((project or {}).get("id") or "")
        created = created_at(str((project or {}).get("created_at") or ""))
        projects = Projects(read_settings().home)
        if number.isdigit() and not projects.find(int(number), created):
            projects.register(self._hostname, int(number), created, self._token)
        woken = projects.find(int(number), created) if number.isdigit() else projects.all()
        for record in woken:
            wake.ask(projects.folder(record.id), train=event == START_TRAINING)
        return {"status": "woken", "projects": [record.id for record in woken]}

    def _make_known(self, request: dict[str, Any]) -> None:
        number, created = project_of(request)
        if number:
            host = _host()
            named = f"{number}.{created or ''}"
            host.wait(host.service.setup(named, self._hostname, self._token))


class Host:
    """The service on an event loop in a thread of its own."""

    def __init__(self) -> None:
        self.service = Service(read_settings())
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.wait(self.service.start())

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something on the service's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SECONDS)


_hosts: dict[int, Host] = {}
_making = threading.Lock()


def _host() -> Host:
    """The one host of this process; a forked child has none of its parent's threads."""
    with _making:
        if os.getpid() not in _hosts:
            _hosts.clear()
            _hosts[os.getpid()] = Host()
        return _hosts[os.getpid()]
