"""Every webhook that Label Studio sends wakes the loop; polling is off in these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.records import USED_LABELS_TEXT
from tests.support.harness import BackendServer, Json, LabelStudioUser, MakeBackend, wait_until


@pytest.fixture
def started(lab: LabelStudioUser, backend: BackendServer) -> tuple[int, list[int], Json]:
    """A connected project with its first version, and its connection."""
    project = lab.create_project()
    tasks = lab.import_colours(project, 6)
    connection = lab.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    return project, tasks, connection


def test_annotation_created(
    lab: LabelStudioUser, backend: BackendServer, started: tuple[int, list[int], Json]
) -> None:
    project, tasks, _ = started
    lab.submit_annotation(tasks[0])
    wait_until("one label waits", lambda: backend.project(project)["waiting"] == 1)


def test_annotations_created_in_bulk(
    lab: LabelStudioUser, backend: BackendServer, started: tuple[int, list[int], Json]
) -> None:
    """An import that brings annotations along."""
    project, _, _ = started
    before = backend.project(project)["version"]
    images = [task["data"]["image"] for task in lab.list_tasks(project)][:4]
    rows = [
        {
            "data": {"image": image + f"#{i}"},
            "annotations": [{"result": [lab.make_choice_region([label])]}],
        }
        for i, (image, label) in enumerate(zip(images, ["red", "blue"] * 2, strict=True))
    ]
    lab.request("POST", f"/api/projects/{project}/import", json=rows)
    assert backend.wait_for_round(project, 4, version=before)["tasks"] == 16


def test_annotation_updated(
    lab: LabelStudioUser, backend: BackendServer, started: tuple[int, list[int], Json]
) -> None:
    project, tasks, _ = started
    made = [lab.submit_annotation(task) for task in tasks[:4]]
    before = backend.wait_for_round(project, 4)["version"]
    for annotation in made:
        body = {"result": [lab.make_choice_region(["red"])]}
        lab.request("PATCH", f"/api/annotations/{annotation['id']}/", json=body)
    # two of the four were red before: two changes wait, which is no round yet
    wait_until("changes wait", lambda: backend.project(project)["waiting"] >= 2)
    assert backend.project(project)["version"] == before


def test_annotations_deleted(
    lab: LabelStudioUser, backend: BackendServer, started: tuple[int, list[int], Json]
) -> None:
    project, tasks, _ = started
    made = [lab.submit_annotation(task) for task in tasks[:4]]
    before = backend.wait_for_round(project, 4)["version"]
    for annotation in made:
        lab.request("DELETE", f"/api/annotations/{annotation['id']}/")
    wait_until("no label is left", lambda: backend.project(project)["labels"] == 0)
    assert backend.wait_for_round(project)["version"] != before


def test_tasks_created_and_deleted(
    lab: LabelStudioUser, backend: BackendServer, started: tuple[int, list[int], Json]
) -> None:
    project, tasks, _ = started
    lab.import_colours(project, 2, start=50)
    wait_until("16 tasks", lambda: backend.project(project)["tasks"] == 16)
    lab.request(
        "POST",
        f"/api/dm/actions/?id=delete_tasks&project={project}",
        json={"selectedItems": {"all": False, "included": tasks[:3]}},
    )
    wait_until("13 tasks", lambda: backend.project(project)["tasks"] == 13)


def test_project_updated(
    lab: LabelStudioUser, backend: BackendServer, started: tuple[int, list[int], Json]
) -> None:
    project, _, _ = started
    config = lab.fetch_project(project)["label_config"].replace(
        "</View>", '<TextArea name="note" toName="image"/></View>'
    )
    lab.request("PATCH", f"/api/projects/{project}/", json={"label_config": config})
    wait_until(
        "the new control is named",
        lambda: (
            "control note (TextArea: not served, only Choices, RectangleLabels, KeyPointLabels are)"
            in backend.project(project)["left_out"]
        ),
    )


def test_start_training(
    lab: LabelStudioUser, backend: BackendServer, started: tuple[int, list[int], Json]
) -> None:
    project, tasks, connection = started
    before = backend.project(project)["version"]

    def detail() -> str | None:
        text: str | None = backend.project(project)["round"]["detail"]
        return text

    lab.start_training(connection)
    wait_until("it says why", lambda: "Nothing is labeled yet" in (detail() or ""))
    lab.submit_annotation(tasks[0])
    wait_until("a label waits, and that is over", lambda: detail() is None)
    lab.start_training(connection)
    trained = backend.wait_for_round(project, 1, version=before)
    assert trained["labels"] == 1
    lab.start_training(connection)
    sentence = f"No new labels: {trained['version']} {USED_LABELS_TEXT}"
    wait_until("it says why again", lambda: detail() == sentence)


def test_a_webhooks_content_is_not_trusted(
    lab: LabelStudioUser, backend: BackendServer, started: tuple[int, list[int], Json]
) -> None:
    project, tasks, _ = started
    before = backend.project(project)
    lie = {
        "action": "ANNOTATIONS_CREATED",
        "project": {"id": project, "label_config": "<View/>", "title": "mine"},
        "annotation": [
            {"result": [lab.make_choice_region(["red"])], "task": task} for task in tasks
        ],
        "task": [{"id": task} for task in tasks],
    }
    for body in (b"", b"\xff", b"[]", b'{"project": 7}', b'{"action": 3}', b"{" * 100_000):
        assert backend.http.post("/webhook", content=body).status_code == 200
    assert backend.http.post("/webhook", json=lie).json()["projects"] == [str(project)]
    wait_until("it looked", lambda: backend.project(project)["round"]["state"] == "idle")
    assert backend.wait_for_round(project)["labels"] == 0
    assert backend.project(project)["version"] == before["version"]


def test_webhooks_arrive_with_basic_auth_on(
    lab: LabelStudioUser, make_backend: MakeBackend
) -> None:
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
    project = lab.create_project()
    tasks = lab.import_colours(project, 4)
    lab.connect_backend(
        project,
        f"{backend.url}/{secret}",
        auth_method="BASIC_AUTH",
        basic_auth_user=auth[0],
        basic_auth_pass=auth[1],
    )
    backend.wait_for_round(project)
    for task in tasks[:4]:
        lab.submit_annotation(task)
    assert backend.wait_for_round(project, 4)["labels"] == 4
    assert secret not in backend.log.read_text().replace(f"{backend.url}/{secret}", "", 1)
