"""Many Label Studios, the two kinds of token, live /predict, and the stock server."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import httpx
import pytest

from demo.label_studio import Program, Studio, free_port
from tests.conftest import MakeBackend, MakeStudio
from tests.support.harness import Backend, Lab, choice_of, until

STOCK = str(Path(sys.executable).parent / "label-studio-ml")


@pytest.fixture(scope="module")
def second(make_studio: MakeStudio) -> Studio:
    """Another Label Studio, where legacy tokens are off, as in new installations."""
    return make_studio()


def personal_token(studio: Studio) -> str:
    """A personal access token, made as the account page makes it; legacy tokens are turned off."""
    from demo.label_studio import EMAIL

    with httpx.Client(base_url=studio.url, trust_env=False, timeout=60) as browser:
        browser.get("/user/login/")
        csrf = browser.cookies["csrftoken"]
        form = {"email": EMAIL, "password": studio.password, "csrfmiddlewaretoken": csrf}
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


@pytest.fixture(scope="module")
def personal(second: Studio) -> str:
    """The one personal access token that a user may have."""
    return personal_token(second)


def access_token(studio: Studio, personal: str) -> str:
    """What a personal access token is exchanged for."""
    answer = httpx.post(
        f"{studio.url}/api/token/refresh/", json={"refresh": personal}, trust_env=False
    )
    return str(answer.json()["access"])


def test_two_servers_with_the_same_project_number_do_not_mix(
    lab: Lab, second: Studio, personal: str, make_backend: MakeBackend
) -> None:
    """One of them with a personal access token, the other with its legacy token from /setup."""
    backend = make_backend(LABEL_STUDIO_URL=second.url, LABEL_STUDIO_API_KEY=personal)
    other = Lab(second.url, access_token(second, personal), scheme="Bearer")
    mine = lab.project(title="first server")
    theirs = other.project(title="second server")
    while theirs < mine:
        theirs = other.project(title="second server")
    while mine < theirs:
        mine = lab.project(title="first server")
    swapped = {"red": "blue", "blue": "red"}
    for person in (lab, other):
        tasks = person.add(mine, 10)
        person.connect(mine, backend.url)
        until("a version", partial(all_ready, backend, person.url))
        for task in tasks[:8]:
            truth = person.truth[task]
            person.truth[task] = truth if person is lab else swapped[truth]
            person.label(task)
        for task in tasks[8:]:
            truth = person.truth[task]
            person.truth[task] = truth if person is lab else swapped[truth]
    states = backend.http.get("/api/projects").json()
    assert [s["number"] for s in states] == [mine, mine]
    assert len({s["id"] for s in states}) == 2
    assert {s["title"] for s in states} == {"first server", "second server"}
    start = {"action": "START_TRAINING", "project": {"id": mine}}
    assert len(backend.http.post("/webhook", json=start).json()["projects"]) == 2
    for person in (lab, other):
        until("eight labels are learned", partial(learned, backend, person.url, 8))
        version = state_of(backend, person.url)["version"]
        of = [p for p in person.predictions(mine) if p["model_version"] == version]
        assert len(of) >= 12
        assert sum(choice_of(p) == person.truth[p["task"]] for p in of) >= len(of) - 1
    assert personal not in backend.log.read_text()
    other.close()


def state_of(backend: Backend, server: str) -> dict[str, object]:
    found = [p for p in backend.http.get("/api/projects").json() if p["server"] == server]
    return found[0] if found else {}


def all_ready(backend: Backend, server: str) -> bool:
    state = state_of(backend, server)
    return bool(state and state["version"])


def learned(backend: Backend, server: str, labels: int) -> bool:
    state = state_of(backend, server)
    assert not state["round"]["error"], state["round"]  # type: ignore[index]
    return state["labels"] == labels and not state["waiting"]


def test_without_a_usable_token_the_settings_page_is_named(
    second: Studio, personal: str, make_backend: MakeBackend
) -> None:
    """Legacy tokens are off, so the one that /setup brings is refused."""
    backend = make_backend(LABEL_STUDIO_URL="http://127.0.0.1:9", LABEL_STUDIO_API_KEY="")
    person = Lab(second.url, access_token(second, personal), scheme="Bearer")
    project = person.project()
    person.connect(project, backend.url)
    error = backend.failed(project)
    assert "LABEL_STUDIO_API_KEY" in error
    person.close()


def test_predict_answers_one_result_per_task_and_waits_for_the_first_version(
    lab: Lab, backend: Backend
) -> None:
    project = lab.project()
    lab.add(project, 20)
    lab.connect(project, backend.url)
    rows = [{"id": t["id"], "data": t["data"]} for t in lab.tasks(project)]
    body = {
        "tasks": rows,
        "project": f"{project}.1",
        "label_config": lab.info(project)["label_config"],
        "params": {"login": None, "password": None, "context": None},
    }
    answer = backend.http.post("/predict", json={**body, "project": str(project)}).json()
    assert len(answer["results"]) == 40
    assert answer["model_version"].startswith("v0-")
    assert {r["model_version"] for r in answer["results"]} == {answer["model_version"]}
    unknown = backend.http.post("/predict", json={**body, "project": "987654.1"}).json()
    assert len(unknown["results"]) == 40
    assert {tuple(r["result"]) for r in unknown["results"]} == {()}


def test_retrieve_predictions_in_label_studio_takes_every_result(
    lab: Lab, backend: Backend
) -> None:
    project = lab.project()
    tasks = lab.add(project, 6)
    lab.connect(project, backend.url)
    backend.settled(project)
    for task in tasks[:4]:
        lab.label(task)
    version = backend.settled(project, 4)["version"]
    until(
        "only its predictions are left",
        lambda: {p["model_version"] for p in lab.predictions(project)} == {version},
    )
    for prediction in lab.predictions(project):
        lab.call("DELETE", f"/api/predictions/{prediction['id']}/")
    lab.call(
        "POST",
        f"/api/dm/actions/?id=retrieve_tasks_predictions&project={project}",
        json={"selectedItems": {"all": True, "excluded": []}},
    )
    of = [p for p in lab.predictions(project) if p["model_version"] == version]
    assert len({p["task"] for p in of}) == 12
    assert all(p["result"] for p in of)


def test_the_stock_server_serves_the_same_model(lab: Lab, studio: Studio, tmp_path: Path) -> None:
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
    port = free_port()
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
    program = Program(command, environment, tmp_path / "stock.log")
    try:
        url = f"http://127.0.0.1:{port}"
        program.wait_for(f"{url}/health", 60, lambda waited: None)
        project = lab.project()
        tasks = lab.add(project, 10)
        lab.connect(project, url)
        for task in tasks[:8]:
            lab.label(task)

        def right() -> bool:
            rows = [{"id": t, "data": d["data"], "project": project} for t, d in by_id.items()]
            body = {"tasks": rows, "project": f"{project}", "params": {}}
            answer = httpx.post(f"{url}/predict", json=body, timeout=100, trust_env=False).json()
            results = answer["results"]
            assert len(results) == len(rows)
            said = [choice_of(r) if r["result"] else "" for r in results]
            return sum(s == lab.truth[t] for s, t in zip(said, by_id, strict=True)) >= 11

        by_id = {t["id"]: t for t in lab.tasks(project) if t["id"] in tasks[8:]}
        until("the stock server predicts what was labeled", right)
    finally:
        program.stop()
