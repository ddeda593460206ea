"""What may go live, what needs no person, and which labels are wrong: on a real Label Studio."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backend.domain import Choice, ImageSize, Prediction
from backend.label_studio.client import MACHINE
from backend.label_studio.task_results import AT_ONCE
from backend.learning.audit import is_audit
from backend.learning.auto_accept import for_people
from backend.loop.observe import observe, take_pulse
from backend.loop.publish.auto_accept import accept
from backend.runtime.connection import Connection, connect, created_at
from backend.settings import read_settings
from backend.store.projects import ProjectRecord
from backend.tools.label_errors import TAB
from tests.conftest import MakeBackend
from tests.contract.test_commands import figures, prelabel
from tests.support.harness import CHOICES, COLOURS, Backend, Json, Lab, choice_of, until

LATER = {"PRELABEL_RETRAIN_AFTER": "1000"}


def other(colour: str) -> str:
    return next(name for name in COLOURS if name != colour)


def environment(backend: Backend) -> dict[str, str]:
    names = ("PRELABEL_HOME", "PRELABEL_ENCODER", "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY")
    return {name: backend.environment[name] for name in names}


def test_poisoned_labels_do_not_reach_the_live_version_until_a_person_says_so(
    lab: Lab, make_backend: MakeBackend
) -> None:
    backend = make_backend(**LATER)
    project = lab.project()
    tasks = lab.add(project, 40)
    lab.connect(project, backend.url)
    backend.settled(project)
    for task in tasks[:36]:
        lab.label(task)
    good = backend.learn(project, 36)["version"]
    for number, task in enumerate(tasks[36:72]):
        poisoned = number % 10 in (0, 3, 7)
        lab.label(task, other(lab.truth[task]) if poisoned else lab.truth[task])
    state = backend.learn(project, 72)
    assert state["version"] == good
    assert state["held"]["version"] != good
    assert state["held"]["reason"].startswith("Held back: ")
    assert lab.info(project)["model_version"] == good
    env = environment(backend)
    cards = figures(prelabel("versions", str(project), "--json", **env))["versions"]
    assert cards[0]["promotion"]["promoted"] is False
    assert "Held back" in prelabel("versions", str(project), **env).stdout
    held = state["held"]["version"]
    prelabel("promote", held, str(project), **env)
    until("promoted against the gate", lambda: backend.project(project)["version"] == held)
    back = figures(prelabel("rollback", str(project), "--json", **env))
    assert back["version"] == good
    history = figures(prelabel("versions", str(project), "--json", **env))["history"]
    assert [(event["version"], event["by"]) for event in history[-2:]] == [
        (held, "a person"),
        (good, "a person"),
    ]


def test_sure_answers_are_accepted_where_their_error_is_proven_until_people_find_too_many_wrong(
    lab: Lab, make_backend: MakeBackend, tmp_path: Path
) -> None:
    backend = make_backend(**LATER)
    config = CHOICES.format(choice="single").replace(
        '"colour" ', '"colour" model_accept_error="0.4" model_score_threshold="1" '
    )
    project = lab.project(config)
    tasks = lab.add(project, 110)
    lab.connect(project, backend.url)
    backend.settled(project)
    name = lab.identity(project)
    audit = [task for task in tasks if is_audit(name, task)]
    pool = [task for task in tasks if task not in audit]
    for task in [*audit[:4], *pool[:12]]:
        lab.label(task)
    state = backend.learn(project, 16)
    assert state["accepting"]["level"] is None
    assert state["accepting"]["missing"] == 5, "9 audit labels without error prove 40 %"
    assert state["accepted"] == 0
    for task in audit[4:]:
        lab.label(task)
    state = backend.learn(project, 12 + len(audit))
    assert state["accepting"]["proven"] <= 0.4
    done = {t["id"]: t for t in lab.tasks(project) if t["is_labeled"]}
    accepted = [task for task in pool[12:] if task in done]
    assert len(accepted) >= 100
    assert not any(for_people(name, task) for task in accepted)
    machine = {u["id"] for u in lab.call("GET", "/api/users/") if u["email"] == MACHINE["email"]}
    wrong = 0
    for task in accepted:
        (annotation,) = done[task]["annotations"]
        assert {annotation["completed_by"]} == machine
        wrong += choice_of(annotation) != lab.truth[task]
    assert wrong <= 0.4 * len(accepted)
    counted = until("counted", lambda: seen(backend, project, len(accepted)))
    assert counted["labels"] == 12 + len(audit), "the machine's answers are no labels"
    asked = lab.next(project)["id"]
    assert asked not in accepted

    connection = reached(lab, project)
    anew = observe(connection, tmp_path, take_pulse(connection))
    assert sum(task.accepted for task in anew.tasks) == len(accepted), "in a home that is new too"
    assert len(anew.labeled) == 12 + len(audit)
    choice = Choice("colour", {"red": 1.0}, ImageSize(48, 48))
    late = [Prediction(task, (choice,), 1.0) for task in pool[:2]]
    assert accept(connection, anew.controls, late) == set(), "somebody labeled them meanwhile"

    waiting = [t for t in pool[12:] if t not in done and for_people(name, t)][:3]
    for task in waiting:
        lab.label(task, other(lab.truth[task]))
    for task in accepted[:5]:
        correct(lab, done[task]["annotations"][0], other(lab.truth[task]))
    labels = 12 + len(audit) + len(waiting) + 5
    state = backend.learn(project, labels)
    assert state["accepting"]["suspended"]
    assert state["accepting"]["checked"] == 0, "the next suspension needs evidence of its own"
    # all that people looked at; of those that went to them some may not have been sure enough
    corrected = re.match(r"People corrected (\d+) of \1 answers", state["accepting"]["reason"])
    assert corrected, state["accepting"]
    assert 5 < int(corrected[1]) <= len(waiting) + 5
    told = figures(prelabel("status", "--json", **environment(backend)))["projects"]
    assert [p["accepting"]["suspended"] for p in told if p["id"] == project] == [True]
    new = lab.add(project, 10, start=500)
    backend.learn(project, labels)
    until("all predicted", lambda: not set(new) - {p["task"] for p in lab.predictions(project)})
    backend.settled(project)
    assert not any(t["is_labeled"] for t in lab.tasks(project) if t["id"] in new)


def test_what_somebody_labeled_or_skipped_meanwhile_is_not_accepted(
    lab: Lab, tmp_path: Path
) -> None:
    project = lab.project()
    tasks = lab.add(project, 3)
    connection = reached(lab, project)
    controls = observe(connection, tmp_path, take_pulse(connection)).controls
    lab.skip(tasks[0])
    lab.label(tasks[1])
    until("the skip is marked", lambda: connection.client.skipped(project) == {tasks[0]})
    assert connection.client.given(tasks[0]) == [], "Label Studio lists no skip there"
    choice = Choice("colour", {"red": 1.0}, ImageSize(48, 48))
    late = [Prediction(task, (choice,), 1.0) for task in tasks]
    assert accept(connection, controls, late) == set(tasks[2:])


def reached(lab: Lab, project: int) -> Connection:
    """The project, as a backend reaches it."""
    created = created_at(lab.info(project)["created_at"])
    token = lab.http.headers["Authorization"].split()[1]
    settings = read_settings({"LABEL_STUDIO_URL": lab.url, "LABEL_STUDIO_API_KEY": token})
    return connect(ProjectRecord(str(project), lab.url, project, created), token, settings)


def correct(lab: Lab, annotation: Json, colour: str) -> None:
    """Change an annotation that is there, a while after it was made."""
    made = datetime.fromisoformat(annotation["created_at"])
    until("a while passed", lambda: (datetime.now(UTC) - made).total_seconds() > AT_ONCE)
    body = {"result": [lab.region([colour])]}
    lab.call("PATCH", f"/api/annotations/{annotation['id']}/", json=body)


def seen(backend: Backend, project: int, accepted: int) -> Json:
    """The project once the machine's answers are counted."""
    backend.http.post("/webhook", json={"action": "START_TRAINING", "project": {"id": project}})
    state = backend.project(project)
    return state if state["accepted"] == accepted else {}


def test_wrong_labels_are_found_shown_as_a_tab_and_never_changed(
    lab: Lab, make_backend: MakeBackend
) -> None:
    backend = make_backend(**LATER)
    project = lab.project()
    tasks = lab.add(project, 30)
    lab.connect(project, backend.url)
    backend.settled(project)
    wrong = tasks[:50:9]
    for task in tasks[:50]:
        lab.label(task, other(lab.truth[task]) if task in wrong else lab.truth[task])
    version = backend.learn(project, 50)["version"]
    kept = backend.home / "projects" / str(project) / "suspects.json"
    until("the server looks through them by itself", kept.exists)
    backend.http.post("/webhook", json={"action": "PROJECT_UPDATED", "project": {"id": project}})
    until("nothing waits", lambda: backend.settled(project)["waiting"] == 0)
    env = environment(backend)
    told = figures(prelabel("label-errors", str(project), "--json", **env))
    named = [row["task"] for row in told["suspects"]]
    assert len(set(named) & set(wrong)) >= len(wrong) - 1
    assert len(set(named) - set(wrong)) <= 2
    shown = {p["task"]: p for p in lab.predictions(project) if p["model_version"] == version}
    for row in told["suspects"]:
        assert shown[row["task"]]["mislabeling"] == pytest.approx(row["mislabeling"], abs=1e-5)
        assert (row["given"], row["suggested"]) in (("red", "blue"), ("blue", "red"))
    tabs = lab.call("GET", "/api/dm/views/", params={"project": project})
    (tab,) = [tab for tab in tabs if tab["data"]["title"] == TAB]
    listed = lab.call("GET", "/api/tasks/", params={"view": tab["id"], "project": project})
    assert [task["id"] for task in listed["tasks"]] == named, "the most suspicious first"
    for row in lab.tasks(project):
        if row["id"] in wrong:
            assert choice_of(row["annotations"][0]) == other(lab.truth[row["id"]])


def test_images_like_a_task_and_words_without_a_text_encoder(lab: Lab, backend: Backend) -> None:
    project = lab.project()
    tasks = lab.add(project, 8)
    lab.connect(project, backend.url)
    backend.settled(project)
    env = environment(backend)
    told = figures(
        prelabel("similar", str(tasks[0]), str(project), "--count", "7", "--json", **env)
    )
    found = [row["task"] for row in told["matches"]]
    assert len(found) == 7
    assert tasks[0] not in found
    assert sum(lab.truth[task] == lab.truth[tasks[0]] for task in found) >= 6
    assert found[0] == told["matches"][0]["task"]
    similarity = [row["similarity"] for row in told["matches"]]
    assert similarity == sorted(similarity, reverse=True)
    words = prelabel("similar", "something red", str(project), **env)
    assert words.returncode == 2
    assert "knows no words" in words.stderr
