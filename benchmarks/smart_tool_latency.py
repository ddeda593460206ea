"""How long a smart tool waits for its suggestions, through a real Label Studio.

    uv run python -m benchmarks.smart_tool_latency FOLDER --weights yolo26n.pt

FOLDER as in ``benchmarks.detection``, of about 640 pixels. One true object an image is "drawn".
The first answer is that of a server that has just started and has answered nothing yet.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.servers import running_backend, running_studio
from demo.annotator import Annotator
from demo.label_studio import Studio
from tests.support.harness import Json, Lab

TASKS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", default="builtin")
    options = parser.parse_args()
    rows = json.loads((options.folder / "annotations.json").read_text())["images"]
    rows = [row for row in rows if row["boxes"]][:TASKS]
    with running_studio() as (studio, folder):
        print(f"{'smart tool':<12}{'first':>8}{'median':>8}{'p95':>8}{'most':>8}  ms")
        for kind in ("rectangle", "keypoint"):
            waits = measured(studio, folder / kind, options, rows, kind)
            first, others = waits[0], np.array(waits[1:])
            usual = (np.median(others), np.quantile(others, 0.95), others.max())
            print(f"{kind:<12}{first:>8.0f}" + "".join(f"{ms:>8.0f}" for ms in usual))


def measured(studio: Studio, home: Path, options: Any, rows: list[Json], kind: str) -> list[float]:
    """Milliseconds by call."""
    weights = options.weights
    detector = weights if weights == "builtin" else str(Path(weights).resolve())
    annotator, lab = Annotator(studio.url, studio.token), Lab(studio.url, studio.token)
    project = annotator.create(kind, config(rows, kind))
    annotator.upload(project, [options.folder / "images" / row["file"] for row in rows])
    with running_backend(studio, home, PRELABEL_DETECTOR=detector) as backend:
        connection = lab.connect(project, backend.url, is_interactive=True)
        backend.settled(project)
        backend.stop()
        backend.start()
        backend.settled(project)
        time.sleep(20)  # an annotator opens the first task
        tasks = {Path(task["data"]["image"]).name: task["id"] for task in lab.tasks(project)}
        return [
            waited(lab, connection, task, drawn(row, kind))
            for row in rows
            for name, task in tasks.items()
            if name.endswith(row["file"])
        ]


def config(rows: list[Json], kind: str) -> str:
    labels = sorted({box["label"] for row in rows for box in row["boxes"]})
    tag = "RectangleLabels" if kind == "rectangle" else "KeyPointLabels"
    inner = "".join(f'<Label value="{label}"/>' for label in labels)
    return (
        f'<View><Image name="image" value="$image"/><{tag} name="c" toName="image" smart="true">'
        f"{inner}</{tag}></View>"
    )


def drawn(row: Json, kind: str) -> Json:
    """A region as the labeling screen sends it: percent of the image."""
    box = max(row["boxes"], key=lambda box: box["w"] * box["h"])
    x, y = 100 * box["x"] / row["width"], 100 * box["y"] / row["height"]
    wide, high = 100 * box["w"] / row["width"], 100 * box["h"] / row["height"]
    if kind == "keypoint":
        place = {"x": x + wide / 2, "y": y + high / 2, "width": 0.5}
    else:
        place = {"x": x, "y": y, "width": wide, "height": high, "rotation": 0}
    return {
        "id": "drawn",
        "type": f"{kind}labels",
        "from_name": "c",
        "to_name": "image",
        "original_width": row["width"],
        "original_height": row["height"],
        "value": {**place, f"{kind}labels": [box["label"]]},
    }


def waited(lab: Lab, connection: Json, task: int, region: Json) -> float:
    body = {"task": task, "context": {"result": [region]}}
    start = time.monotonic()
    answer = lab.call("POST", f"/api/ml/{connection['id']}/interactive-annotating", json=body)
    assert "result" in answer["data"], answer
    return 1000 * (time.monotonic() - start)


if __name__ == "__main__":
    main()
