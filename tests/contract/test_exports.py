"""``prelabel export --data``: the labels as Label Studio's own converter writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from demo.label_studio import LabelStudioServer
from tests.support.cli import json_output, run_prelabel
from tests.support.harness import Json, LabelStudioUser, make_data_uri, make_png

BOXES = """<View><Image name="image" value="$image"/>
<RectangleLabels name="things" toName="image">
  <Label value="disc"/><Label value="square"/>
</RectangleLabels></View>"""
POINTS = BOXES.replace("RectangleLabels", "KeyPointLabels")
BOX = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["square"]}


@pytest.fixture
def environment(studio: LabelStudioServer, tmp_path: Path) -> dict[str, str]:
    return {
        "PRELABEL_HOME": str(tmp_path / "home"),
        "LABEL_STUDIO_URL": studio.url,
        "LABEL_STUDIO_API_KEY": studio.token,
    }


@pytest.fixture
def project(lab: LabelStudioUser) -> int:
    """Two uploaded images, one of them with a box."""
    project = lab.create_project(BOXES, "to be exported")
    for number in range(2):
        file = {"file": (f"image{number}.png", make_png("red", number, 100), "image/png")}
        lab.request("POST", f"/api/projects/{project}/import", files=file)
    region = {"from_name": "things", "to_name": "image", "type": "rectanglelabels", "value": BOX}
    size = {"original_width": 100, "original_height": 100, "image_rotation": 0}
    first = lab.list_tasks(project)[0]["id"]
    lab.request("POST", f"/api/tasks/{first}/annotations/", json={"result": [{**region, **size}]})
    return project


def test_labels_come_as_coco(project: int, environment: dict[str, str], tmp_path: Path) -> None:
    asked = ("export", str(project), "--data", "coco", "--output", str(tmp_path / "coco"))
    told = json_output(run_prelabel(*asked, "--json", **environment))
    assert (told["project"], told["labels"], told["files"]) == (project, 1, ["result.json"])
    coco: Json = json.loads((tmp_path / "coco" / "result.json").read_text())
    assert [category["name"] for category in coco["categories"]] == ["disc", "square"]
    (annotation,) = coco["annotations"]
    assert (annotation["bbox"], annotation["category_id"]) == ([10.0, 20.0, 30.0, 40.0], 1)
    again = run_prelabel(*asked, **environment)
    assert again.returncode == 2
    assert "is not empty" in again.stderr


def test_labels_come_as_yolo_with_their_images(
    project: int, environment: dict[str, str], tmp_path: Path
) -> None:
    asked = ("export", str(project), "--data", "yolo", "--images", "--output", str(tmp_path / "y"))
    json_output(run_prelabel(*asked, "--json", **environment))
    assert (tmp_path / "y" / "classes.txt").read_text().split() == ["disc", "square"]
    (labels,) = (tmp_path / "y" / "labels").iterdir()
    assert labels.read_text().split() == ["1", "0.25", "0.4", "0.3", "0.4"]
    (image,) = (tmp_path / "y" / "images").iterdir()
    assert image.stem == labels.stem


@pytest.mark.parametrize("config", ["points", "choices"])
def test_what_the_formats_cannot_hold_is_one_sentence(
    lab: LabelStudioUser, environment: dict[str, str], config: str, tmp_path: Path
) -> None:
    project = lab.create_project(POINTS) if config == "points" else lab.create_project()
    lab.import_images(project, [make_data_uri(make_png("red", 1))])
    folder = tmp_path / "none"
    asked = ("export", str(project), "--data", "coco", "--output", str(folder))
    done = run_prelabel(*asked, **environment)
    assert done.returncode == 1
    assert f"Label Studio cannot export project {project} as COCO" in done.stderr
    assert "JSON" in done.stderr
    assert not folder.exists()
