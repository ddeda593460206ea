"""``prelabel export --data``: datasets that other programs read, from a real Label Studio."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image
from pycocotools.coco import COCO

from backend.label_studio.client import LabelStudioClient
from backend.label_studio.local_server import LabelStudioServer
from backend.learning.audit import is_audit
from backend.store.projects import ProjectStore
from backend.store.versions import VersionStore
from tests.support.cli import json_output, run_prelabel
from tests.support.dashboard_homes import make_card
from tests.support.harness import CHOICES_CONFIG, Json, LabelStudioUser, make_data_uri, make_png
from tests.support.image_files import encode_image

BOXES = """<View><Image name="image" value="$image"/>
<RectangleLabels name="things" toName="image">
  <Label value="disc"/><Label value="square"/>
</RectangleLabels></View>"""
POINTS = BOXES.replace("RectangleLabels", "KeyPointLabels")
BOX = {"x": 10, "y": 20, "width": 30, "height": 78, "rotation": 0, "rectanglelabels": ["square"]}
TURNED = 6
"""EXIF orientation of a photo that was stored lying on its side."""


@pytest.fixture
def environment(studio: LabelStudioServer, tmp_path: Path) -> dict[str, str]:
    return {
        "PRELABEL_HOME": str(tmp_path / "home"),
        "LABEL_STUDIO_URL": studio.url,
        "LABEL_STUDIO_API_KEY": studio.token,
    }


def make_turned_jpeg() -> bytes:
    """Return a JPEG stored as 64 × 48 pixels, upright 48 × 64: its upper half is red."""
    upright = Image.new("RGB", (48, 64), "blue")
    upright.paste("red", (0, 0, 48, 32))
    exif = Image.Exif()
    exif[0x0112] = TURNED
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    return encode_image(stored, "JPEG", exif=exif, quality=95)


def upload(lab: LabelStudioUser, project: int, name: str, content: bytes) -> None:
    file = {"file": (name, content, "image/png")}
    lab.request("POST", f"/api/projects/{project}/import", files=file)


@pytest.fixture
def project(lab: LabelStudioUser) -> int:
    """Uploads, two of the same name, and inline images; the last task is not labeled.

    The third one has the path in its folder, as `prelabel init` writes it.
    """
    project = lab.create_project(BOXES, "to be exported")
    upload(lab, project, "beach.png", make_png("red", 1, 100))
    upload(lab, project, "beach.png", make_png("red", 2, 100))
    upload(lab, project, "Straße.jpg", make_turned_jpeg())
    lab.import_images(project, [make_data_uri(make_png("blue", n, 50)) for n in (3, 4)])
    region = {"from_name": "things", "to_name": "image", "type": "rectanglelabels", "value": BOX}
    tasks = sorted(lab.list_tasks(project), key=lambda task: int(task["id"]))
    *labeled, _ = (task["id"] for task in tasks)
    data = tasks[2]["data"] | {"file": "trip/Große Straße.jpg"}
    lab.request("PATCH", f"/api/tasks/{labeled[2]}/", json={"data": data})
    for task in labeled:
        lab.submit_regions(task, [region] if task != labeled[-1] else [])
    return project


def labeled_tasks(lab: LabelStudioUser, project: int) -> list[int]:
    return sorted(task["id"] for task in lab.list_tasks(project) if task["is_labeled"])


def read_table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def export(environment: Mapping[str, str], *arguments: object) -> Json:
    told: Json = json_output(run_prelabel("export", *map(str, arguments), "--json", **environment))
    return told


def test_pycocotools_reads_boxes_that_fit_the_exported_images(
    project: int, lab: LabelStudioUser, environment: dict[str, str], tmp_path: Path
) -> None:
    folder, tasks = tmp_path / "coco", labeled_tasks(lab, project)
    told = export(environment, project, "--data", "coco", "--images", "--output", folder)
    assert (told["project"], told["labels"], told["unreadable"]) == (project, 4, {})
    names = ["beach.png", f"beach-task-{tasks[1]}.png", "Große Straße.jpg", f"task-{tasks[3]}.png"]
    coco = COCO(folder / "result.json")
    rows = coco.loadImgs(coco.getImgIds())
    assert [row["file_name"] for row in rows] == names
    assert [coco.cats[id]["name"] for id in sorted(coco.cats)] == ["disc", "square"]
    for row, count in zip(rows, (1, 1, 1, 0), strict=True):
        with Image.open(folder / "images" / row["file_name"]) as image:
            assert image.size == (row["width"], row["height"])
            assert dict(image.getexif()) == {}
        annotations = coco.imgToAnns[row["id"]]
        assert len(annotations) == count
        for annotation in annotations:
            assert annotation["category_id"] == 1
            expected = [0.1 * row["width"], 0.2 * row["height"]]
            expected += [0.3 * row["width"], 0.78 * row["height"]]
            assert annotation["bbox"] == pytest.approx(expected, abs=0.001)
    with Image.open(folder / "images" / "Große Straße.jpg") as upright:
        assert upright.size == (48, 64)
        red_pixel = list(upright.crop((24, 5, 25, 6)).tobytes())
        assert red_pixel == pytest.approx([254, 0, 0], abs=9)
    splits = [COCO(folder / f"{split}.json") for split in ("train", "val")]
    assert sorted(id for split in splits for id in split.getImgIds()) == [1, 2, 3, 4]
    assert sum(len(split.getAnnIds()) for split in splits) == 3
    identity = lab.audit_identity(project)
    audit = [task for task in tasks if is_audit(identity, task)]
    split_of = {int(row["task"]): row["split"] for row in read_table(folder / "images.csv")}
    assert list(split_of) == tasks
    validation = [task for task, split in split_of.items() if split == "val"]
    assert validation == audit if told["val"] == "audit set" else len(validation) == 1
    again = run_prelabel(
        "export", str(project), "--data", "coco", "--output", str(folder), **environment
    )
    assert again.returncode == 2
    assert "is not empty" in again.stderr


def test_ultralytics_loads_the_yolo_dataset(
    project: int, environment: dict[str, str], tmp_path: Path
) -> None:
    from backend.vision.ultralytics_models import import_ultralytics

    import_ultralytics()  # without it the import changes PIL.Image.open for the following tests
    from ultralytics.cfg import get_cfg
    from ultralytics.data.build import build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset

    store, url = ProjectStore(tmp_path / "home"), environment["LABEL_STUDIO_URL"]
    record = store.register(url, project, token=environment["LABEL_STUDIO_API_KEY"])
    store.set_title(record.id, "beaches")
    folder = tmp_path / "yolo"
    told = export(
        environment, "--project", "beaches", "--data", "yolo", "--images", "--output", folder
    )
    assert told["splits"] == {"train": 3, "val": 1} or told["val"] == "audit set"
    description = check_det_dataset(folder / "data.yaml", autodownload=False)
    assert description["names"] == {0: "disc", 1: "square"}
    loaded: dict[str, Json] = {}
    for split in ("train", "val"):
        dataset = build_yolo_dataset(
            get_cfg(), description[split], batch=2, data=description, mode="val"
        )
        assert len(dataset[0]["img"]) == 3
        loaded |= {Path(one["im_file"]).name: one for one in dataset.labels}
    boxes = {name: one["bboxes"].round(4).tolist() for name, one in loaded.items()}
    assert len(boxes) == 4
    assert boxes["Große Straße.jpg"] == [pytest.approx([0.25, 0.59, 0.3, 0.78], abs=1e-4)]
    assert loaded["Große Straße.jpg"]["shape"] == (64, 48)
    assert sorted(len(one) for one in boxes.values()) == [0, 1, 1, 1]


def test_choices_come_as_a_table_and_as_class_folders(
    lab: LabelStudioUser,
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a project with both kinds of choices.

    Prelabel accepted the second task, the fourth is skipped, and the file of the fifth is gone.
    """
    several = CHOICES_CONFIG.format(choice="multiple").replace("colour", "tags")
    both = several[several.index("<Choices") : several.index("</View>")]
    single = CHOICES_CONFIG.format(choice="single").replace("</View>", f"{both}</View>")
    project = lab.create_project(single, "to be exported as tables")
    tasks = lab.import_colours(project, 2) + lab.import_images(project, ["/data/lost.png"])
    choose = lab.make_choice_region
    lab.submit_regions(tasks[0], [choose(["red"]), choose(["red", "blue"], "tags")])
    client = LabelStudioClient(environment["LABEL_STUDIO_URL"], environment["LABEL_STUDIO_API_KEY"])
    client.create_annotation(tasks[1], [choose(["blue"])], client.ensure_machine_user())
    lab.submit_regions(tasks[2], [choose(["red"], "tags")])
    lab.skip_task(tasks[3])
    lab.submit_regions(tasks[4], [choose(["red"]), choose(["blue"], "tags")])
    labeled = [*tasks[:3], tasks[4]]
    monkeypatch.setattr("backend.label_studio.task_requests.LABELED_TASK_PAGE_SIZE", 2)
    assert [row["id"] for row in client.iter_labeled_tasks(project)] == labeled

    told = export(environment, "--project", project, "--data", "csv", "--output", tmp_path / "csv")
    assert (told["labels"], told["accepted"]) == (4, 1)
    names = [f"task-{task}.png" for task in tasks[:3]] + ["lost.png"]
    table = read_table(tmp_path / "csv" / "colour.csv")
    assert [(row["file_name"], row["label"]) for row in table] == [
        (names[0], "red"),
        (names[1], "blue"),
        (names[3], "red"),
    ]
    table = read_table(tmp_path / "csv" / "tags.csv")
    assert [(row["file_name"], row["red"], row["blue"]) for row in table] == [
        (names[0], "1", "1"),
        (names[1], "0", "0"),
        (names[2], "1", "0"),
        (names[3], "0", "1"),
    ]
    table = read_table(tmp_path / "csv" / "images.csv")
    assert [int(row["task"]) for row in table] == labeled
    assert [row["accepted"] for row in table] == ["0", "1", "0", "0"]

    folder = tmp_path / "folders"
    told = export(environment, project, "--data", "folders", "--output", folder)
    assert list(told["unreadable"]) == [str(tasks[4])]
    assert told["labels"] == 2
    files = {
        str(Path(file).relative_to(Path(file).parts[0]))
        for file in told["files"]
        if file.endswith(".png")
    }
    assert files == {f"red/{names[0]}", f"blue/{names[1]}"}
    assert {place.name for place in (folder / "val").iterdir()} == {"red", "blue"}
    (picture,) = folder.glob(f"*/red/{names[0]}")
    assert picture.read_bytes() == make_png("red", 0)


def test_images_are_sorted_as_the_live_version_predicts_them(
    lab: LabelStudioUser, environment: dict[str, str], tmp_path: Path
) -> None:
    """The first task has one of two annotations, the last one no prediction of the live version."""
    project = lab.create_project(title="sorted by the model")
    lab.request("PATCH", f"/api/projects/{project}", json={"maximum_annotations": 2})
    tasks = lab.import_colours(project, 2)
    lab.submit_annotation(tasks[0])
    command = ("--project", project, "--predictions", "--data")
    arguments = [str(one) for one in ("export", *command, "csv")]
    early = run_prelabel(*arguments, **environment)
    assert (early.returncode, "has no live version" in early.stderr) == (1, True)

    store = ProjectStore(tmp_path / "home")
    url, token = environment["LABEL_STUDIO_URL"], environment["LABEL_STUDIO_API_KEY"]
    record = store.register(url, project, token=token)
    versions = VersionStore(store.folder(record.id))
    card = make_card(0, 10)
    versions.save(card, {}, lambda folder: None)
    versions.promote(card.version, by="the loop", reason="The first.")
    rows = [
        {
            "task": task,
            "result": [{**lab.make_choice_region([lab.true_labels[task]]), "score": 0.75}],
            "score": 0.5,
            "model_version": version,
        }
        for task, version in zip(tasks, (*[card.version] * 3, "v9-other"), strict=True)
    ]
    lab.request("POST", f"/api/projects/{project}/import/predictions", json=rows)

    told = export(environment, *command, "csv", "--output", tmp_path / "csv")
    assert (told["labels"], told["predicted"]) == (1, 2)
    assert told["left_out"] == {f"open task without a prediction of {card.version}": 1}
    labels = [lab.true_labels[task] for task in tasks]
    table = read_table(tmp_path / "csv" / "colour.csv")
    assert [
        (int(row["task"]), row["label"], row["source"], row["confidence"]) for row in table
    ] == [
        (tasks[0], labels[0], "annotation", ""),
        (tasks[1], labels[1], "prediction", "0.75"),
        (tasks[2], labels[2], "prediction", "0.75"),
    ]
    folder = tmp_path / "folders"
    export(environment, *command, "folders", "--output", folder)
    for task, label in zip(tasks[1:3], labels[1:3], strict=True):
        assert (folder / "predicted" / label / f"task-{task}.png").exists()
    assert len(list(folder.glob("train/*/*.png"))) == 1

    refused = run_prelabel("export", str(project), "--data", "coco", "--predictions", **environment)
    assert (refused.returncode, "--data csv or --data folders" in refused.stderr) == (2, True)


def test_what_a_format_cannot_hold_is_one_sentence(
    lab: LabelStudioUser, environment: dict[str, str], tmp_path: Path
) -> None:
    project = lab.create_project(POINTS)
    folder = tmp_path / "none"
    asked = ("export", str(project), "--data", "yolo", "--output", str(folder))
    done = run_prelabel(*asked, **environment)
    assert done.returncode == 1
    assert "YOLO holds boxes (RectangleLabels), and the labeling config has none" in done.stderr
    assert "use --data coco or --data csv." in done.stderr
    assert not folder.exists()
