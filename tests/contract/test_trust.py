"""What may go live, what needs no person, and which labels are wrong: on a real Label Studio."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backend.domain import ChoicePrediction, ImageSize, Prediction
from backend.label_studio.client import MACHINE_USER
from backend.label_studio.tabs import LABEL_ERRORS_TAB
from backend.label_studio.task_results import SAVE_DELAY_SECONDS
from backend.learning.audit import is_audit
from backend.learning.auto_accept import is_held_for_review
from backend.loop.observe import fetch_fingerprint, observe
from backend.loop.publish.auto_accept import auto_accept
from backend.runtime.connection import Connection, connect, parse_created_at
from backend.settings import read_settings
from backend.store.projects import ProjectRecord
from backend.tools.label_errors import TOO_FEW_REGIONS
from tests.support.cli import json_output, run_prelabel
from tests.support.detection_projects import (
    BOXES_CONFIG,
    create_drawing_project,
    make_box_region,
)
from tests.support.harness import (
    CHOICES_CONFIG,
    RGB_BY_COLOUR,
    BackendServer,
    Json,
    LabelStudioUser,
    MakeBackend,
    predicted_choice,
    wait_until,
)

LATER = {"PRELABEL_RETRAIN_AFTER": "1000"}


def other(colour: str) -> str:
    return next(name for name in RGB_BY_COLOUR if name != colour)


def environment(backend: BackendServer) -> dict[str, str]:
    names = ("PRELABEL_HOME", "PRELABEL_ENCODER", "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY")
    return {name: backend.environment[name] for name in names}


def test_poisoned_labels_do_not_reach_the_live_version_until_a_person_says_so(
    lab: LabelStudioUser, make_backend: MakeBackend
) -> None:
    backend = make_backend(**LATER)
    project = lab.create_project()
    tasks = lab.import_colours(project, 40)
    lab.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    for task in tasks[:36]:
        lab.submit_annotation(task)
    good = backend.train_and_wait(project, 36)["version"]
    for number, task in enumerate(tasks[36:72]):
        poisoned = number % 10 in (0, 3, 7)
        lab.submit_annotation(
            task, other(lab.true_labels[task]) if poisoned else lab.true_labels[task]
        )
    state = backend.train_and_wait(project, 72)
    assert state["version"] == good
    assert state["held"]["version"] != good
    assert state["held"]["reason"].startswith("Held back: ")
    assert lab.fetch_project(project)["model_version"] == good
    env = environment(backend)
    cards = json_output(run_prelabel("versions", str(project), "--json", **env))["versions"]
    assert cards[0]["promotion"]["promoted"] is False
    assert "Held back" in run_prelabel("versions", str(project), **env).stdout
    held = state["held"]["version"]
    run_prelabel("promote", held, str(project), **env)
    wait_until("promoted against the gate", lambda: backend.project(project)["version"] == held)
    back = json_output(run_prelabel("rollback", str(project), "--json", **env))
    assert back["version"] == good
    history = json_output(run_prelabel("versions", str(project), "--json", **env))["history"]
    assert [(event["version"], event["by"]) for event in history[-2:]] == [
        (held, "a person"),
        (good, "a person"),
    ]


def test_sure_answers_are_accepted_where_their_error_is_proven_until_people_find_too_many_wrong(
    lab: LabelStudioUser, make_backend: MakeBackend, tmp_path: Path
) -> None:
    backend = make_backend(**LATER)
    config = CHOICES_CONFIG.format(choice="single").replace(
        '"colour" ', '"colour" model_accept_error="0.4" model_score_threshold="1" '
    )
    project = lab.create_project(config)
    tasks = lab.import_colours(project, 110)
    lab.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    name = lab.audit_identity(project)
    audit = [task for task in tasks if is_audit(name, task)]
    pool = [task for task in tasks if task not in audit]
    for task in [*audit[:4], *pool[:12]]:
        lab.submit_annotation(task)
    state = backend.train_and_wait(project, 16)
    assert state["accepting"]["level"] is None
    assert state["accepting"]["missing"] == 5, "9 audit labels without error prove 40 %"
    assert state["accepted"] == 0
    for task in audit[4:]:
        lab.submit_annotation(task)
    state = backend.train_and_wait(project, 12 + len(audit))
    assert state["accepting"]["proven"] <= 0.4
    done = {t["id"]: t for t in lab.list_tasks(project) if t["is_labeled"]}
    accepted = [task for task in pool[12:] if task in done]
    assert len(accepted) >= 100
    assert not any(is_held_for_review(name, task) for task in accepted)
    machine = {
        u["id"] for u in lab.request("GET", "/api/users/") if u["email"] == MACHINE_USER["email"]
    }
    wrong = 0
    for task in accepted:
        (annotation,) = done[task]["annotations"]
        assert {annotation["completed_by"]} == machine
        wrong += predicted_choice(annotation) != lab.true_labels[task]
    assert wrong <= 0.4 * len(accepted)
    counted = wait_until("counted", lambda: seen(backend, project, len(accepted)))
    assert counted["labels"] == 12 + len(audit), "the machine's answers are no labels"
    asked = lab.next_task(project)["id"]
    assert asked not in accepted

    connection = reached(lab, project)
    anew = observe(connection, tmp_path, fetch_fingerprint(connection))
    assert sum(task.auto_accepted for task in anew.tasks) == len(accepted), (
        "in a home that is new too"
    )
    assert len(anew.labeled) == 12 + len(audit)
    choice = ChoicePrediction("colour", {"red": 1.0}, ImageSize(48, 48))
    late = [Prediction(task, (choice,), 1.0) for task in pool[:2]]
    assert auto_accept(connection, anew.controls, late) == set(), "somebody labeled them meanwhile"

    waiting = [t for t in pool[12:] if t not in done and is_held_for_review(name, t)][:3]
    for task in waiting:
        lab.submit_annotation(task, other(lab.true_labels[task]))
    for task in accepted[:5]:
        correct(lab, done[task]["annotations"][0], other(lab.true_labels[task]))
    labels = 12 + len(audit) + len(waiting) + 5
    state = backend.train_and_wait(project, labels)
    assert state["accepting"]["suspended"]
    assert state["accepting"]["checked"] == 0, "the next suspension needs evidence of its own"
    # all that people looked at; of those that went to them some may not have been sure enough
    corrected = re.match(r"People corrected (\d+) of \1 answers", state["accepting"]["reason"])
    assert corrected, state["accepting"]
    assert 5 < int(corrected[1]) <= len(waiting) + 5
    told = json_output(run_prelabel("status", "--json", **environment(backend)))["projects"]
    assert [p["accepting"]["suspended"] for p in told if p["id"] == project] == [True]
    new = lab.import_colours(project, 10, start=500)
    backend.train_and_wait(project, labels)
    wait_until(
        "all predicted", lambda: not set(new) - {p["task"] for p in lab.list_predictions(project)}
    )
    backend.wait_for_round(project)
    assert not any(t["is_labeled"] for t in lab.list_tasks(project) if t["id"] in new)


def test_what_somebody_labeled_or_skipped_meanwhile_is_not_accepted(
    lab: LabelStudioUser, tmp_path: Path
) -> None:
    project = lab.create_project()
    tasks = lab.import_colours(project, 3)
    connection = reached(lab, project)
    controls = observe(connection, tmp_path, fetch_fingerprint(connection)).controls
    lab.skip_task(tasks[0])
    lab.submit_annotation(tasks[1])
    wait_until(
        "the skip is marked", lambda: connection.client.skipped_task_ids(project) == {tasks[0]}
    )
    assert connection.client.task_annotations(tasks[0]) == [], "Label Studio lists no skip there"
    choice = ChoicePrediction("colour", {"red": 1.0}, ImageSize(48, 48))
    late = [Prediction(task, (choice,), 1.0) for task in tasks]
    assert auto_accept(connection, controls, late) == set(tasks[2:])


def reached(lab: LabelStudioUser, project: int) -> Connection:
    """The project, as a backend reaches it."""
    created = parse_created_at(lab.fetch_project(project)["created_at"])
    token = lab.http.headers["Authorization"].split()[1]
    settings = read_settings({"LABEL_STUDIO_URL": lab.url, "LABEL_STUDIO_API_KEY": token})
    return connect(ProjectRecord(str(project), lab.url, project, created), token, settings)


def correct(lab: LabelStudioUser, annotation: Json, colour: str) -> None:
    """Change an annotation that is there, a while after it was made."""
    made = datetime.fromisoformat(annotation["created_at"])
    wait_until(
        "a while passed", lambda: (datetime.now(UTC) - made).total_seconds() > SAVE_DELAY_SECONDS
    )
    body = {"result": [lab.make_choice_region([colour])]}
    lab.request("PATCH", f"/api/annotations/{annotation['id']}/", json=body)


def seen(backend: BackendServer, project: int, accepted: int) -> Json:
    """The project once the machine's answers are counted."""
    backend.http.post("/webhook", json={"action": "START_TRAINING", "project": {"id": project}})
    state = backend.project(project)
    return state if state["accepted"] == accepted else {}


def test_wrong_labels_are_found_shown_as_a_tab_and_never_changed(
    lab: LabelStudioUser, make_backend: MakeBackend
) -> None:
    backend = make_backend(**LATER)
    project = lab.create_project()
    tasks = lab.import_colours(project, 30)
    lab.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    wrong = tasks[:50:9]
    for task in tasks[:50]:
        lab.submit_annotation(
            task, other(lab.true_labels[task]) if task in wrong else lab.true_labels[task]
        )
    version = backend.train_and_wait(project, 50)["version"]
    kept = backend.home / "projects" / str(project) / "suspects.json"
    wait_until("the server looks through them by itself", kept.exists)
    backend.http.post("/webhook", json={"action": "PROJECT_UPDATED", "project": {"id": project}})
    wait_until("nothing waits", lambda: backend.wait_for_round(project)["waiting"] == 0)
    env = environment(backend)
    told = json_output(run_prelabel("label-errors", str(project), "--json", **env))
    named = [row["task"] for row in told["suspects"]]
    assert set(named) & set(wrong), "the clearest, with 50 labels"
    assert len(set(named) - set(wrong)) <= 1
    shown = {p["task"]: p for p in lab.list_predictions(project) if p["model_version"] == version}
    for row in told["suspects"]:
        assert shown[row["task"]]["mislabeling"] == pytest.approx(row["mislabeling"], abs=1e-5)
        assert (row["given"], row["suggested"]) in (("red", "blue"), ("blue", "red"))
    tabs = lab.request("GET", "/api/dm/views/", params={"project": project})
    (tab,) = [tab for tab in tabs if tab["data"]["title"] == LABEL_ERRORS_TAB]
    listed = lab.request("GET", "/api/tasks/", params={"view": tab["id"], "project": project})
    assert [task["id"] for task in listed["tasks"]] == named, "the most suspicious first"
    for row in lab.list_tasks(project):
        if row["id"] in wrong:
            assert predicted_choice(row["annotations"][0]) == other(lab.true_labels[row["id"]])


def test_too_few_boxes_are_not_called_right(
    lab: LabelStudioUser, backend: BackendServer, tmp_path: Path
) -> None:
    project, drawings = create_drawing_project(lab, backend, BOXES_CONFIG)
    for task in list(drawings)[:13]:
        result = [make_box_region(thing) for thing in drawings[task].objects]
        lab.request("POST", f"/api/tasks/{task}/annotations/", json={"result": result})
    env = environment(backend)
    done = run_prelabel("label-errors", str(project), "--json", **env)
    assert json_output(done)["unchecked"] == [TOO_FEW_REGIONS]
    assert TOO_FEW_REGIONS in done.stderr
    assert "No label to check" not in done.stderr


def test_images_like_a_task_and_words_without_a_text_encoder(
    lab: LabelStudioUser, backend: BackendServer
) -> None:
    project = lab.create_project()
    tasks = lab.import_colours(project, 8)
    lab.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    env = environment(backend)
    told = json_output(
        run_prelabel("similar", str(tasks[0]), str(project), "--count", "7", "--json", **env)
    )
    found = [row["task"] for row in told["matches"]]
    assert len(found) == 7
    assert tasks[0] not in found
    assert sum(lab.true_labels[task] == lab.true_labels[tasks[0]] for task in found) >= 6
    assert found[0] == told["matches"][0]["task"]
    similarity = [row["similarity"] for row in told["matches"]]
    assert similarity == sorted(similarity, reverse=True)
    words = run_prelabel("similar", "something red", str(project), **env)
    assert words.returncode == 2
    assert "does not embed texts" in words.stderr
