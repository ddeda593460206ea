"""The loop against a real Label Studio."""

from __future__ import annotations

import time

from backend.domain import ChoicePrediction, ImageSize, Prediction
from backend.label_studio.labeling_config import read_config
from backend.loop.publish.push import push_predictions
from backend.runtime.connection import connect
from backend.settings import Settings
from backend.store.projects import ProjectRecord
from tests.support.harness import (
    CHOICES_CONFIG,
    BackendServer,
    LabelStudioUser,
    MakeBackend,
    make_data_uri,
    make_png,
    predicted_choice,
    wait_until,
)


def labeled_project(
    lab: LabelStudioUser, backend: BackendServer, labels: int = 8, per_colour: int = 12
) -> int:
    """A connected project whose first labels made a version."""
    project = lab.create_project()
    tasks = lab.import_colours(project, per_colour)
    lab.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    for task in tasks[:labels]:
        lab.submit_annotation(task)
    backend.train_and_wait(project, labels)
    return project


def test_connecting_the_address_in_label_studio_is_all_it_takes(
    lab: LabelStudioUser, backend: BackendServer
) -> None:
    project = lab.create_project(title="greenhouse")
    lab.import_colours(project, 5)
    connection = lab.connect_backend(project, backend.url)
    state = backend.wait_for_round(project)
    assert connection["state"] == "CO"
    assert (state["id"], state["title"], state["tasks"]) == (project, "greenhouse", 10)
    assert state["audit"] == {"n": 0, "value": None, "low": 0.0, "high": 1.0, "metric": "accuracy"}
    assert [c["name"] for c in state["controls"]] == ["colour"]
    assert lab.fetch_project(project)["model_version"] == state["version"]


def test_pre_annotations_are_seen_on_every_open_task_once_and_are_right(
    lab: LabelStudioUser, backend: BackendServer
) -> None:
    project = labeled_project(lab, backend)
    version = backend.project(project)["version"]
    open_tasks = [task for task in lab.list_tasks(project) if not task["is_labeled"]]
    assert len(open_tasks) == 16
    right = 0
    for task in open_tasks:
        (prediction,) = [p for p in task["predictions"] if p["model_version"] == version]
        (region,) = prediction["result"]
        assert (region["original_width"], region["original_height"]) == (48, 48)
        assert 0.5 <= region["score"] <= 1
        right += predicted_choice(prediction) == lab.true_labels[task["id"]]
    assert right >= 15


def test_a_hidden_question_gets_no_answer(lab: LabelStudioUser, backend: BackendServer) -> None:
    second = (
        '<View visibleWhen="choice-selected" whenTagName="colour" whenChoiceValue="red">'
        '<Choices name="shade" toName="image"><Choice value="light"/><Choice value="dark"/>'
        "</Choices></View></View>"
    )
    config = CHOICES_CONFIG.format(choice="single").replace("</View>", second)
    project = lab.create_project(config)
    tasks = lab.import_colours(project, 12)
    lab.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    for number, task in enumerate(tasks[:8]):
        colour = lab.true_labels[task]
        shade = [lab.make_choice_region(["light" if number % 4 else "dark"], "shade")]
        lab.submit_regions(task, [lab.make_choice_region([colour]), *shade * (colour == "red")])
    version = backend.train_and_wait(project, 8)["version"]
    answers = [
        {region["from_name"]: region["value"]["choices"] for region in prediction["result"]}
        for prediction in lab.list_predictions(project)
        if prediction["model_version"] == version
    ]
    assert {answer["colour"][0] for answer in answers} == {"red", "blue"}
    assert all(("shade" in answer) == (answer["colour"] == ["red"]) for answer in answers)


def test_next_follows_the_score_of_the_selected_version_upwards(
    lab: LabelStudioUser, backend: BackendServer
) -> None:
    project = labeled_project(lab, backend)
    version = backend.project(project)["version"]
    info = lab.fetch_project(project)
    assert (info["model_version"], info["sampling"]) == (version, "Uncertainty sampling")
    scores = {
        p["task"]: p["score"]
        for p in lab.list_predictions(project)
        if p["model_version"] == version
    }
    served = []
    for _ in range(3):  # three do not start a round
        task = lab.next_task(project)["id"]
        served.append(scores.pop(task))
        assert served[-1] <= min(scores.values())
        lab.submit_annotation(task)
    assert served == sorted(served)


def test_start_training_trains_on_fewer_labels_than_a_round_waits_for(
    lab: LabelStudioUser, backend: BackendServer
) -> None:
    project = lab.create_project()
    tasks = lab.import_colours(project, 6)
    connection = lab.connect_backend(project, backend.url)
    before = backend.wait_for_round(project)["version"]
    lab.submit_annotation(tasks[0])
    lab.submit_annotation(tasks[1])
    wait_until("two labels wait", lambda: backend.project(project)["waiting"] == 2)
    assert backend.project(project)["version"] == before
    lab.start_training(connection)
    state = backend.wait_for_round(project, 2, version=before)
    assert state["labels"] == 2
    again = state["version"]
    lab.start_training(connection)
    time.sleep(2)
    assert backend.wait_for_round(project)["version"] == again, "nothing new: no new version"


def test_a_round_starts_when_nobody_labeled_for_a_while(
    lab: LabelStudioUser, make_backend: MakeBackend
) -> None:
    backend = make_backend(PRELABEL_RETRAIN_QUIET="2")
    project = lab.create_project()
    tasks = lab.import_colours(project, 4)
    lab.connect_backend(project, backend.url)
    before = backend.wait_for_round(project)["version"]
    lab.submit_annotation(tasks[0])
    lab.submit_annotation(tasks[1])
    assert backend.wait_for_round(project, 2, version=before)["labels"] == 2


def test_retired_predictions_go_and_nobody_elses(
    lab: LabelStudioUser, backend: BackendServer
) -> None:
    project = lab.create_project()
    tasks = lab.import_colours(project, 6)
    mine = {"task": tasks[0], "model_version": "by hand", "score": 0.5}
    lab.request(
        "POST", "/api/predictions/", json={**mine, "result": [lab.make_choice_region(["red"])]}
    )
    lab.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    for task in tasks[:4]:
        lab.submit_annotation(task)
    version = backend.wait_for_round(project, 4)["version"]
    wait_until(
        "old predictions are gone",
        lambda: {p["model_version"] for p in lab.list_predictions(project)} == {version, "by hand"},
    )


def test_tasks_that_come_later_are_pre_annotated_under_the_same_version(
    lab: LabelStudioUser, backend: BackendServer
) -> None:
    project = labeled_project(lab, backend)
    version = backend.project(project)["version"]
    open_tasks = [task["id"] for task in lab.list_tasks(project) if not task["is_labeled"]]
    for task, stored_version in ((open_tasks[0], version), (open_tasks[1], "unready")):
        # what Label Studio stores when somebody opens a task during a push, or before a version
        row = {"task": task, "result": [], "score": 0.5, "model_version": stored_version}
        lab.request("POST", "/api/predictions/", json=row)
    new = lab.import_colours(project, 4, start=100)

    def is_predicted_once() -> bool:
        predictions = lab.list_predictions(project)
        tasks = sorted(p["task"] for p in predictions if p["model_version"] == version)
        return tasks == sorted({*tasks, *open_tasks, *new}) and len(tasks) == len(predictions)

    wait_until("each open task has exactly one prediction", is_predicted_once)
    assert backend.wait_for_round(project)["version"] == version


def test_predictions_of_deleted_tasks_are_skipped(lab: LabelStudioUser) -> None:
    project = lab.create_project()
    tasks = lab.import_colours(project, 3)
    lab.request("DELETE", f"/api/tasks/{tasks[0]}/")
    settings = Settings(label_studio_url=lab.url, api_key=lab.token)
    record = ProjectRecord(id="1", server=lab.url, number=project)
    connection = connect(record, "", settings)
    config = read_config(lab.fetch_project(project)["label_config"])
    controls = {control.name: control for control in config.controls}
    choice = ChoicePrediction("colour", {"red": 0.9}, ImageSize(48, 48))
    predictions = [Prediction(task, (choice,), 0.5) for task in tasks]
    push_predictions(connection, "v0-x", predictions, controls, lambda done, total: None)
    assert sorted(p["task"] for p in lab.list_predictions(project)) == tasks[1:]


def test_an_answer_that_is_taken_back_is_forgotten(
    lab: LabelStudioUser, make_backend: MakeBackend
) -> None:
    backend = make_backend(PRELABEL_POLL="5")  # a busy Label Studio may send no event of a deletion
    project = lab.create_project()
    tasks = lab.import_colours(project, 8)
    lab.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    made = [lab.submit_annotation(task) for task in tasks[:4]]
    before = backend.wait_for_round(project, 4)["version"]
    for annotation in made:
        lab.request("DELETE", f"/api/annotations/{annotation['id']}/")
    state = backend.wait_for_round(project, version=before)
    assert state["labels"] == 0
    version = state["version"]
    wait_until(
        "all tasks are open and predicted again",
        lambda: (
            len([p for p in lab.list_predictions(project) if p["model_version"] == version]) == 16
        ),
    )


def test_changed_answers_start_a_round_and_turn_the_model_round(
    lab: LabelStudioUser, backend: BackendServer
) -> None:
    project = lab.create_project()
    tasks = lab.import_colours(project, 10)
    lab.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    made = {task: lab.submit_annotation(task) for task in tasks[:8]}
    before = backend.train_and_wait(project, 8)["version"]
    other = {"red": "blue", "blue": "red"}
    for task, annotation in made.items():
        swapped = [lab.make_choice_region([other[lab.true_labels[task]]])]
        lab.request("PATCH", f"/api/annotations/{annotation['id']}/", json={"result": swapped})
    backend.train_and_wait(project, 8)  # the last few changes alone are too few for a round

    def turned() -> bool:
        version = backend.project(project)["version"]
        of = [p for p in lab.list_predictions(project) if p["model_version"] == version]
        wrong = sum(predicted_choice(p) == lab.true_labels[p["task"]] for p in of)
        return version != before and bool(of) and wrong <= 1

    wait_until("the model learned the opposite", turned)


def test_skipped_and_empty_annotations_teach_nothing_and_are_counted(
    lab: LabelStudioUser, backend: BackendServer
) -> None:
    project = lab.create_project()
    tasks = lab.import_colours(project, 8)
    connection = lab.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    lab.skip_task(tasks[0])
    lab.submit_regions(tasks[5], [])
    for task in tasks[1:5]:
        lab.submit_annotation(task)
    lab.start_training(connection)
    state = backend.wait_for_round(project, 4)
    assert state["labels"] == 4
    assert state["left_out"]["skipped by the annotator"] == 1
    assert state["left_out"]["submitted without a choice for colour"] == 1
    assert state["unanswered"] == [tasks[5]]


def test_a_new_label_in_the_config_is_learned_without_forgetting(
    lab: LabelStudioUser, backend: BackendServer
) -> None:
    project = labeled_project(lab, backend)
    before = backend.project(project)["version"]
    config = lab.fetch_project(project)["label_config"].replace(
        '<Choice value="blue"/>', '<Choice value="blue"/><Choice value="green"/>'
    )
    lab.request("PATCH", f"/api/projects/{project}/", json={"label_config": config})
    state = backend.wait_for_round(project, 8, version=before)
    assert state["controls"][0]["labels"] == ["red", "blue", "green"]
    assert state["controls"][0]["examples"]["green"] == 0
    version = state["version"]
    of = [p for p in lab.list_predictions(project) if p["model_version"] == version]
    assert sum(predicted_choice(p) == lab.true_labels[p["task"]] for p in of) >= len(of) - 1


def test_a_project_of_many_pages_is_read_and_predicted_whole(
    lab: LabelStudioUser, backend: BackendServer
) -> None:
    """Label Studio lists tasks and takes predictions in pages; two of them, and a few more."""
    project = lab.create_project()
    images = [make_data_uri(make_png("red", number, size=8)) for number in range(3)]
    rows = [{"image": images[number % 3]} for number in range(1100)]
    lab.request("POST", f"/api/projects/{project}/import", json=rows)
    lab.connect_backend(project, backend.url)
    state = backend.wait_for_round(project)
    assert state["tasks"] == 1100
    of = [
        p["task"] for p in lab.list_predictions(project) if p["model_version"] == state["version"]
    ]
    assert (len(of), len(set(of))) == (1100, 1100)


def test_a_project_without_tasks_is_connected_and_waits_for_them(
    lab: LabelStudioUser, backend: BackendServer
) -> None:
    project = lab.create_project()
    lab.connect_backend(project, backend.url)
    version = backend.wait_for_round(project)["version"]
    wake = {"action": "PROJECT_UPDATED", "project": {"id": project}}
    for _ in range(3):
        backend.http.post("/webhook", json=wake)
        time.sleep(0.7)
    doing = backend.project(project)["round"]
    assert (doing["state"], doing["progress"], doing["error"]) == ("idle", 1.0, None)
    lab.import_colours(project, 2)
    wait_until("the queue follows", lambda: lab.fetch_project(project)["model_version"] == version)
