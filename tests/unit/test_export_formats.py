"""Exported labels: file names, the split, and what each format's own readers get."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO

from backend.domain import Control, ImageSize, Label, LabelSet, Region, Task
from backend.errors import ConfigError
from backend.tools.dataset.export_formats import WRITERS, make_writer
from backend.tools.dataset.file_names import FileNames, original_name
from backend.tools.dataset.image_files import training_file
from backend.tools.dataset.labels import Dataset, LabeledImage
from backend.tools.dataset.read_dataset import choose_validation_tasks
from backend.tools.dataset.tables import write_image_table
from backend.vision.images.decode import decode_upright_image
from tests.support.image_files import encode_image

CAT_AND_DOG = (Label("cat"), Label("dog/wolf"))
BOXES = Control("things", "image", "image", CAT_AND_DOG, "boxes")
POINTS = Control("centres", "image", "image", CAT_AND_DOG, "points")
CHOICE = Control("kind", "image", "image", CAT_AND_DOG)
TAGS = Control("tags", "image", "image", (*CAT_AND_DOG, Label("task")), multiple=True)
BOX = Region("dog/wolf", 0.1, 0.2, 0.5, 1.0)
POINT = Region("cat", 0.25, 0.5, 0.25, 0.5)


def make_image(task: Task, **more: object) -> LabeledImage:
    values = {"file_name": f"{task.id}.png", "split": "train", "size": ImageSize(200, 100)}
    return LabeledImage(task, "image", **(values | more))  # type: ignore[arg-type]


def make_dataset(controls: list[Control], *images: LabeledImage) -> Dataset:
    return Dataset("pets", tuple(controls), images, Counter(), False)


def make_task(id: int, **more: object) -> Task:
    return Task(id, {"image": f"/data/{id}.png"}, **more)  # type: ignore[arg-type]


def write(format_name: str, folder: Path, dataset: Dataset) -> None:
    make_writer(format_name, dataset.controls).write_labels(folder, dataset)


def read_rows(file: Path) -> list[list[str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/data/upload/3/1f0c22aa-beach.jpg", "beach.jpg"),
        ("/ls/data/upload/3/1f0c22aa-1f0c22aa-beach.jpg", "1f0c22aa-beach.jpg"),
        ("http://host/data/upload/3/1f0c22aa-a%20b.jpg", "a b.jpg"),
        ("/data/1f0c22aa-beach.jpg", "1f0c22aa-beach.jpg"),
        ("/data/local-files/?d=pets/cats/1.jpg", "1.jpg"),
        ("s3://bucket/pets/50%25 #1.jpg", "50%25 #1.jpg"),
        ("https://host/a/%D0%BA%D0%BE%D1%82.png?size=9", "кот.png"),
        ("https://host/image?id=4", "image"),
        ("https://host/", "task-7"),
        ("data:image/jpeg;base64,AAAA", "task-7.jpg"),
        ("data:image/svg+xml;base64,AAAA", "task-7"),
        ("data:;base64,AAAA/b.png", "task-7"),
        ("http://[broken/a.png", "task-7"),
    ],
)
def test_an_image_keeps_its_original_name(address: str, name: str) -> None:
    assert original_name(address, 7) == name


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd", "_.._etc_passwd"),
        ("..\\..\\boot.png", "_.._boot.png"),
        ("..", "task-7"),
        (".htaccess.png", "htaccess.png"),
        ("nul.png", "nul_.png"),
        ('a<b>:"|?*\n.png', "a_b_______.png"),
        ("кот 猫.PNG", "кот 猫.PNG"),
        ("\ud800.png", "_.png"),
        ("e\u0301.png", "é.png"),
        ("x" * 400 + ".png", "x" * 150 + ".png"),
    ],
)
def test_a_file_name_is_safe_on_every_system(name: str, safe: str, tmp_path: Path) -> None:
    assigned = FileNames().assign(name, "task-7")
    assert assigned == safe
    (tmp_path / assigned).touch()
    assert [file.name for file in tmp_path.iterdir()] == [assigned]


def test_equal_names_stay_distinct_also_without_suffix_and_case() -> None:
    names = FileNames()
    wanted = ["a.jpg", "a.jpg", "A.png", "a-task-2.jpg", "a.jpg"]
    assigned = [names.assign(name, f"task-{n}") for n, name in enumerate(wanted, 1)]
    assert assigned == [
        "a.jpg",
        "a-task-2.jpg",
        "A-task-3.png",
        "a-task-2-task-4.jpg",
        "a-task-5.jpg",
    ]
    assert names.assign("a.jpg", "task-5") == "a-task-5-2.jpg"


@pytest.mark.parametrize(
    ("tasks", "audit", "validation"),
    [
        (range(20), {3, 4, 5}, {3, 4, 5}),
        (range(20), set(), {0, 1}),
        ([8, 9], {8, 9}, {8}),
        ([8], set(), set()),
        ([8], {8}, set()),
    ],
)
def test_val_is_the_audit_set_and_else_a_tenth(
    tasks: list[int], audit: set[int], validation: set[int]
) -> None:
    assert choose_validation_tasks(tasks, audit, rank=float) == validation


def test_pycocotools_reads_boxes_points_and_images_without_objects(tmp_path: Path) -> None:
    labeled = make_task(5, regions={"things": (BOX,), "centres": (POINT,)})
    empty = make_task(6, regions={"things": (), "centres": ()})
    dataset = make_dataset([BOXES, POINTS], make_image(labeled), make_image(empty, split="val"))
    write("coco", tmp_path, dataset)
    coco = COCO(tmp_path / "result.json")
    assert coco.getImgIds() == [1, 2]
    assert coco.imgs[1] == {"id": 1, "file_name": "5.png", "width": 200, "height": 100}
    (box,) = coco.loadAnns(coco.getAnnIds(catIds=[1]))
    assert (box["image_id"], box["bbox"], box["area"]) == (1, [20, 20, 80, 80], 6400)
    (point,) = coco.loadAnns(coco.getAnnIds(catIds=[2]))
    assert (point["keypoints"], point["num_keypoints"]) == ([50, 50, 2], 1)
    assert [coco.cats[id]["name"] for id in range(4)] == ["cat", "dog/wolf"] * 2
    assert coco.cats[2]["keypoints"] == ["center"]
    val = json.loads((tmp_path / "val.json").read_text())
    assert ([row["id"] for row in val["images"]], val["annotations"]) == ([2], [])


def test_coco_has_no_points_that_only_follow_from_boxes(tmp_path: Path) -> None:
    center = Region(BOX.label, *BOX.center, *BOX.center)
    task = make_task(5, regions={"things": (BOX,), "centres": (center,)})
    write("coco", tmp_path, make_dataset([BOXES, POINTS], make_image(task)))
    (annotation,) = json.loads((tmp_path / "result.json").read_text())["annotations"]
    assert "keypoints" not in annotation


def test_yolo_has_a_file_of_boxes_per_image(tmp_path: Path) -> None:
    labeled, empty = make_task(5, regions={"things": (BOX,)}), make_task(6, regions={"things": ()})
    images = [make_image(labeled, size=None), make_image(empty, size=None, split="val")]
    write("yolo", tmp_path, make_dataset([BOXES], *images))
    assert (tmp_path / "labels/train/5.txt").read_text() == "1 0.3 0.6 0.4 0.8\n"
    assert (tmp_path / "labels/val/6.txt").read_text() == ""
    assert yaml.safe_load((tmp_path / "data.yaml").read_text()) == {
        "train": "images/train",
        "val": "images/val",
        "names": {0: "cat", 1: "dog/wolf"},
    }


def test_a_yolo_dataset_of_one_image_has_both_splits(tmp_path: Path) -> None:
    image = make_image(make_task(5, regions={"things": (BOX,)}))
    write("yolo", tmp_path, make_dataset([BOXES], image))
    data = yaml.safe_load((tmp_path / "data.yaml").read_text())
    assert (data["train"], data["val"]) == ("images/train", "images/train")


def test_tables_tell_no_from_unknown(tmp_path: Path) -> None:
    known = {"tags": frozenset({"cat", "dog/wolf"})}
    several = make_task(5, choices={"tags": LabelSet({"cat"})}, available_labels=known)
    single = make_task(6, choices={"kind": LabelSet({"cat"})}, auto_accepted=True)
    images = [make_image(several, size=None), make_image(single, file_name='a,"b.png', split="val")]
    dataset = make_dataset([CHOICE, TAGS], *images)
    write("csv", tmp_path, dataset)
    write_image_table(tmp_path, dataset)
    assert read_rows(tmp_path / "tags.csv") == [
        ["file_name", "task", "split", "cat", "dog/wolf", "label task"],
        ["5.png", "5", "train", "1", "0", ""],
    ]
    assert read_rows(tmp_path / "kind.csv")[1:] == [['a,"b.png', "6", "val", "cat"]]
    assert read_rows(tmp_path / "images.csv") == [
        ["file_name", "task", "split", "width", "height", "accepted"],
        ["5.png", "5", "train", "", "", "0"],
        ['a,"b.png', "6", "val", "200", "100", "1"],
    ]


def test_tables_of_objects_are_in_pixels(tmp_path: Path) -> None:
    task = make_task(5, regions={"things": (BOX,), "centres": (POINT,)})
    dataset = make_dataset([BOXES, POINTS], make_image(task))
    write("csv", tmp_path, dataset)
    write_image_table(tmp_path, dataset)
    assert [row[-1] for row in read_rows(tmp_path / "images.csv")] == ["objects", "2"]
    assert read_rows(tmp_path / "things.csv")[1:] == [
        ["5.png", "5", "train", "dog/wolf", "20.0", "20.0", "80.0", "80.0"]
    ]
    assert read_rows(tmp_path / "centres.csv")[1:] == [
        ["5.png", "5", "train", "cat", "50.0", "50.0"]
    ]


def test_class_folders_have_safe_names_and_the_same_classes_in_both_splits(tmp_path: Path) -> None:
    task = make_task(5, choices={"kind": LabelSet({"dog/wolf"})})
    image = make_image(task)
    writer = make_writer("folders", [CHOICE, TAGS])
    assert writer.image_places(image) == [Path("train/dog_wolf/5.png")]
    writer.write_labels(tmp_path, make_dataset([CHOICE], image))
    folders = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")}
    assert folders == {"train/dog_wolf", "val/dog_wolf"}
    assert read_rows(tmp_path / "classes.csv") == [["folder", "label"], ["dog_wolf", "dog/wolf"]]


def test_predicted_images_are_apart_from_labeled_ones(tmp_path: Path) -> None:
    labeled = make_image(make_task(5, choices={"kind": LabelSet({"cat"})}))
    predicted = make_image(
        make_task(6, choices={"kind": LabelSet({"dog/wolf"}), "tags": LabelSet({"task"})}),
        split="predicted",
        confidence={"kind": 0.82},
    )
    dataset = replace(make_dataset([CHOICE, TAGS], labeled, predicted), has_sources=True)
    write("csv", tmp_path, dataset)
    write_image_table(tmp_path, dataset)
    assert read_rows(tmp_path / "kind.csv") == [
        ["file_name", "task", "split", "label", "source", "confidence"],
        ["5.png", "5", "train", "cat", "annotation", ""],
        ["6.png", "6", "predicted", "dog/wolf", "prediction", "0.82"],
    ]
    header, *_ = read_rows(tmp_path / "tags.csv")
    assert header[3:] == ["source", "confidence", "cat", "dog/wolf", "label task"]
    assert [row[-1] for row in read_rows(tmp_path / "images.csv")] == [
        "source",
        "annotation",
        "prediction",
    ]
    writer = make_writer("folders", [CHOICE, TAGS])
    assert writer.image_places(predicted) == [Path("predicted/dog_wolf/6.png")]
    writer.write_labels(tmp_path, dataset)
    assert {path.name for path in (tmp_path / "train").iterdir()} == {"cat"}, "no empty class"
    assert [row[1] for row in read_rows(tmp_path / "classes.csv")[1:]] == ["cat", "dog/wolf"]


def test_several_choices_have_class_folders_of_their_own() -> None:
    other = Control("mood", "image", "image", (Label("calm"), Label("wild")))
    task = make_task(5, choices={"kind": LabelSet({"cat"}), "mood": LabelSet({"calm"})})
    places = make_writer("folders", [CHOICE, other]).image_places(make_image(task))
    assert places == [Path("kind/train/cat/5.png"), Path("mood/train/calm/5.png")]


@pytest.mark.parametrize(
    ("controls", "fitting"),
    [
        ([BOXES], ["coco", "yolo", "csv"]),
        ([POINTS], ["coco", "csv"]),
        ([CHOICE], ["csv", "folders"]),
        ([TAGS], ["csv"]),
        ([], []),
    ],
)
def test_a_format_that_does_not_fit_names_those_that_do(
    controls: list[Control], fitting: list[str]
) -> None:
    advice = " or ".join(f"--data {one}" for one in fitting) or "page Export in Label Studio"
    for name in WRITERS:
        if name in fitting:
            assert make_writer(name, controls).controls == controls
            continue
        with pytest.raises(ConfigError, match=advice):
            make_writer(name, controls)


@pytest.mark.parametrize(
    ("kind", "suffix", "expected", "is_kept"),
    [
        *[
            ("PNG", ".PNG", ".PNG", True),
            ("JPEG", "", ".jpg", True),
            ("GIF", ".gif", ".png", False),
        ],
        *[("TIFF", ".tif", ".jpg", False), ("TIFF", "", ".jpg", False)],
        ("AVIF", "", ".jpg", False),
    ],
)
def test_training_tools_can_read_every_exported_file(
    kind: str, suffix: str, expected: str, is_kept: bool
) -> None:
    content = encode_image(Image.new("RGB", (48, 32), "red"), kind)
    decoded = decode_upright_image(content, max_pixels=10_000)
    written, written_suffix = training_file(content, decoded, suffix, 10_000)
    assert (written_suffix, written == content) == (expected, is_kept)
    with Image.open(io.BytesIO(written)) as image:
        assert image.format in ("PNG", "JPEG")
        assert image.size == (48, 32)
