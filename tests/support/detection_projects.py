"""Create Label Studio projects of drawn discs and squares."""

from __future__ import annotations

from tests.support.drawings import Drawing, DrawnObject, make_drawing
from tests.support.harness import BackendServer, Json, LabelStudioUser, make_data_uri

BOXES_CONFIG = """
<View>
  <Image name="image" value="$image"/>
  <RectangleLabels name="box" toName="image"><Label value="disc"/><Label value="square"/>
  </RectangleLabels>
</View>
"""


PROJECT_IMAGE_COUNT = 26


def create_drawing_project(
    lab: LabelStudioUser, backend: BackendServer, config: str, **how: object
) -> tuple[int, dict[int, Drawing]]:
    """Create a connected project and return it with its drawings by task."""
    project = lab.create_project(config, title="drawn things")
    drawings = [make_drawing(number, **how) for number in range(PROJECT_IMAGE_COUNT)]  # type: ignore[arg-type]
    tasks = lab.import_images(project, [make_data_uri(d.to_png()) for d in drawings])
    lab.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    return project, dict(zip(tasks, drawings, strict=True))


def make_box_region(thing: DrawnObject) -> Json:
    """Return a box as the browser sends it."""
    x0, y0, x1, y1 = (100 * v for v in thing.box)
    value = {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "rotation": 0}
    labeled = {**value, "rectanglelabels": [thing.label]}
    return {"from_name": "box", "to_name": "image", "type": "rectanglelabels", "value": labeled}


def predicted_regions(lab: LabelStudioUser, project: int, version: str) -> dict[int, list[Json]]:
    """Return the regions of the pushed predictions by task."""
    of = [p for p in lab.list_predictions(project) if p["model_version"] == version]
    assert len(of) == len({p["task"] for p in of})
    return {p["task"]: p["result"] for p in of}
