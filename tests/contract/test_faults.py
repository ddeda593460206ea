"""What goes wrong in real life: nothing is lost, and one sentence says what to do."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import psutil
import pytest
from hypothesis import given, settings

from backend.store.files import sweep_temporary_files
from tests.support.cli import run_prelabel
from tests.support.detection_projects import (
    BOXES_CONFIG,
    create_drawing_project,
    make_box_region,
)
from tests.support.harness import (
    BackendServer,
    Json,
    LabelStudioUser,
    MakeBackend,
    make_data_uri,
    make_png,
    predicted_choice,
    wait_until,
)
from tests.support.protocol_bodies import protocol_bodies

KILLS = int(os.environ.get("KILLS", "0"))
"""How often the backend is killed, for choices and for boxes; by default thrice for choices."""
FUZZED_BODIES = int(os.environ.get("FUZZED_BODIES", "400"))
DETECTOR_SETTINGS = {
    "PRELABEL_DETECTOR": "builtin",
    "PRELABEL_DETECTOR_SIZE": "160",
    "PRELABEL_TRAIN_SECONDS": "15",
}


def test_labels_made_while_the_backend_is_down_are_learned_after_its_start(
    lab: LabelStudioUser, backend: BackendServer
) -> None:
    project = lab.create_project()
    tasks = lab.import_colours(project, 8)
    lab.connect_backend(project, backend.url)
    before = backend.wait_for_round(project)["versions"]
    backend.stop()
    lab.request("PATCH", f"/api/projects/{project}/", json={"title": "renamed meanwhile"})
    for task in tasks[:6]:
        lab.submit_annotation(task)
    backend.start()
    state = backend.wait_for_round(project, 6)
    assert (state["title"], len(state["versions"])) == ("renamed meanwhile", len(before) + 1)
    time.sleep(3)
    assert backend.wait_for_round(project, 6)["versions"] == state["versions"], "retrained once"


def test_damage_to_the_live_version_falls_back_and_trains_again(
    lab: LabelStudioUser, backend: BackendServer
) -> None:
    """The labels are in Label Studio, so a version that cannot be read is made again."""
    project = lab.create_project()
    tasks = lab.import_colours(project, 12)
    lab.connect_backend(project, backend.url)
    first = backend.wait_for_round(project)["version"]
    for task in tasks[:6]:
        lab.submit_annotation(task)
    lost = backend.wait_for_round(project, 6)["version"]
    backend.stop()
    folder = backend.home / "projects" / str(project)
    (weights,) = (folder / "versions" / lost).glob("head-0/*.safetensors")
    weights.write_bytes(weights.read_bytes()[:50])
    (folder / "label_times.json").write_text("[]")
    (folder / "project.json").write_text("")
    backend.start()

    def is_trained_again() -> bool:
        return backend.project(project).get("version") not in (None, first, lost)

    wait_until("another version", is_trained_again)
    state = backend.wait_for_round(project, 6)
    assert set(state["versions"]) == {state["version"], first}
    assert state["version"].startswith("v2-")
    events = (folder / "history.jsonl").read_text().splitlines()
    assert f"Version {lost} was live and cannot be read" in events[-2]
    page = backend.http.get(f"/projects/{project}", headers={"accept": "text/html"}).text
    assert f"Version {lost} is set aside" in page
    version = state["version"]
    of = [p for p in lab.list_predictions(project) if p["model_version"] == version]
    assert sum(predicted_choice(p) == lab.true_labels[p["task"]] for p in of) >= 5


@pytest.mark.parametrize("kind", ["choices", "boxes"] if KILLS else ["choices"])
def test_a_killed_backend_loses_nothing(
    lab: LabelStudioUser, make_backend: MakeBackend, kind: str
) -> None:
    """It is killed in each state of a round, at a random moment."""
    backend = make_backend(**DETECTOR_SETTINGS)
    submit, tasks, project = start_labeling(lab, backend, kind)
    random = np.random.default_rng(len(kind))
    points: list[str] = []
    for number in range(KILLS or 3):
        state = ("observing", "training", "pushing")[number % 3]
        submit(tasks[number])
        backend.http.post("/webhook", json={"action": "START_TRAINING", "project": {"id": project}})
        with contextlib.suppress(AssertionError):
            wait_until(state, lambda state=state: state_of(backend, project) == state, 60)  # type: ignore[misc]
        time.sleep(random.uniform(0, 0.2 if state == "pushing" else 0.8))
        points.append(state_of(backend, project))
        print(f"{kind}, kill {len(points)}: {points[-1]}", flush=True)
        workers = psutil.Process(backend.pid).children(recursive=True)
        backend.kill()
        _, alive = psutil.wait_procs(workers, timeout=10)
        assert not alive, "working processes end with the server"
        backend.start()
    labeled = tasks[: len(points)]
    version = backend.train_and_wait(project, len(labeled))["version"]
    assert {t["id"] for t in lab.list_tasks(project) if t["annotations"]} == set(labeled)
    open_tasks = {t["id"] for t in lab.list_tasks(project) if not t["is_labeled"]}

    def predicted() -> list[int]:
        rows = lab.list_predictions(project)
        return [row["task"] for row in rows if row["model_version"] == version]

    wait_until("every open task has its prediction", lambda: open_tasks <= set(predicted()))
    assert len(predicted()) == len(set(predicted())), "never twice for one version"
    backend.stop()
    print(f"{kind}, killed {len(points)} times: {dict(Counter(points))}", flush=True)
    assert_no_leftovers(backend, project)


def start_labeling(
    lab: LabelStudioUser, backend: BackendServer, kind: str
) -> tuple[Callable[[int], Json], list[int], int]:
    """Return how to label a task, the tasks, and their connected project."""
    if kind == "boxes":
        project, drawings = create_drawing_project(lab, backend, BOXES_CONFIG)

        def submit_boxes(task: int) -> Json:
            return lab.submit_regions(task, [make_box_region(o) for o in drawings[task].objects])

        return submit_boxes, list(drawings), project
    project = lab.create_project()
    tasks = lab.import_colours(project, 60)
    lab.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    return lab.submit_annotation, tasks, project


def state_of(backend: BackendServer, project: int) -> str:
    return str((backend.project(project).get("round") or {}).get("state"))


def assert_no_leftovers(backend: BackendServer, project: int) -> None:
    """The next start removes temporary files, once no other process may still write them."""
    two_hours_ago = time.time() - 7200
    for path in backend.home.rglob("*"):
        os.utime(path, (two_hours_ago, two_hours_ago), follow_symlinks=False)
    backend.start()
    backend.wait_for_round(project)
    backend.stop()
    assert not sweep_temporary_files(backend.home, min_age_seconds=0)
    folder = backend.home / "projects" / str(project) / "versions"
    assert all((path / "card.json").exists() for path in folder.iterdir()), "no half version"


def test_fuzzed_bodies_of_the_protocol_get_no_server_error(
    lab: LabelStudioUser, backend: BackendServer
) -> None:
    """First of a connected project, then those that connect invented ones."""
    project = lab.create_project()
    lab.import_colours(project, 2)
    lab.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    counts: Counter[tuple[str, int]] = Counter()

    def fuzz(path: str) -> None:
        @settings(max_examples=FUZZED_BODIES // 4, deadline=None)
        @given(protocol_bodies(path, project))
        def send(body: bytes) -> None:
            status = backend.http.post(path, content=body).status_code
            counts[path, status] += 1
            assert status < 500

        send()

    for path in ("/predict", "/webhook", "/setup", "/webhook"):
        fuzz(path)
    print(f"{counts.total()} bodies:", sorted(counts.items()))
    assert counts.total() >= FUZZED_BODIES // 2
    assert "Traceback" not in backend.log.read_text()
    assert backend.project(project)["version"]


def test_a_killed_worker_is_replaced(lab: LabelStudioUser, backend: BackendServer) -> None:
    project = lab.create_project()
    tasks = lab.import_colours(project, 4)
    lab.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    for child in psutil.Process(backend.pid).children():
        os.kill(child.pid, signal.SIGKILL)
    for task in tasks[:4]:
        lab.submit_annotation(task)
    assert backend.wait_for_round(project, 4)["labels"] == 4


def test_two_projects_with_opposite_labels_do_not_mix(
    lab: LabelStudioUser, backend: BackendServer
) -> None:
    straight, crossed = lab.create_project(), lab.create_project()
    other = {"red": "blue", "blue": "red"}
    tasks = {p: lab.import_colours(p, 10) for p in (straight, crossed)}
    for project in tasks:
        lab.connect_backend(project, backend.url)
        backend.wait_for_round(project)
    for task in tasks[crossed]:
        lab.true_labels[task] = other[lab.true_labels[task]]
    for one, two in zip(tasks[straight][:8], tasks[crossed][:8], strict=True):
        lab.submit_annotation(one)
        lab.submit_annotation(two)
    for project in tasks:
        version = backend.train_and_wait(project, 8)["version"]
        of = [p for p in lab.list_predictions(project) if p["model_version"] == version]
        assert len(of) >= 12
        assert sum(predicted_choice(p) == lab.true_labels[p["task"]] for p in of) >= len(of) - 1


def test_an_unreadable_image_loses_only_its_own_prediction(
    lab: LabelStudioUser, backend: BackendServer
) -> None:
    project = lab.create_project()
    good = lab.import_colours(project, 6)
    bad = lab.import_images(
        project,
        [
            "data:image/png;base64,AAAA",
            "/data/upload/1/gone.png",
            "http://127.0.0.2:1/private.png",
            "file:///etc/passwd",
            make_data_uri(make_png("red", 1)[:200]),
        ],
    )
    lab.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    for task in good[:4]:
        lab.submit_annotation(task)
    state = backend.wait_for_round(project, 4)
    of = {
        p["task"]: p
        for p in lab.list_predictions(project)
        if p["model_version"] == state["version"]
    }
    assert all(of[task]["result"] == [] for task in bad)
    assert all(of[task]["result"] for task in good[4:])
    assert sum(state["left_out"].values()) == 5
    assert "image address is private" in state["left_out"]
    rows = [
        {"id": t, "data": task["data"]} for task in lab.list_tasks(project) for t in [task["id"]]
    ]
    config = lab.fetch_project(project)["label_config"]
    body = {"tasks": rows, "project": str(project), "label_config": config}
    answer = backend.http.post("/predict", json=body).json()
    assert len(answer["results"]) == len(rows) == 17
    assert sum(bool(result["result"]) for result in answer["results"]) == 12


def test_a_wrong_token_is_reported_and_a_valid_one_fixes_it(
    lab: LabelStudioUser, make_backend: MakeBackend
) -> None:
    backend = make_backend(LABEL_STUDIO_API_KEY="f" * 40, LABEL_STUDIO_URL="http://127.0.0.1:9")
    project = lab.create_project()
    lab.import_colours(project, 3)
    body = {"project": f"{project}.1", "schema": "<View/>", "hostname": lab.url}
    setup = backend.http.post("/setup", json={**body, "access_token": "e" * 40})
    assert setup.status_code == 200
    assert "refused the token" in backend.wait_for_failure(project)
    assert "f" * 40 not in backend.log.read_text()
    assert "e" * 40 not in backend.log.read_text()
    token = str(lab.http.headers["authorization"]).removeprefix("Token ")
    created = lab.fetch_project(project)["created_at"]
    from backend.runtime.connection import parse_created_at

    body = {"project": f"{project}.{parse_created_at(created)}", "schema": "<View/>"}
    backend.http.post("/setup", json={**body, "hostname": lab.url, "access_token": token})
    ids = [p["id"] for p in backend.http.get("/api/projects").json()]
    assert any(backend.http.get(f"/api/projects/{i}").json()["server"] == lab.url for i in ids)
    wait_until(
        "a version", lambda: any(p["version"] for p in backend.http.get("/api/projects").json())
    )


def test_a_running_backend_takes_up_the_token_of_login(
    lab: LabelStudioUser, make_backend: MakeBackend
) -> None:
    backend = make_backend(LABEL_STUDIO_API_KEY="f" * 40)  # as if it was revoked
    project = lab.create_project()
    lab.import_colours(project, 2)
    body = {"project": f"{project}.0", "schema": "<View/>", "hostname": lab.url}
    backend.http.post("/setup", json=body)
    assert "run `prelabel login`; a running backend then continues" in (
        backend.wait_for_failure(project)
    )
    for token, status, message in (
        ("e" * 40, 1, "refused the token"),
        (lab.token, 0, "LABEL_STUDIO_API_KEY is set in this terminal"),
    ):
        done = run_prelabel("login", "--json", input=f"{token}\n", **backend.environment)
        assert (done.returncode, message in done.stderr) == (status, True), done.stderr
        assert token not in done.stderr + done.stdout
    backend.wait_for_round(project)
    assert lab.token not in backend.log.read_text()


def test_a_config_without_a_served_control_is_reported(
    lab: LabelStudioUser, backend: BackendServer
) -> None:
    config = '<View><Image name="i" value="$image"/><TextArea name="t" toName="i"/></View>'
    project = lab.create_project(config)
    lab.import_colours(project, 1)
    lab.connect_backend(project, backend.url)
    error = backend.wait_for_failure(project)
    assert "no control that Prelabel serves (t: TextArea: not served, only Choices," in error


def test_a_full_disk_while_saving_keeps_the_live_version(
    lab: LabelStudioUser, make_backend: MakeBackend
) -> None:
    """A limit on the size of files stands in for the full disk: the system refuses the write."""
    backend = make_backend()
    project = lab.create_project()
    tasks = lab.import_colours(project, 6)
    lab.connect_backend(project, backend.url)
    live = backend.wait_for_round(project)["version"]
    versions = backend.home / "projects" / str(project) / "versions"
    aside = versions.with_name("aside")
    versions.rename(aside)
    versions.write_text("in the way")
    for task in tasks[:4]:
        lab.submit_annotation(task)
    error = backend.wait_for_failure(project)
    assert "versions" in error
    assert error.count(".") >= 1
    versions.unlink()
    aside.rename(versions)
    backend.http.post("/webhook", json={"action": "X", "project": {"id": project}})
    state = backend.wait_for_round(project, 4)
    assert state["version"] != live
