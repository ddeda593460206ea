"""Captured images and corrections of an application become tasks of a real Label Studio."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.label_studio.local_server import LabelStudioServer
from backend.loop.publish.capture_import import CaptureImporter
from backend.runtime.project_session import ProjectSession
from backend.runtime.resources import Resources
from backend.settings import Settings
from backend.store.captures import Capture, CaptureStore
from backend.store.projects import ProjectRecord
from tests.support.harness import (
    BackendServer,
    EndpointServer,
    Json,
    LabelStudioUser,
    make_png,
    predicted_choice,
    wait_until,
)
from tests.support.published_models import make_ambiguous_png


@pytest.fixture
def learned(lab: LabelStudioUser, backend: BackendServer) -> int:
    """A project with a model that separates red from blue."""
    project = lab.create_project(title="greenhouse")
    tasks = lab.import_colours(project, 6)
    lab.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    for task in tasks[:8]:
        lab.submit_annotation(task)
    backend.train_and_wait(project, 8)
    return project


@contextlib.contextmanager
def application(backend: BackendServer, **environment: str) -> Iterator[EndpointServer]:
    app = EndpointServer(backend.home, {"PRELABEL_CAPTURE_SHARE": "0", **environment})
    try:
        yield app
    finally:
        app.stop()


def came_back(lab: LabelStudioUser, project: int) -> list[Json]:
    return [task for task in lab.list_tasks(project) if "prelabel_captured" in task["data"]]


def test_captured_images_become_tasks_and_train_the_next_version(
    lab: LabelStudioUser, backend: BackendServer, learned: int
) -> None:
    before = backend.project(learned)["version"]
    with application(backend, PRELABEL_CAPTURE_BELOW="0.97") as app:
        responses = {}
        for number in range(300):
            hard = number % 20 == 7
            content = (
                make_ambiguous_png(number)
                if hard
                else make_png(("red", "blue")[number % 2], 500 + number)
            )
            answer = app.invoke(learned, content, externalId=f"picture-{number}")
            responses[answer["requestId"]] = answer
            assert answer["version"] == before
        waiting = wait_until("captured images", lambda: came_back(lab, learned))
        settled = wait_until(
            "all came back",
            lambda: (
                backend.project(learned)["captured"]
                if backend.project(learned)["captured"]["returned"]
                and not backend.project(learned)["captured"]["waiting"]
                else None
            ),
        )
        waiting = came_back(lab, learned)
        assert len(waiting) == settled["returned"]
        assert 3 <= len(waiting) <= 100
        for task in waiting:
            answer = responses[task["data"]["prelabel_request"]]
            assert task["data"]["prelabel_captured"] in ("uncertain", "rare")
            assert task["data"]["prelabel_external"] == answer["externalId"]
            first = min(task["predictions"], key=lambda p: p["id"])
            assert first["model_version"] == before
            assert predicted_choice(first) == answer["labelName"]
            assert answer["confidence"] < 0.97
        image = lab.http.get(waiting[0]["data"]["image"])
        assert image.headers["content-type"] == "image/png"
        # labeling them starts a round, and the promoted version answers the next request
        for task in (
            waiting
        ):  # with true labels: the quality gate may reject a version trained on wrong ones
            number = int(responses[task["data"]["prelabel_request"]]["externalId"].split("-")[1])
            lab.submit_annotation(task["id"], ("red", "blue")[number % 2])
        state = backend.train_and_wait(learned, 8 + len(waiting))
        audited = state["audit"]["n"]
        assert audited <= 3  # of the eight that were labeled first
        # labels that arrive during a round start another, so the live version is read anew
        wait_until(
            "the new version answers",
            lambda: (
                app.invoke(learned, make_png("red", 9))["version"]
                == backend.project(learned)["version"]
                != before
            ),
        )


def test_corrections_arrive_and_no_image_is_imported_twice_or_lost(
    lab: LabelStudioUser, learned: int, backend: BackendServer
) -> None:
    with application(backend, PRELABEL_CAPTURE_SHARE="0.999") as app:
        app.invoke(learned, make_ambiguous_png(900), externalId="early")
        early = wait_until("an image", lambda: came_back(lab, learned))
        path = f"/v1/functions/{learned}/samples/{{}}/annotation"
        late = app.http.put(path.format("early"), json={"labelName": "red"})
        assert late.status_code == 202, late.text
        wait_until("its annotation", lambda: came_back(lab, learned)[0]["annotations"])
        later = app.http.put(path.format("early"), json={"labelName": "blue"})
        assert later.status_code == 202, later.text
        wait_until("the later answer", lambda: _answers(lab, learned, "early") == ["blue"])
        app.invoke(learned, make_ambiguous_png(899), externalId="gone")
        gone = wait_until("another", lambda: _named(lab, learned, "gone"))
        lab.request("DELETE", f"/api/tasks/{gone[0]['id']}/")
        app.http.put(
            path.format("gone"), json={"labelName": "red"}
        )  # must not block the following ones
        backend.kill()
        for number in range(901, 925):
            app.invoke(learned, make_ambiguous_png(number))
        brought = {"labelName": "blue", "data": _text(make_ambiguous_png(950))}
        assert app.http.put(path.format("other"), json=brought).status_code == 202
    backend.start()
    wait_until("some came back", lambda: len(came_back(lab, learned)) > 3)
    backend.kill()  # between an import and its record
    backend.start()

    def is_complete() -> bool:
        captured = (backend.project(learned) or {}).get("captured") or {}
        return bool(captured.get("returned")) and not captured.get("waiting")

    wait_until("all came back", is_complete)
    tasks = came_back(lab, learned)
    requests = [task["data"]["prelabel_request"] for task in tasks]
    assert len(requests) == len(set(requests))
    assert len(requests) >= 15
    by_name = {task["data"].get("prelabel_external"): task for task in tasks}
    wait_until("the other annotation", lambda: _annotated(lab, learned, "other"))
    assert _answers(lab, learned, "early") == ["blue"]
    assert by_name["early"]["id"] == early[0]["id"]
    (annotation,) = _annotated(lab, learned, "other")
    assert annotation["result"][0]["value"]["choices"] == ["blue"]


LOCKED_SECONDS = 7.0
"""More than the 5 s after which a write to a locked SQLite database fails."""


def lock_after_upload(database: Path) -> None:
    """Lock Label Studio's database once a file has been uploaded, and before its task exists."""
    with contextlib.closing(sqlite3.connect(database, timeout=60, isolation_level=None)) as db:
        while not db.execute("SELECT count(*) FROM data_import_fileupload").fetchone()[0]:
            time.sleep(0.002)
        db.execute("BEGIN IMMEDIATE")
        time.sleep(LOCKED_SECONDS)
        db.execute("ROLLBACK")


def test_a_locked_database_costs_an_image_not_its_prediction(
    lab: LabelStudioUser, studio: LabelStudioServer, tmp_path: Path
) -> None:
    number = lab.create_project()
    settings = Settings(home=tmp_path, label_studio_url=studio.url, api_key=studio.token)
    session = ProjectSession(Resources(settings), ProjectRecord(str(number), studio.url, number))
    said = {"result": [lab.make_choice_region(["red"])], "score": 0.5}
    capture = Capture("a", 1.0, "random", "v1-0000000a", said=said)
    CaptureStore(tmp_path / "projects" / str(number)).add(capture, make_png("red", 1))
    locker = threading.Thread(
        target=lock_after_upload, args=(studio.folder / "label_studio.sqlite3",)
    )
    locker.start()
    assert CaptureImporter(session).import_pending() == 1
    locker.join()
    (task,) = came_back(lab, number)
    (prediction,) = task["predictions"]
    assert (prediction["model_version"], predicted_choice(prediction)) == ("v1-0000000a", "red")


def _named(lab: LabelStudioUser, project: int, external: str) -> list[Json]:
    tasks = came_back(lab, project)
    return [task for task in tasks if task["data"].get("prelabel_external") == external]


def _annotated(lab: LabelStudioUser, project: int, external: str) -> list[Json]:
    found = [task["annotations"] for task in _named(lab, project, external)]
    return list(found[0]) if found else []


def _answers(lab: LabelStudioUser, project: int, external: str) -> list[str]:
    annotations = _annotated(lab, project, external)
    return [label for one in annotations for label in one["result"][0]["value"]["choices"]]


def _text(content: bytes) -> str:
    import base64

    return base64.b64encode(content).decode()
