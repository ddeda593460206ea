"""Many Label Studios, the two kinds of token, live /predict, and the stock server."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest

from backend.label_studio.local_server import LabelStudioServer, ServerProcess, find_free_port
from tests.support.harness import (
    BackendServer,
    LabelStudioUser,
    MakeBackend,
    MakeStudio,
    create_personal_token,
    predicted_choice,
    wait_until,
)

STOCK = str(Path(sys.executable).parent / "label-studio-ml")


@pytest.fixture(scope="module")
def second(make_studio: MakeStudio) -> LabelStudioServer:
    """Another Label Studio, where legacy tokens are off, as in new installations."""
    return make_studio()


@pytest.fixture(scope="module")
def personal(second: LabelStudioServer) -> str:
    """The one personal access token that a user may have."""
    return create_personal_token(second)


def access_token(studio: LabelStudioServer, personal: str) -> str:
    """What a personal access token is exchanged for."""
    answer = httpx.post(
        f"{studio.url}/api/token/refresh/", json={"refresh": personal}, trust_env=False
    )
    return str(answer.json()["access"])


def test_two_servers_with_the_same_project_number_do_not_mix(
    lab: LabelStudioUser, second: LabelStudioServer, personal: str, make_backend: MakeBackend
) -> None:
    """One of them with a personal access token, the other with its legacy token from /setup."""
    backend = make_backend(LABEL_STUDIO_URL=second.url, LABEL_STUDIO_API_KEY=personal)
    other = LabelStudioUser(second.url, access_token(second, personal), scheme="Bearer")
    mine = lab.create_project(title="first server")
    theirs = other.create_project(title="second server")
    while theirs < mine:
        theirs = other.create_project(title="second server")
    while mine < theirs:
        mine = lab.create_project(title="first server")
    swapped = {"red": "blue", "blue": "red"}
    for person in (lab, other):
        tasks = person.import_colours(mine, 10)
        person.connect_backend(mine, backend.url)
        wait_until("a version", partial(all_ready, backend, person.url))
        for task in tasks[:8]:
            truth = person.true_labels[task]
            person.true_labels[task] = truth if person is lab else swapped[truth]
            person.submit_annotation(task)
        for task in tasks[8:]:
            truth = person.true_labels[task]
            person.true_labels[task] = truth if person is lab else swapped[truth]
    states = backend.http.get("/api/projects").json()
    assert [s["number"] for s in states] == [mine, mine]
    assert len({s["id"] for s in states}) == 2
    assert {s["title"] for s in states} == {"first server", "second server"}
    start = {"action": "START_TRAINING", "project": {"id": mine}}
    assert len(backend.http.post("/webhook", json=start).json()["projects"]) == 2
    for person in (lab, other):
        wait_until("eight labels are learned", partial(learned, backend, person.url, 8))
        version = state_of(backend, person.url)["version"]
        of = [p for p in person.list_predictions(mine) if p["model_version"] == version]
        assert len(of) >= 12
        assert sum(predicted_choice(p) == person.true_labels[p["task"]] for p in of) >= len(of) - 1
    assert personal not in backend.log.read_text()
    other.close()


def state_of(backend: BackendServer, server: str) -> dict[str, object]:
    found = [p for p in backend.http.get("/api/projects").json() if p["server"] == server]
    return found[0] if found else {}


def all_ready(backend: BackendServer, server: str) -> bool:
    state = state_of(backend, server)
    return bool(state and state["version"])


def learned(backend: BackendServer, server: str, labels: int) -> bool:
    state = state_of(backend, server)
    assert not state["round"]["error"], state["round"]  # type: ignore[index]
    return state["labels"] == labels and not state["waiting"]


def test_without_a_valid_token_the_settings_page_is_mentioned(
    second: LabelStudioServer, personal: str, make_backend: MakeBackend
) -> None:
    """Legacy tokens are off, so the one that /setup brings is refused."""
    backend = make_backend(LABEL_STUDIO_URL="http://127.0.0.1:9", LABEL_STUDIO_API_KEY="")
    person = LabelStudioUser(second.url, access_token(second, personal), scheme="Bearer")
    project = person.create_project()
    person.connect_backend(project, backend.url)
    error = backend.wait_for_failure(project)
    assert "run `prelabel login`" in error
    person.close()


def test_predict_answers_one_result_per_task_and_waits_for_the_first_version(
    lab: LabelStudioUser, backend: BackendServer
) -> None:
    project = lab.create_project()
    lab.import_colours(project, 20)
    lab.connect_backend(project, backend.url)
    rows = [{"id": t["id"], "data": t["data"]} for t in lab.list_tasks(project)]
    body = {
        "tasks": rows,
        "project": f"{project}.1",
        "label_config": lab.fetch_project(project)["label_config"],
        "params": {"login": None, "password": None, "context": None},
    }
    known = {**body, "project": str(project)}
    answer = backend.http.post("/predict", json=known).json()
    assert len(answer["results"]) == 40
    assert answer["model_version"].startswith("v0-")
    assert {r["model_version"] for r in answer["results"]} == {answer["model_version"]}
    with ThreadPoolExecutor(1) as pool:
        for _ in range(50):  # until one is still being answered when we look
            asked = pool.submit(backend.http.post, "/predict", json=known)
            shown = [backend.project(project).get("predicting") for _ in range(5)]
            assert asked.result().status_code == 200
            if any(shown):
                break
    assert {progress["requested"] for progress in shown if progress} == {40}
    assert "predicting" not in backend.project(project)
    refused = backend.http.post("/predict", json={**known, "label_config": "<View"})
    assert (refused.status_code, "labeling config cannot be read" in refused.text) == (400, True)
    unknown = backend.http.post("/predict", json={**body, "project": "987654.1"}).json()
    assert len(unknown["results"]) == 40
    assert {tuple(r["result"]) for r in unknown["results"]} == {()}


def test_retrieve_predictions_in_label_studio_takes_every_result(
    lab: LabelStudioUser, backend: BackendServer
) -> None:
    project = lab.create_project()
    tasks = lab.import_colours(project, 6)
    lab.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    for task in tasks[:4]:
        lab.submit_annotation(task)
    version = backend.wait_for_round(project, 4)["version"]
    wait_until(
        "only its predictions are left",
        lambda: {p["model_version"] for p in lab.list_predictions(project)} == {version},
    )
    for prediction in lab.list_predictions(project):
        lab.request("DELETE", f"/api/predictions/{prediction['id']}/")
    lab.request(
        "POST",
        f"/api/dm/actions/?id=retrieve_tasks_predictions&project={project}",
        json={"selectedItems": {"all": True, "excluded": []}},
    )
    of = [p for p in lab.list_predictions(project) if p["model_version"] == version]
    assert len({p["task"] for p in of}) == 12
    assert all(p["result"] for p in of)


def test_the_stock_server_serves_the_same_model(
    lab: LabelStudioUser, studio: LabelStudioServer, tmp_path: Path
) -> None:
    """``label-studio-ml init`` and ``start``, 1.0.9 as PyPI has it."""
    (tmp_path / "model.py").write_text("from backend.server.stock import Prelabel\n")
    made = subprocess.run(
        [STOCK, "init", "served", "--script", "model.py:Prelabel", "--root-dir", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    port = find_free_port()
    environment = {
        "PRELABEL_HOME": str(tmp_path / "home"),
        "PRELABEL_ENCODER": "builtin",
        "PRELABEL_RETRAIN_AFTER": "4",
        "PRELABEL_RETRAIN_QUIET": "3600",
        "LABEL_STUDIO_URL": studio.url,
        "LABEL_STUDIO_API_KEY": studio.token,
        "PATH": f"{Path(STOCK).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [STOCK, "start", "served", "-p", str(port), "--root-dir", str(tmp_path)]
    program = ServerProcess(command, environment, tmp_path / "stock.log")
    try:
        url = f"http://127.0.0.1:{port}"
        program.wait_until_ready(f"{url}/health", 60, lambda waited: None)
        project = lab.create_project()
        tasks = lab.import_colours(project, 10)
        lab.connect_backend(project, url)
        for task in tasks[:8]:
            lab.submit_annotation(task)

        def right() -> bool:
            rows = [{"id": t, "data": d["data"], "project": project} for t, d in by_id.items()]
            body = {"tasks": rows, "project": f"{project}", "params": {}}
            answer = httpx.post(f"{url}/predict", json=body, timeout=100, trust_env=False).json()
            results = answer["results"]
            assert len(results) == len(rows)
            said = [predicted_choice(r) if r["result"] else "" for r in results]
            return sum(s == lab.true_labels[t] for s, t in zip(said, by_id, strict=True)) >= 11

        by_id = {t["id"]: t for t in lab.list_tasks(project) if t["id"] in tasks[8:]}
        wait_until("the stock server predicts what was labeled", right)
    finally:
        program.stop()
