"""Labels of other programs: read, matched with tasks, and written once or left out by reason."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from backend.domain import Control, ImageSize, Label, Region
from backend.errors import ImageError, UsageError
from backend.label_studio import Json
from backend.label_studio.label_results import IMPORTED_VERSION
from backend.onboarding import label_import
from backend.onboarding.box_frame import ImageFrame, to_upright_region
from backend.onboarding.config_writer import write_config
from backend.onboarding.image_folder import list_files
from backend.onboarding.label_import import (
    LabelImporter,
    LabelImportSummary,
    LabelRole,
    map_labels,
    require_labels,
)
from backend.onboarding.label_sources.find import find_label_sources, load_label_source
from backend.onboarding.label_sources.job import choose_label_job
from backend.onboarding.label_sources.source import ImageLabels, LabelSource, SourceBox, clean_path
from backend.onboarding.labeling_job import LabelingJob
from backend.onboarding.task_index import LabelTask, TaskIndex
from tests.support.harness import make_png
from tests.support.image_files import encode_image

SIZE = ImageSize(200, 100)
CAT_AND_DOG = (Label("cat"), Label("dog"))
BOX_CONFIG = write_config(LabelingJob.BOXES, CAT_AND_DOG)
CHOICE_CONFIG = write_config(LabelingJob.BINARY, CAT_AND_DOG)
COCO: Json = {
    "images": [
        {"id": 1, "file_name": "a/1.png", "width": 200, "height": 100},
        {"id": 2, "file_name": "2.png", "width": 200, "height": 100},
        {"id": 3, "file_name": "empty.png", "width": 200, "height": 100},
        {"id": 4, "file_name": "../../etc/gone.png", "width": 200, "height": 100},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}, {"id": 9, "name": "unused"}],
    "annotations": [
        {"image_id": 1, "category_id": 1, "bbox": [20, 10, 100, 50]},
        {"image_id": 1, "category_id": 7, "segmentation": [[0, 0, 40, 0, 40, 20]]},
        {"image_id": 2, "category_id": 1, "bbox": [0, 0, 20, 10]},
        {"image_id": 2, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        {"image_id": 4, "category_id": 1, "bbox": [0, 0, 9, 9]},
        {"image_id": 5, "category_id": 1, "bbox": [0, 0, 9, 9]},
    ],
}


class Notebook:
    """Takes annotations and predictions like Label Studio; full after some calls."""

    def __init__(self, calls: int = 1000) -> None:
        self.annotations: dict[int, list[Json]] = {}
        self.predictions: list[Json] = []
        self._calls = calls

    def create_annotation(self, task: int, result: Sequence[Json]) -> int:
        self._calls -= 1
        if self._calls < 0:
            raise ConnectionError("gone")
        assert task not in self.annotations, "annotated twice"
        self.annotations[task] = list(result)
        return task

    def import_predictions(self, number: int, predictions: Sequence[Json]) -> int:
        self.predictions += predictions
        return len(predictions)


def task_row(id: int, file: str, annotations: int = 0, content: bytes = b"") -> Json:
    data: Json = {"image": f"/data/upload/3/0a1b2c3d-{id}.png", "file": file}
    if content:
        data["sha256"] = hashlib.sha256(content).hexdigest()
    return {"id": id, "data": data, "total_annotations": annotations, "cancelled_annotations": 0}


def load_size(task: LabelTask) -> ImageFrame:
    return ImageFrame(SIZE)


def import_all(
    source: LabelSource,
    rows: Sequence[Json],
    config: str,
    writer: Notebook,
    role: LabelRole = LabelRole.ANNOTATIONS,
    suggested: frozenset[int] = frozenset(),
) -> LabelImportSummary:
    mapping = map_labels(config, source)
    tasks = TaskIndex(rows, "image", source.root, 1_000_000)
    importer = LabelImporter(writer, 3, mapping, tasks, load_size, suggested)
    return importer.run(source, role, lambda done, total: None)


def values(result: Sequence[Json]) -> list[tuple[Any, ...]]:
    """Label and box of each region, in percent."""
    return [
        (
            *item["value"]["rectanglelabels"],
            *(item["value"][k] for k in ("x", "y", "width", "height")),
        )
        for item in result
    ]


ROWS = [task_row(11, "a/1.png"), task_row(12, "2.png"), task_row(13, "empty.png")]


@pytest.fixture
def coco(tmp_path: Path) -> LabelSource:
    (tmp_path / "labels.json").write_text(json.dumps(COCO))
    (tmp_path / "other.json").write_text('{"a": [1]}')
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (source,) = find_label_sources(tmp_path, list_files(tmp_path))
    return source


# -- formats --------------------------------------------------------------------------------------


def test_coco_boxes_become_annotations_in_percent_and_the_rest_is_counted(
    coco: LabelSource,
) -> None:
    assert (coco.format, coco.label_names, coco.image_count) == ("coco", ("cat", "dog"), 4)
    notebook = Notebook()
    summary = import_all(coco, ROWS, BOX_CONFIG, notebook)
    assert values(notebook.annotations[11]) == [("cat", 10, 10, 50, 50), ("dog", 0, 0, 20, 20)]
    assert notebook.annotations[13] == [], "an image without objects is an answer, too"
    assert all(
        (item["original_width"], item["original_height"], "score" in item) == (200, 100, False)
        for item in notebook.annotations[11]
    )
    assert (summary.image_count, summary.label_count) == (2, 2)
    assert dict(summary.skipped.skipped_counts) == {
        "image that is not in the project": 1,
        "annotation of an image that its COCO file does not list": 1,
        "crowd region": 1,
        "usable box of an image with others that are not: annotations must be complete": 1,
    }


def test_suggestions_may_be_incomplete(coco: LabelSource) -> None:
    notebook = Notebook()
    summary = import_all(coco, ROWS, BOX_CONFIG, notebook, LabelRole.SUGGESTIONS)
    by_task = {row["task"]: row for row in notebook.predictions}
    assert set(by_task) == {11, 12, 13}
    assert values(by_task[12]["result"]) == [("cat", 0, 0, 10, 10)]
    assert by_task[12]["model_version"] == IMPORTED_VERSION
    assert summary.label_count == 3
    again = import_all(coco, ROWS, BOX_CONFIG, notebook, LabelRole.SUGGESTIONS, frozenset(by_task))
    assert (again.image_count, len(notebook.predictions)) == (0, 3)


def test_points_are_the_centres_of_boxes(coco: LabelSource) -> None:
    notebook = Notebook()
    import_all(coco, ROWS, write_config(LabelingJob.POINTS, CAT_AND_DOG), notebook)
    first = notebook.annotations[11][0]
    assert (first["type"], first["value"]["x"], first["value"]["y"]) == ("keypointlabels", 35, 35)


YOLO_FILES = {
    "data.yaml": "names: {0: cat, 1: dog}\n",
    "labels/train/1.txt": "0 0.35 0.35 0.5 0.5\n1 0.0 0.0 0.2 0.0 0.2 0.2\n",
    "labels/train/2.txt": "0 0.05 0.05 0.1 0.1 0.9\n5 0.5 0.5 0.1 0.1\n",
    "labels/train/empty.txt": "",
    "notes.txt": "not labels\n",
}


def write_files(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_yolo_labels_belong_to_the_images_beside_the_labels_folder(tmp_path: Path) -> None:
    source = load_label_source(write_files(tmp_path, YOLO_FILES))
    assert (source.format, source.label_names) == ("yolo", ("cat", "dog"))
    assert tmp_path / "notes.txt" not in source.files
    rows = [
        task_row(number, f"images/{split}/{name}.jpg")
        for number, (split, name) in enumerate(
            [("train", "1"), ("train", "2"), ("train", "empty"), ("val", "1")]
        )
    ]
    notebook = Notebook()
    summary = import_all(source, rows, BOX_CONFIG, notebook)
    assert values(notebook.annotations[0]) == [("cat", 10, 10, 50, 50), ("dog", 0, 0, 20, 20)]
    assert notebook.annotations[2] == []
    assert set(notebook.annotations) == {0, 2}
    assert summary.skipped.skipped_counts["class number without a name"] == 1


VOC = """<annotation><folder>x</folder><filename>{name}</filename>
<size><width>200</width><height>100</height></size>
<object><name>cat</name><bndbox><xmin>20</xmin><ymin>10</ymin><xmax>120</xmax><ymax>60</ymax></bndbox></object>
{more}</annotation>"""


def test_pascal_voc_files_are_read_without_entities(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
    outside = VOC.partition("<object>")[2].partition("</object>")[0]
    for number, name in ((20, "xmin"), (120, "xmax")):
        outside = outside.replace(f"<{name}>{number}<", f"<{name}>{number + 500}<")
    files = {
        "Annotations/1.xml": VOC.format(name="1.png", more=""),
        "Annotations/2.xml": VOC.format(name="2.png", more=f"<object>{outside}</object>"),
        "Annotations/bomb.xml": bomb + VOC.format(name="&e;", more=""),
        "feed.xml": "<rss/>",
    }
    source = load_label_source(write_files(tmp_path, files))
    assert (source.format, source.label_names, source.image_count) == ("voc", ("cat",), 2)
    notebook = Notebook()
    rows = [task_row(1, "JPEGImages/1.png"), task_row(2, "JPEGImages/2.png")]
    summary = import_all(source, rows, BOX_CONFIG, notebook)
    assert values(notebook.annotations[1]) == [("cat", 10, 10, 50, 50)]
    assert set(notebook.annotations) == {1}
    assert summary.skipped.skipped_counts["box outside the image"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "filename,width,height,class,xmin,ymin,xmax,ymax\n1.png,200,100,cat,20,10,120,60\n",
        "image;label;x;y;width;height\n1.png;cat;20;10;100;50\n",
        "path\tlabel\tx1\ty1\tx2\ty2\nC:\\d\\1.png\tcat\t0.1\t0.1\t0.6\t0.6\n",
    ],
)
def test_a_csv_file_has_boxes_in_pixels_or_fractions(tmp_path: Path, text: str) -> None:
    (tmp_path / "boxes.csv").write_text("\ufeff" + text)
    source = load_label_source(tmp_path / "boxes.csv")
    notebook = Notebook()
    import_all(source, [task_row(1, "1.png")], BOX_CONFIG, notebook)
    ((label, *box),) = values(notebook.annotations[1])
    assert label == "cat"
    assert box == pytest.approx([10, 10, 50, 50])


def test_a_csv_file_has_labels_of_whole_images(tmp_path: Path) -> None:
    text = "image,label\n1.png,cat\n2.png,cat\n2.png,dog\n3.png,\n1.png,cat\n"
    (tmp_path / "labels.csv").write_text(text)
    source = load_label_source(tmp_path)
    assert (source.has_boxes, source.is_multiple) == (False, True)
    rows = [task_row(number, f"{number}.png") for number in (1, 2, 3)]
    single, multiple = Notebook(), Notebook()
    summary = import_all(source, rows, CHOICE_CONFIG, single)
    assert [item["value"] for item in single.annotations[1]] == [{"choices": ["cat"]}]
    assert set(single.annotations) == {1}
    assert dict(summary.skipped.skipped_counts) == {
        "image with several labels, of which only one can apply": 2,
        "row without a label": 1,
    }
    import_all(source, rows, write_config(LabelingJob.MULTIPLE_CHOICE, CAT_AND_DOG), multiple)
    assert multiple.annotations[2][0]["value"] == {"choices": ["cat", "dog"]}


def test_sorted_folders_are_labels_also_of_an_image_that_is_there_twice(tmp_path: Path) -> None:
    red, blue = make_png("red", 1), make_png("blue", 1)
    for name, content in {
        "copy.png": red,
        "cat/1.png": red,
        "cat/deep/2.png": blue,
        "dog/1.png": make_png("blue", 2),
        "dog/2.png": make_png("blue", 3),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    source = load_label_source(tmp_path)
    assert (source.format, source.label_names, source.image_count) == ("folders", ("cat", "dog"), 4)
    rows = [
        task_row(1, "copy.png", content=red),  # imported instead of cat/1.png
        task_row(2, "cat/deep/2.png", content=blue),
        task_row(3, "dog/1.png", content=make_png("blue", 2)),
        task_row(4, "1.png", content=make_png("blue", 9)),  # has only the name of another
    ]
    notebook = Notebook()
    summary = import_all(source, rows, CHOICE_CONFIG, notebook)
    chosen = {task: result[0]["value"]["choices"] for task, result in notebook.annotations.items()}
    assert chosen == {1: ["cat"], 2: ["cat"], 3: ["dog"]}
    assert dict(summary.skipped.skipped_counts) == {"image that is not in the project": 1}


def test_the_folders_of_a_split_are_no_labels(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number, label in enumerate(("cat", "dog")):
            (tmp_path / split / label).mkdir(parents=True)
            (tmp_path / split / label / "1.png").write_bytes(make_png("red", number))
    assert load_label_source(tmp_path).label_names == ("cat", "dog")


def test_a_folder_without_labels_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="YOLO needs class names"):
        load_label_source(tmp_path)
    write_files(tmp_path, {**YOLO_FILES, "a.csv": "image,label\n1.png,cat\n"})
    with pytest.raises(UsageError, match="--format yolo, --format csv"):
        load_label_source(tmp_path)
    assert load_label_source(tmp_path, "csv").format == "csv"


# -- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "task"),
    [
        ("a/1.png", 1),
        ("data/a/1.png", 1),  # the label file knows more folders
        ("b/1.png", 2),
        ("c/1.png", "image that is not in the project"),
        ("1.png", "file name that several images have"),
        ("2.png", 3),  # the task knows more folders
        ("my photo.png", 4),  # as Label Studio renames an upload
        ("elsewhere/x.png", 5),
    ],
)
def test_a_path_matches_the_end_of_a_tasks_path(tmp_path: Path, path: str, task: int | str) -> None:
    rows = [task_row(1, "a/1.png"), task_row(2, "b/1.png"), task_row(3, "deep/2.png")]
    rows.append({"id": 4, "data": {"image": "/data/upload/3/0a1b2c3d-my_photo.png"}})
    rows.append({"id": 5, "data": {"image": "/data/local-files/?d=elsewhere%2Fx.png"}})
    found = TaskIndex(rows, "image", tmp_path, 1000).find([path])
    assert (found if isinstance(found, str) else found.task.id) == task


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "..\\secret", "a/../../secret"])
def test_a_path_cannot_leave_the_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "secret")
    tasks = TaskIndex([], "image", tmp_path / "in", 1000)
    assert tasks.local_file(clean_path(path)) is None
    assert tasks.local_file(path) is None
    assert tasks.local_file("link") is None


def test_two_images_that_fit_one_task_are_not_mixed(tmp_path: Path) -> None:
    text = "image,label\na/1.png,cat\nb/1.png,dog\n"
    (tmp_path / "labels.csv").write_text(text)
    notebook = Notebook()
    summary = import_all(
        load_label_source(tmp_path), [task_row(1, "1.png")], CHOICE_CONFIG, notebook
    )
    assert notebook.annotations == {}
    assert dict(summary.skipped.skipped_counts) == {"file name that several images have": 2}


# -- coordinates ----------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_of_a_stored_image_are_turned_like_the_image(orientation: int) -> None:
    """A mark of the stored pixels is drawn, and the image decoded upright."""
    from backend.vision.images.decode import decode_upright_image

    image = Image.new("RGB", (80, 40), "white")
    image.paste((255, 0, 0), (8, 24, 24, 32))
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode_image(image, "PNG", exif=exif)
    decoded = decode_upright_image(content, max_pixels=10_000)
    frame = ImageFrame(ImageSize(decoded.width, decoded.height), decoded.orientation)
    assert frame.orientation == orientation
    labels = ImageLabels(("x.png",), in_pixels=True, size=ImageSize(80, 40))
    region = to_upright_region(SourceBox("cat", 8, 24, 24, 32), labels, frame)
    assert isinstance(region, Region)
    red = decoded.image.split()[1].point(lambda value: 255 if value < 100 else 0).getbbox()
    assert red is not None
    drawn = [n / s for n, s in zip(red, decoded.image.size * 2, strict=True)]
    found = [region.x0, region.y0, region.x1, region.y1]
    if orientation >= 5:  # only then a size tells the stored from the upright image
        assert found == pytest.approx(drawn)
    else:
        assert found == pytest.approx([0.1, 0.6, 0.3, 0.8])


@pytest.mark.parametrize(
    ("box", "size", "expected"),
    [
        ((-20, 0, 20, 10), SIZE, Region("cat", 0, 0, 0.1, 0.1)),  # clipped at the edge
        ((20, 10, 40, 20), ImageSize(400, 200), Region("cat", 0.05, 0.05, 0.1, 0.1)),  # resized
        ((20, 10, 40, 20), None, Region("cat", 0.1, 0.1, 0.2, 0.2)),
        ((20, 10, 40, 20), ImageSize(100, 100), "image of another shape than its label file says"),
        ((300, 0, 320, 10), SIZE, "box outside the image"),
        ((20, 10, 20, 20), SIZE, "box without area"),
        ((math.nan, 10, 20, 20), SIZE, "box without coordinates"),
    ],
)
def test_a_box_is_a_region_of_the_image_or_has_a_reason(
    box: tuple[float, float, float, float], size: ImageSize | None, expected: Region | str
) -> None:
    labels = ImageLabels(("x.png",), in_pixels=True, size=size)
    assert to_upright_region(SourceBox("cat", *box), labels, ImageFrame(SIZE)) == expected


# -- writing --------------------------------------------------------------------------------------


def test_an_interrupted_import_continues_and_adds_nothing_twice(coco: LabelSource) -> None:
    notebook = Notebook(calls=1)
    with pytest.raises(ConnectionError):
        import_all(coco, ROWS, BOX_CONFIG, notebook)
    assert set(notebook.annotations) == {11}
    rest = Notebook()
    rows = [task_row(11, "a/1.png", annotations=1), *ROWS[1:]]
    summary = import_all(coco, rows, BOX_CONFIG, rest)
    assert set(rest.annotations) == {13}
    assert summary.skipped.skipped_counts["image that is annotated already"] == 2


def test_labels_that_the_config_lacks_are_named_first(coco: LabelSource) -> None:
    config = write_config(LabelingJob.BOXES, [Label("Cat"), Label("bird")])
    mapping = map_labels(config, coco)
    assert (mapping.names, mapping.missing) == ({"cat": "Cat"}, ("dog",))
    with pytest.raises(UsageError, match=r"lacks labels of COCO: dog\. Nothing was written"):
        require_labels(mapping, coco, known_only=False)
    require_labels(mapping, coco, known_only=True)
    notebook = Notebook()
    summary = import_all(coco, ROWS, config, notebook)
    assert values(notebook.annotations[11]) == [("Cat", 10, 10, 50, 50)]
    reason = "label that the labeling config lacks: dog"
    assert summary.skipped.skipped_counts[reason] == 1
    with pytest.raises(UsageError, match="has no RectangleLabels or KeyPointLabels"):
        map_labels(CHOICE_CONFIG, coco)
    nothing = map_labels(write_config(LabelingJob.BOXES, [Label("bird")]), coco)
    with pytest.raises(UsageError, match="cat, dog"):
        require_labels(nothing, coco, known_only=True)


def test_the_control_with_most_of_the_labels_is_used(coco: LabelSource) -> None:
    tag = '<RectangleLabels name="{}" toName="image"><Label value="{}"/>{}</RectangleLabels>'
    controls = tag.format("few", "cat", "") + tag.format("all", "cat", '<Label value="dog"/>')
    mapping = map_labels(f'<View><Image name="image" value="$image"/>{controls}</View>', coco)
    assert isinstance(mapping.control, Control)
    assert mapping.control.name == "all"


def test_an_unreadable_image_costs_its_labels_only(coco: LabelSource) -> None:
    def load(task: LabelTask) -> ImageFrame:
        if task.id == 11:
            raise ImageError("not found")
        return ImageFrame(SIZE)

    notebook = Notebook()
    tasks = TaskIndex(ROWS, "image", coco.root, 1000)
    importer = LabelImporter(notebook, 3, map_labels(BOX_CONFIG, coco), tasks, load)
    summary = importer.run(coco, LabelRole.ANNOTATIONS, lambda done, total: None)
    assert set(notebook.annotations) == {13}
    assert summary.skipped.skipped_counts["image that cannot be read: not found"] == 2


def test_suggestions_are_sent_in_batches(
    coco: LabelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_import, "SUGGESTION_BATCH_SIZE", 2)
    notebook = Notebook()
    import_all(coco, ROWS, BOX_CONFIG, notebook, LabelRole.SUGGESTIONS)
    assert [row["task"] for row in notebook.predictions] == [11, 12, 13]


def test_the_job_follows_from_the_labels(coco: LabelSource, tmp_path: Path) -> None:
    job, labels = choose_label_job(coco, None, [])
    assert (job, [label.name for label in labels]) == (LabelingJob.BOXES, ["cat", "dog"])
    assert choose_label_job(coco, LabelingJob.POINTS, [])[0] is LabelingJob.POINTS
    with pytest.raises(UsageError, match="does not fit the existing labels"):
        choose_label_job(coco, LabelingJob.BINARY, [])
