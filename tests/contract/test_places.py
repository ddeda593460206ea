"""Boxes and points against a real Label Studio, from nothing: a small network that learns here."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from backend.scheduler.worker_pool import PREDICTION_NICENESS
from backend.vision.detection.detections import DetectionExample
from tests.support.detection_projects import (
    BOXES_CONFIG,
    create_drawing_project,
    make_box_region,
    predicted_regions,
)
from tests.support.drawings import Drawing, DrawnObject, make_drawing
from tests.support.harness import (
    BackendServer,
    Json,
    LabelStudioUser,
    MakeBackend,
    make_data_uri,
    wait_until,
)

POINTS = """
<View>
  <Image name="image" value="$image"/>
  <KeyPointLabels name="dot" toName="image"><Label value="disc"/></KeyPointLabels>
</View>
"""
ALL = """
<View>
  <Image name="image" value="$image"/>
  <Choices name="busy" toName="image"><Choice value="empty"/><Choice value="full"/></Choices>
  <RectangleLabels name="box" toName="image"><Label value="square"/></RectangleLabels>
  <KeyPointLabels name="dot" toName="image"><Label value="disc"/></KeyPointLabels>
</View>
"""


@pytest.fixture
def finder(make_backend: MakeBackend) -> BackendServer:
    """A backend whose detectors start from nothing and are quick."""
    return make_backend(
        PRELABEL_DETECTOR="builtin",
        PRELABEL_DETECTOR_SIZE="160",
        PRELABEL_TRAIN_SECONDS="600",
        PRELABEL_RETRAIN_AFTER="1000",
    )


def dot(thing: DrawnObject) -> Json:
    """A point as the browser sends it."""
    x, y = thing.center
    value = {"x": 100 * x, "y": 100 * y, "width": 0.5, "keypointlabels": [thing.label]}
    return {"from_name": "dot", "to_name": "image", "type": "keypointlabels", "value": value}


def overlap(region: Json, thing: DrawnObject) -> float:
    value, (x0, y0, x1, y1) = region["value"], (100 * v for v in thing.box)
    wide = min(value["x"] + value["width"], x1) - max(value["x"], x0)
    high = min(value["y"] + value["height"], y1) - max(value["y"], y0)
    shared = max(wide, 0) * max(high, 0)
    return float(shared / (value["width"] * value["height"] + (x1 - x0) * (y1 - y0) - shared))


def found_boxes(regions: Sequence[Json], things: Sequence[DrawnObject]) -> int:
    """How many things have a box of their label on them."""
    return sum(
        any(overlap(r, t) >= 0.5 and r["value"]["rectanglelabels"] == [t.label] for r in regions)
        for t in things
    )


def found_dots(regions: Sequence[Json], drawing: Drawing, things: Sequence[DrawnObject]) -> int:
    """How many things have a dot within half their size."""
    width, height = drawing.image.size

    def near(region: Json, thing: DrawnObject) -> bool:
        x = region["value"]["x"] / 100 - thing.center[0]
        y = region["value"]["y"] / 100 - thing.center[1]
        half = (thing.box[2] - thing.box[0]) * width / 2
        return math.hypot(x * width, y * height) <= half

    return sum(any(near(r, t) for r in regions) for t in things)


def share(regions: dict[int, list[Json]], drawings: dict[int, Drawing]) -> float:
    """F1 of the boxes, or else the points, in some pictures."""
    right = found = there = 0
    for task, picture in drawings.items():
        points = any(region["type"] == "keypointlabels" for region in regions[task])
        right += (
            found_dots(regions[task], picture, picture.objects)
            if points
            else found_boxes(regions[task], picture.objects)
        )
        found += len(regions[task])
        there += len(picture.objects)
    return 2 * right / (found + there)


def test_boxes_are_learned_land_where_the_objects_are_and_get_better(
    lab: LabelStudioUser, finder: BackendServer
) -> None:
    """Also in pictures that cameras hold sideways: the file is turned, a note in it says how, and
    people and boxes see it upright."""
    project, drawings = create_drawing_project(lab, finder, BOXES_CONFIG)
    before = finder.project(project)["version"]
    assert all(not regions for regions in predicted_regions(lab, project, before).values())
    tasks = list(drawings)
    turned = [make_drawing(number) for number in range(100, 112)]
    new = lab.import_images(project, [make_data_uri(sideways(d.image), "jpeg") for d in turned])
    rest = {task: drawings[task] for task in tasks[18:]} | dict(zip(new, turned, strict=True))
    shares = []
    for labeled, part in ((6, tasks[:6]), (18, tasks[6:18])):
        for task in part:
            lab.submit_regions(task, [make_box_region(thing) for thing in drawings[task].objects])
        state = finder.train_and_wait(project, labeled, finder.project(project)["version"])
        regions = predicted_regions(lab, project, state["version"])
        assert set(regions) == {*tasks[labeled:], *new}
        shares.append(share(regions, rest))
    print("boxes, F1 after 6 and 18 pictures:", shares)
    assert shares[1] >= 0.75
    assert shares[1] > min(shares[0], 0.98)
    for region in (region for of in regions.values() for region in of):
        assert (region["original_width"], region["original_height"]) == (160, 120)
        assert 0 < region["score"] <= 1
        assert region["value"]["x"] + region["value"]["width"] <= 100.0001
    (control,) = state["controls"]
    assert control["type"] == "RectangleLabels"
    assert control["kind"] == "fine-tuned"
    assert state["audit"]["metric"] == "F1"
    info = lab.fetch_project(project)
    assert (info["model_version"], info["sampling"]) == (state["version"], "Uncertainty sampling")


def test_points_are_learned_from_points_alone_and_improve(
    lab: LabelStudioUser, finder: BackendServer
) -> None:
    how = {"labels": ("disc",), "max_objects": 8, "radius": (6, 9)}
    project, drawings = create_drawing_project(lab, finder, POINTS, **how)
    tasks = list(drawings)
    shares = []
    for few in (tasks[:3], tasks[3:14]):
        for task in few:
            lab.submit_regions(task, [dot(thing) for thing in drawings[task].objects])
        before = finder.project(project)["version"]
        state = finder.train_and_wait(
            project, len(lab_done := tasks[: tasks.index(few[-1]) + 1]), before
        )
        regions = predicted_regions(lab, project, state["version"])
        shares.append(share(regions, {task: drawings[task] for task in tasks[14:]}))
        assert len(lab_done) == state["labels"]
    print("points, F1 after 3 and 14 pictures:", shares)
    assert shares[1] >= 0.8
    assert shares[1] > min(shares[0], 0.98)
    (region, *_) = next(of for of in regions.values() if of)
    assert set(region["value"]) == {"x", "y", "width", "keypointlabels"}


def test_choices_boxes_and_points_of_one_config_share_a_prediction_and_a_round(
    lab: LabelStudioUser, finder: BackendServer
) -> None:
    project, drawings = create_drawing_project(lab, finder, ALL)
    tasks = list(drawings)
    for task in tasks[:12]:
        things = drawings[task].objects
        word = "full" if len(things) > 2 else "empty"
        result = [{**lab.make_choice_region([word], "busy")}]
        result += [make_box_region(t) for t in things if t.label == "square"]
        result += [dot(t) for t in things if t.label == "disc"]
        lab.submit_regions(task, result)
    before = finder.project(project)["version"]
    state = finder.train_and_wait(project, 12, version=before)
    assert [c["type"] for c in state["controls"]] == [
        "Choices",
        "RectangleLabels",
        "KeyPointLabels",
    ]
    regions = predicted_regions(lab, project, state["version"])
    for kind, label, found in (
        ("rectanglelabels", "square", lambda of, d, t: found_boxes(of, t)),
        ("keypointlabels", "disc", found_dots),
    ):
        hits = there = shown = 0
        for task, of in regions.items():
            own = [region for region in of if region["type"] == kind]
            things = tuple(t for t in drawings[task].objects if t.label == label)
            hits += found(own, drawings[task], things)
            there, shown = there + len(things), shown + len(own)
        print(f"{kind}: {hits} of {there} {label}s found, {shown} shown")
        assert hits >= 0.6 * there > 0
        assert shown <= 1.6 * there
    assert all(sum(r["type"] == "choices" for r in of) == 1 for of in regions.values())


def test_an_image_annotated_as_empty_counts_and_strange_regions_are_counted(
    lab: LabelStudioUser, finder: BackendServer
) -> None:
    project, drawings = create_drawing_project(lab, finder, BOXES_CONFIG)
    tasks = list(drawings)
    lab.submit_regions(tasks[0], [])
    turned = make_box_region(drawings[next(t for t in tasks if drawings[t].objects)].objects[0])
    turned["value"]["rotation"] = 30
    lab.submit_regions(tasks[1], [turned])
    lab.skip_task(tasks[2])
    before = finder.project(project)["version"]
    state = finder.train_and_wait(project, 1, version=before)
    assert state["labels"] == 1, "the turned box alone says nothing, an empty image does"
    assert state["left_out"]["rotated box"] == 1
    assert state["left_out"]["image left out of box: not all its objects are known"] == 1
    assert state["left_out"]["skipped by the annotator"] == 1


def test_training_tells_its_progress_and_can_be_cancelled(
    lab: LabelStudioUser, make_backend: MakeBackend
) -> None:
    backend = make_backend(
        PRELABEL_DETECTOR="builtin",
        PRELABEL_DETECTOR_SIZE="160",
        PRELABEL_TRAIN_SECONDS="300",
        PRELABEL_RETRAIN_AFTER="6",
    )
    project, drawings = create_drawing_project(lab, backend, BOXES_CONFIG)
    before = backend.project(project)["version"]
    for task in list(drawings)[:8]:
        lab.submit_regions(task, [make_box_region(thing) for thing in drawings[task].objects])

    def epoch() -> bool:
        doing = backend.project(project)["round"]
        return doing["state"] == "training" and "epoch" in (doing["detail"] or "")

    wait_until("an epoch is told", epoch)
    backend.http.post(f"/api/projects/{project}/cancel")
    wait_until("idle again", lambda: backend.project(project)["round"]["state"] == "idle")
    state = backend.project(project)
    assert state["version"] == before
    assert "cancelled" in state["round"]["detail"]
    assert state["round"]["error"] is None


def interactive(lab: LabelStudioUser, connection: Json, task: int, region: Json) -> list[Json]:
    """What the labeling screen asks for when somebody used a smart tool."""
    body = {"task": task, "context": {"result": [{**region, "id": "drawn"}]}}
    answer = lab.request("POST", f"/api/ml/{connection['id']}/interactive-annotating", json=body)
    found: list[Json] = answer["data"]["result"]
    return found


@pytest.mark.parametrize(("config", "shape"), [(BOXES_CONFIG, make_box_region), (POINTS, dot)])
def test_one_drawn_object_brings_the_similar_ones_before_anything_is_learned(
    lab: LabelStudioUser, finder: BackendServer, config: str, shape: Callable[[DrawnObject], Json]
) -> None:
    smart = config.replace('toName="image"', 'toName="image" smart="true"')
    project = lab.create_project(smart, title="smart tools")
    how: dict[str, Any] = {"labels": ("disc",), "max_objects": 9, "radius": (18, 26)}
    pictures = [make_drawing(number, (640, 480), **how) for number in range(12)]
    busy = max(pictures, key=lambda picture: len(picture.objects))
    (task,) = lab.import_images(project, [make_data_uri(busy.to_png())])
    connection = lab.connect_backend(project, finder.url, is_interactive=True)
    finder.wait_for_round(project)
    wait_until("a process is ready for the first object", lambda: answering(finder))
    first, *others = busy.objects
    answers = [interactive(lab, connection, task, shape(first)) for _ in range(2)]
    ids = [[region["id"] for region in answer] for answer in answers]
    assert len({*ids[0], *ids[1]}) == len(ids[0]) + len(ids[1]) - 1, "only the drawn one repeats"
    assert ids[0][0] == ids[1][0] == "drawn"
    drawn, *regions = answers[0]
    assert drawn["value"] == shape(first)["value"], "so that accepting all keeps it"
    assert regions
    hits = (
        found_boxes(regions, others)
        if shape is make_box_region
        else found_dots(regions, busy, others)
    )
    assert hits >= len(others) / 2
    assert len(regions) - hits <= 2
    again = (
        found_boxes(regions, [first])
        if shape is make_box_region
        else found_dots(regions, busy, [first])
    )
    assert again == 0, "the drawn one is not suggested a second time"
    (kind,) = {region["type"] for region in regions}
    assert kind == shape(first)["type"]
    body = {"task": task, "context": {"result": []}}  # somebody deleted the drawn one
    answer = lab.request("POST", f"/api/ml/{connection['id']}/interactive-annotating", json=body)
    assert answer["data"]["result"] == []


def answering(backend: BackendServer) -> bool:
    """Whether the process that answers was started, which nothing has asked yet."""
    server = psutil.Process(backend.pid)
    return any(child.nice() == server.nice() + PREDICTION_NICENESS for child in server.children())


def sideways(image: Image.Image) -> bytes:
    """A JPEG whose pixels are turned and whose EXIF says so (orientation 6)."""
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


KNOWN = """
<View>
  <Image name="image" value="$image"/>
  <RectangleLabels name="box" toName="image">
    <Label value="Discs"/><Label value="tile" predicted_values="square"/><Label value="other"/>
  </RectangleLabels>
</View>
"""


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file as ultralytics writes it, of a small network that knows both things."""
    import torch

    from backend.vision.detection.fine_tune import TrainingRecipe, fine_tune
    from backend.vision.detection.network import (
        SMALL_NETWORK_FILE,
        adapt_classes,
        load_base_network,
    )

    names = ("disc", "square")
    examples = [example(make_drawing(number), names) for number in range(200, 230)]
    how = TrainingRecipe(
        iterations=350,
        batch_size=4,
        image_size=160,
        learning_rate=0.005,
        frozen_layers=0,
        time_limit_seconds=300,
        seed=0,
    )
    network = fine_tune(
        adapt_classes(load_base_network(SMALL_NETWORK_FILE), names),
        examples,
        how,
        lambda done, of: None,
    )
    path = tmp_path_factory.mktemp("weights") / "things.pt"
    network.module.args = {}
    torch.save({"model": network.module.half(), "train_args": {}}, path)
    return path


def example(drawing: Drawing, names: Sequence[str]) -> DetectionExample:
    boxes = np.array([thing.box for thing in drawing.objects], dtype=np.float32).reshape(-1, 4)
    labels = np.array([names.index(thing.label) for thing in drawing.objects], dtype=np.int64)
    return DetectionExample(lambda: drawing.image, *drawing.image.size, boxes, labels)


def test_what_pretrained_weights_know_by_name_is_found_before_any_label(
    lab: LabelStudioUser, make_backend: MakeBackend, pretrained: Path
) -> None:
    backend = make_backend(PRELABEL_DETECTOR=str(pretrained), PRELABEL_DETECTOR_SIZE="160")
    project, drawings = create_drawing_project(lab, backend, KNOWN)
    state = backend.project(project)
    (control,) = state["controls"]
    assert control["kind"] == "zero-shot from the class names"
    regions = predicted_regions(lab, project, state["version"])
    called = {"disc": "Discs", "square": "tile"}
    things = {
        task: [DrawnObject(called[t.label], t.box) for t in picture.objects]
        for task, picture in drawings.items()
    }
    there = sum(map(len, things.values()))
    assert sum(found_boxes(regions[task], things[task]) for task in things) >= 0.7 * there


def test_what_would_help_before_the_first_label_is_named_with_its_command(
    lab: LabelStudioUser, finder: BackendServer
) -> None:
    project, _ = create_drawing_project(lab, finder, BOXES_CONFIG)
    (control,) = finder.project(project)["controls"]
    assert control["kind"] == "none yet"
    assert "curl -fL -o" in control["advice"]
    assert "yoloe" in control["advice"]


RENAMED = BOXES_CONFIG.replace('"disc"', '"round"').replace('"square"', '"angular"')
NEW_NAMES = {"disc": "round", "square": "angular"}
QUICK_KIND = "quick: only the last layer is trained"


def renamed(drawing: Drawing) -> list[DrawnObject]:
    return [DrawnObject(NEW_NAMES[thing.label], thing.box) for thing in drawing.objects]


def live_kind(backend: BackendServer, project: int) -> str:
    (control,) = backend.project(project)["controls"]
    return str(control["kind"])


def test_a_quick_version_predicts_the_next_tasks_until_the_full_one_is_trained(
    lab: LabelStudioUser, make_backend: MakeBackend, pretrained: Path
) -> None:
    """Also if the process is killed in between, and labels that arrive meanwhile are used."""
    backend = make_backend(
        PRELABEL_DETECTOR=str(pretrained),
        PRELABEL_DETECTOR_SIZE="160",
        PRELABEL_RETRAIN_AFTER="5",
    )
    project, drawings = create_drawing_project(lab, backend, RENAMED)
    before, tasks = backend.project(project)["version"], list(drawings)
    for task in tasks[:12]:
        lab.submit_regions(task, [make_box_region(thing) for thing in renamed(drawings[task])])
    backend.http.post("/webhook", json={"action": "START_TRAINING", "project": {"id": project}})
    wait_until("a quick version is live", lambda: live_kind(backend, project) == QUICK_KIND)
    quick_version = backend.project(project)["version"]
    assert backend.project(project)["full_training_due"]
    regions = predicted_regions(lab, project, quick_version)
    assert set(regions) == set(tasks[12:])
    hits = sum(found_boxes(regions[task], renamed(drawings[task])) for task in tasks[12:])
    assert hits >= 0.7 * sum(len(drawings[task].objects) for task in tasks[12:])

    def is_training() -> bool:
        state = backend.project(project)["round"]
        return state["state"] == "training" and "epoch" in (state["detail"] or "")

    wait_until("the full training", is_training)
    backend.kill()
    backend.start()
    wait_until("the full training again", is_training)
    for task in tasks[12:18]:
        lab.submit_regions(task, [make_box_region(thing) for thing in renamed(drawings[task])])
    second = str(
        wait_until(
            "a second quick version, during the training",
            lambda: (
                is_training()
                and (version := backend.project(project)["version"]) != quick_version
                and version
            ),
        )
    )
    assert set(predicted_regions(lab, project, second)) == set(tasks[18:])
    state = backend.wait_for_round(project, 18)
    assert len(state["versions"]) >= 5, "before any label, two quick ones, and two full ones"
    assert before in state["versions"]
    assert "full_training_due" not in state
