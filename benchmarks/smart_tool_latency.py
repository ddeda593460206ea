"""Measure how long a smart tool waits for suggestions, through a real Label Studio.

    uv run python -m benchmarks.smart_tool_latency FOLDER --weights yolo26n.pt

FOLDER has the format of ``benchmarks.detection``, with images of about 640 pixels. In each image
one annotated object is "drawn". The first request is sent to a backend that has just restarted.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.servers import RunningStudio, running_backend, running_studio
from tests.support.harness import Json, LabelStudioUser

TASK_COUNT = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", default="builtin")
    options = parser.parse_args()
    rows = json.loads((options.folder / "annotations.json").read_text())["images"]
    rows = [row for row in rows if row["boxes"]][:TASK_COUNT]
    with running_studio() as studio:
        print(f"{'smart tool':<12}{'first':>8}{'median':>8}{'p95':>8}{'max':>8}  ms")
        for kind in ("rectangle", "keypoint"):
            waits = measure_waits(studio, options, rows, kind)
            first, others = waits[0], np.array(waits[1:])
            wait_statistics = (np.median(others), np.quantile(others, 0.95), others.max())
            print(f"{kind:<12}{first:>8.0f}" + "".join(f"{ms:>8.0f}" for ms in wait_statistics))


def measure_waits(studio: RunningStudio, options: Any, rows: list[Json], kind: str) -> list[float]:
    """Return the milliseconds of each request."""
    weights = options.weights
    detector = weights if weights == "builtin" else str(Path(weights).resolve())
    annotator, user = studio.annotator, studio.user
    project = annotator.create_project(kind, make_tool_config(rows, kind))
    annotator.upload_images(project, [options.folder / "images" / row["file"] for row in rows])
    with running_backend(studio, kind, PRELABEL_DETECTOR=detector) as backend:
        connection = user.connect_backend(project, backend.url, is_interactive=True)
        backend.wait_for_round(project)
        backend.stop()
        backend.start()
        backend.wait_for_round(project)
        time.sleep(20)  # as long as an annotator takes to open the first task
        tasks = {Path(task["data"]["image"]).name: task["id"] for task in user.list_tasks(project)}
        return [
            time_suggestion(user, connection, task, drawn_region(row, kind))
            for row in rows
            for name, task in tasks.items()
            if name.endswith(row["file"])
        ]


def make_tool_config(rows: list[Json], kind: str) -> str:
    labels = sorted({box["label"] for row in rows for box in row["boxes"]})
    tag = "RectangleLabels" if kind == "rectangle" else "KeyPointLabels"
    label_tags = "".join(f'<Label value="{label}"/>' for label in labels)
    return (
        f'<View><Image name="image" value="$image"/><{tag} name="c" toName="image" smart="true">'
        f"{label_tags}</{tag}></View>"
    )


def drawn_region(row: Json, kind: str) -> Json:
    """Return the largest object as the labeling screen sends it, in percent of the image."""
    box = max(row["boxes"], key=lambda box: box["w"] * box["h"])
    x, y = 100 * box["x"] / row["width"], 100 * box["y"] / row["height"]
    width_percent, height_percent = 100 * box["w"] / row["width"], 100 * box["h"] / row["height"]
    if kind == "keypoint":
        geometry = {"x": x + width_percent / 2, "y": y + height_percent / 2, "width": 0.5}
    else:
        geometry = {"x": x, "y": y, "width": width_percent, "height": height_percent, "rotation": 0}
    return {
        "id": "drawn",
        "type": f"{kind}labels",
        "from_name": "c",
        "to_name": "image",
        "original_width": row["width"],
        "original_height": row["height"],
        "value": {**geometry, f"{kind}labels": [box["label"]]},
    }


def time_suggestion(user: LabelStudioUser, connection: Json, task: int, region: Json) -> float:
    body = {"task": task, "context": {"result": [region]}}
    start = time.monotonic()
    answer = user.request("POST", f"/api/ml/{connection['id']}/interactive-annotating", json=body)
    assert "result" in answer["data"], answer
    return 1000 * (time.monotonic() - start)


if __name__ == "__main__":
    main()
