"""The loop against a real Label Studio."""

from __future__ import annotations

import time

from tests.conftest import MakeBackend
from tests.support.harness import Backend, Lab, choice_of, data_uri, png, until


def labeled_project(lab: Lab, backend: Backend, labels: int = 8, per_colour: int = 12) -> int:
    """A connected project whose first labels made a version."""
    project = lab.project()
    tasks = lab.add(project, per_colour)
    lab.connect(project, backend.url)
    backend.settled(project)
    for task in tasks[:labels]:
        lab.label(task)
    backend.learn(project, labels)
    return project


def test_connecting_the_address_in_label_studio_is_all_it_takes(lab: Lab, backend: Backend) -> None:
    project = lab.project(title="greenhouse")
    lab.add(project, 5)
    connection = lab.connect(project, backend.url)
    state = backend.settled(project)
    assert connection["state"] == "CO"
    assert (state["id"], state["title"], state["tasks"]) == (project, "greenhouse", 10)
    assert state["audit"] == {"n": 0, "value": None, "low": 0.0, "high": 1.0, "metric": "accuracy"}
    assert [c["name"] for c in state["controls"]] == ["colour"]
    assert lab.info(project)["model_version"] == state["version"]


def test_pre_annotations_are_seen_on_every_open_task_once_and_are_right(
    lab: Lab, backend: Backend
) -> None:
    project = labeled_project(lab, backend)
    version = backend.project(project)["version"]
    open_tasks = [task for task in lab.tasks(project) if not task["is_labeled"]]
    assert len(open_tasks) == 16
    right = 0
    for task in open_tasks:
        (prediction,) = [p for p in task["predictions"] if p["model_version"] == version]
        (region,) = prediction["result"]
        assert (region["original_width"], region["original_height"]) == (48, 48)
        assert 0.5 <= region["score"] <= 1
        right += choice_of(prediction) == lab.truth[task["id"]]
    assert right >= 15


def test_next_follows_the_score_of_the_selected_version_upwards(lab: Lab, backend: Backend) -> None:
    project = labeled_project(lab, backend)
    version = backend.project(project)["version"]
    info = lab.info(project)
    assert (info["model_version"], info["sampling"]) == (version, "Uncertainty sampling")
    scores = {
        p["task"]: p["score"] for p in lab.predictions(project) if p["model_version"] == version
    }
    served = []
    for _ in range(3):  # three do not start a round
        task = lab.next(project)["id"]
        served.append(scores.pop(task))
        assert served[-1] <= min(scores.values())
        lab.label(task)
    assert served == sorted(served)


def test_start_training_trains_on_fewer_labels_than_a_round_waits_for(
    lab: Lab, backend: Backend
) -> None:
    project = lab.project()
    tasks = lab.add(project, 6)
    connection = lab.connect(project, backend.url)
    before = backend.settled(project)["version"]
    lab.label(tasks[0])
    lab.label(tasks[1])
    until("two labels wait", lambda: backend.project(project)["waiting"] == 2)
    assert backend.project(project)["version"] == before
    lab.train(connection)
    state = backend.settled(project, 2, version=before)
    assert state["labels"] == 2
    again = state["version"]
    lab.train(connection)
    time.sleep(2)
    assert backend.settled(project)["version"] == again, "nothing new: no new version"


def test_a_round_starts_when_nobody_labeled_for_a_while(
    lab: Lab, make_backend: MakeBackend
) -> None:
    backend = make_backend(PRELABEL_RETRAIN_QUIET="2")
    project = lab.project()
    tasks = lab.add(project, 4)
    lab.connect(project, backend.url)
    before = backend.settled(project)["version"]
    lab.label(tasks[0])
    lab.label(tasks[1])
    assert backend.settled(project, 2, version=before)["labels"] == 2


def test_retired_predictions_go_and_nobody_elses(lab: Lab, backend: Backend) -> None:
    project = lab.project()
    tasks = lab.add(project, 6)
    mine = {"task": tasks[0], "model_version": "by hand", "score": 0.5}
    lab.call("POST", "/api/predictions/", json={**mine, "result": [lab.region(["red"])]})
    lab.connect(project, backend.url)
    backend.settled(project)
    for task in tasks[:4]:
        lab.label(task)
    version = backend.settled(project, 4)["version"]
    until(
        "old predictions are gone",
        lambda: {p["model_version"] for p in lab.predictions(project)} == {version, "by hand"},
    )


def test_tasks_that_come_later_are_pre_annotated_under_the_same_version(
    lab: Lab, backend: Backend
) -> None:
    project = labeled_project(lab, backend)
    version = backend.project(project)["version"]
    new = lab.add(project, 4, start=100)

    def predicted() -> bool:
        of = [p for p in lab.predictions(project) if p["model_version"] == version]
        assert len(of) == len({p["task"] for p in of}), "never twice for one version"
        return set(new) <= {p["task"] for p in of}

    until("new tasks have predictions", predicted)
    assert backend.settled(project)["version"] == version


def test_an_answer_that_is_taken_back_is_forgotten(lab: Lab, backend: Backend) -> None:
    project = lab.project()
    tasks = lab.add(project, 8)
    lab.connect(project, backend.url)
    backend.settled(project)
    made = [lab.label(task) for task in tasks[:4]]
    before = backend.settled(project, 4)["version"]
    for annotation in made:
        lab.call("DELETE", f"/api/annotations/{annotation['id']}/")
    state = backend.settled(project, version=before)
    assert state["labels"] == 0
    version = state["version"]
    until(
        "all tasks are open and predicted again",
        lambda: len([p for p in lab.predictions(project) if p["model_version"] == version]) == 16,
    )


def test_changed_answers_start_a_round_and_turn_the_model_round(lab: Lab, backend: Backend) -> None:
    project = lab.project()
    tasks = lab.add(project, 10)
    lab.connect(project, backend.url)
    backend.settled(project)
    made = {task: lab.label(task) for task in tasks[:8]}
    before = backend.learn(project, 8)["version"]
    other = {"red": "blue", "blue": "red"}
    for task, annotation in made.items():
        swapped = [lab.region([other[lab.truth[task]]])]
        lab.call("PATCH", f"/api/annotations/{annotation['id']}/", json={"result": swapped})
    backend.learn(project, 8)  # the last few changes alone are too few for a round

    def turned() -> bool:
        version = backend.project(project)["version"]
        of = [p for p in lab.predictions(project) if p["model_version"] == version]
        wrong = sum(choice_of(p) == lab.truth[p["task"]] for p in of)
        return version != before and bool(of) and wrong <= 1

    until("the model learned the opposite", turned)


def test_a_skipped_task_teaches_nothing_and_is_counted(lab: Lab, backend: Backend) -> None:
    project = lab.project()
    tasks = lab.add(project, 8)
    connection = lab.connect(project, backend.url)
    backend.settled(project)
    lab.skip(tasks[0])
    for task in tasks[1:5]:
        lab.label(task)
    lab.train(connection)
    state = backend.settled(project, 4)
    assert state["labels"] == 4
    assert state["left_out"]["skipped by the annotator"] == 1


def test_a_new_label_in_the_config_is_learned_without_forgetting(
    lab: Lab, backend: Backend
) -> None:
    project = labeled_project(lab, backend)
    before = backend.project(project)["version"]
    config = lab.info(project)["label_config"].replace(
        '<Choice value="blue"/>', '<Choice value="blue"/><Choice value="green"/>'
    )
    lab.call("PATCH", f"/api/projects/{project}/", json={"label_config": config})
    state = backend.settled(project, 8, version=before)
    assert state["controls"][0]["labels"] == ["red", "blue", "green"]
    assert state["controls"][0]["examples"]["green"] == 0
    version = state["version"]
    of = [p for p in lab.predictions(project) if p["model_version"] == version]
    assert sum(choice_of(p) == lab.truth[p["task"]] for p in of) >= len(of) - 1


def test_a_project_of_many_pages_is_read_and_predicted_whole(lab: Lab, backend: Backend) -> None:
    """Label Studio lists tasks and takes predictions in pages; two of them, and a few more."""
    project = lab.project()
    images = [data_uri(png("red", number, size=8)) for number in range(3)]
    rows = [{"image": images[number % 3]} for number in range(1100)]
    lab.call("POST", f"/api/projects/{project}/import", json=rows)
    lab.connect(project, backend.url)
    state = backend.settled(project)
    assert state["tasks"] == 1100
    of = [p["task"] for p in lab.predictions(project) if p["model_version"] == state["version"]]
    assert (len(of), len(set(of))) == (1100, 1100)


def test_a_project_without_tasks_is_connected_and_waits_for_them(
    lab: Lab, backend: Backend
) -> None:
    project = lab.project()
    lab.connect(project, backend.url)
    version = backend.settled(project)["version"]
    wake = {"action": "PROJECT_UPDATED", "project": {"id": project}}
    for _ in range(3):
        backend.http.post("/webhook", json=wake)
        time.sleep(0.7)
    doing = backend.project(project)["round"]
    assert (doing["state"], doing["progress"], doing["error"]) == ("idle", 1.0, None)
    lab.add(project, 2)
    until("the queue follows", lambda: lab.info(project)["model_version"] == version)
