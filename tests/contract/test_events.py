"""Every webhook that Label Studio sends wakes the loop; polling is off in these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MakeBackend
from tests.support.harness import Backend, Json, Lab, until


@pytest.fixture
def started(lab: Lab, backend: Backend) -> tuple[int, list[int], Json]:
    """A connected project with its first version, and its connection."""
    project = lab.project()
    tasks = lab.add(project, 6)
    connection = lab.connect(project, backend.url)
    backend.settled(project)
    return project, tasks, connection


def test_annotation_created(
    lab: Lab, backend: Backend, started: tuple[int, list[int], Json]
) -> None:
    project, tasks, _ = started
    lab.label(tasks[0])
    until("one label waits", lambda: backend.project(project)["waiting"] == 1)


def test_annotations_created_in_bulk(
    lab: Lab, backend: Backend, started: tuple[int, list[int], Json]
) -> None:
    """An import that brings annotations along."""
    project, _, _ = started
    before = backend.project(project)["version"]
    images = [task["data"]["image"] for task in lab.tasks(project)][:4]
    rows = [
        {"data": {"image": image + f"#{i}"}, "annotations": [{"result": [lab.region([label])]}]}
        for i, (image, label) in enumerate(zip(images, ["red", "blue"] * 2, strict=True))
    ]
    lab.call("POST", f"/api/projects/{project}/import", json=rows)
    assert backend.settled(project, 4, version=before)["tasks"] == 16


def test_annotation_updated(
    lab: Lab, backend: Backend, started: tuple[int, list[int], Json]
) -> None:
    project, tasks, _ = started
    made = [lab.label(task) for task in tasks[:4]]
    before = backend.settled(project, 4)["version"]
    for annotation in made:
        body = {"result": [lab.region(["red"])]}
        lab.call("PATCH", f"/api/annotations/{annotation['id']}/", json=body)
    # two of the four were red before: two changes wait, which is no round yet
    until("changes wait", lambda: backend.project(project)["waiting"] >= 2)
    assert backend.project(project)["version"] == before


def test_annotations_deleted(
    lab: Lab, backend: Backend, started: tuple[int, list[int], Json]
) -> None:
    project, tasks, _ = started
    made = [lab.label(task) for task in tasks[:4]]
    before = backend.settled(project, 4)["version"]
    for annotation in made:
        lab.call("DELETE", f"/api/annotations/{annotation['id']}/")
    until("no label is left", lambda: backend.project(project)["labels"] == 0)
    assert backend.settled(project)["version"] != before


def test_tasks_created_and_deleted(
    lab: Lab, backend: Backend, started: tuple[int, list[int], Json]
) -> None:
    project, tasks, _ = started
    lab.add(project, 2, start=50)
    until("16 tasks", lambda: backend.project(project)["tasks"] == 16)
    lab.call(
        "POST",
        f"/api/dm/actions/?id=delete_tasks&project={project}",
        json={"selectedItems": {"all": False, "included": tasks[:3]}},
    )
    until("13 tasks", lambda: backend.project(project)["tasks"] == 13)


def test_project_updated(lab: Lab, backend: Backend, started: tuple[int, list[int], Json]) -> None:
    project, _, _ = started
    config = lab.info(project)["label_config"].replace(
        "</View>", '<TextArea name="note" toName="image"/></View>'
    )
    lab.call("PATCH", f"/api/projects/{project}/", json={"label_config": config})
    until(
        "the new control is named",
        lambda: (
            "control note (TextArea: not served, only Choices, RectangleLabels, KeyPointLabels are)"
            in backend.project(project)["left_out"]
        ),
    )


def test_start_training(lab: Lab, backend: Backend, started: tuple[int, list[int], Json]) -> None:
    project, tasks, connection = started
    before = backend.project(project)["version"]
    lab.label(tasks[0])
    lab.train(connection)
    assert backend.settled(project, 1, version=before)["labels"] == 1


def test_a_webhook_is_not_believed(
    lab: Lab, backend: Backend, started: tuple[int, list[int], Json]
) -> None:
    project, tasks, _ = started
    before = backend.project(project)
    lie = {
        "action": "ANNOTATIONS_CREATED",
        "project": {"id": project, "label_config": "<View/>", "title": "mine"},
        "annotation": [{"result": [lab.region(["red"])], "task": task} for task in tasks],
        "task": [{"id": task} for task in tasks],
    }
    for body in (b"", b"\xff", b"[]", b'{"project": 7}', b'{"action": 3}', b"{" * 100_000):
        assert backend.http.post("/webhook", content=body).status_code == 200
    assert backend.http.post("/webhook", json=lie).json()["projects"] == [str(project)]
    until("it looked", lambda: backend.project(project)["round"]["state"] == "idle")
    assert backend.settled(project)["labels"] == 0
    assert backend.project(project)["version"] == before["version"]


def test_webhooks_come_through_where_basic_auth_is_on(lab: Lab, make_backend: MakeBackend) -> None:
    backend = make_backend(PRELABEL_USER="label-studio", PRELABEL_PASSWORD="open sesame")
    auth = ("label-studio", "open sesame")
    secret = (Path(backend.home) / "webhook_secret").read_text()
    for path in ("/health", "/api/projects", "/versions", f"/{secret}/health", "/source", "/"):
        assert backend.http.get(path).status_code == 401
        assert backend.http.get(path, auth=("label-studio", "wrong")).status_code == 401
        assert backend.http.get(path, auth=auth).status_code == 200
    assert backend.http.post("/webhook", json={}).status_code == 401
    assert backend.http.post("/guess/webhook", json={}).status_code == 401
    assert backend.http.post(f"/{secret}/setup", json={}).status_code == 401
    backend.http.auth = auth
    project = lab.project()
    tasks = lab.add(project, 4)
    lab.connect(
        project,
        f"{backend.url}/{secret}",
        auth_method="BASIC_AUTH",
        basic_auth_user=auth[0],
        basic_auth_pass=auth[1],
    )
    backend.settled(project)
    for task in tasks[:4]:
        lab.label(task)
    assert backend.settled(project, 4)["labels"] == 4
    assert secret not in backend.log.read_text().replace(f"{backend.url}/{secret}", "", 1)
