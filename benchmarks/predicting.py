"""How fast ``/predict`` answers for boxes, beside ``YOLO.predict`` image by image; and memory.

    uv run python -m benchmarks.predicting FOLDER --weights yolo26n.pt

FOLDER holds ``images/`` of about 640 pixels. A real Label Studio serves the images to both. The
rival is what backends for YOLO usually do: fetch an image, open it, ``model.predict`` in torch,
make the regions. It has one process to itself, as ours has, and was warmed up.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from pathlib import Path
from typing import Any

import psutil

from backend.demo.annotator import Annotator
from backend.demo.studio import Studio
from benchmarks.stage import running_backend, running_studio
from tests.harness import Backend, Json, Lab

TASKS = 100
LABELS = "person car bicycle dog cat chair bottle cup book bus".split()
CONFIG = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="box" toName="image">'
    + "".join(f'<Label value="{label}"/>' for label in LABELS)
    + "</RectangleLabels></View>"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--predictions", type=int, default=1000, help="for the memory")
    options = parser.parse_args()
    files = sorted((options.folder / "images").iterdir())[:TASKS]
    weights = str(options.weights.resolve())
    with (
        running_studio() as (studio, folder),
        running_backend(studio, folder / "home", PRELABEL_DETECTOR=weights) as backend,
    ):
        measure(studio, backend, files, options)


def measure(studio: Studio, backend: Backend, files: list[Path], options: Any) -> None:
    annotator, lab = Annotator(studio.url, studio.token), Lab(studio.url, studio.token)
    project = annotator.create("predicting", CONFIG)
    annotator.upload(project, files)
    tasks = [{"id": t["id"], "data": t["data"]} for t in lab.tasks(project)]
    context = multiprocessing.get_context("spawn")
    arguments = (str(options.weights), studio.url, studio.token, tasks)
    with context.Pool(1) as pool:
        theirs = pool.apply(rival, arguments)
        annotator.connect(project, backend.url)
        backend.settled(project)
        first = seconds(backend, project, tasks)
        ours = [seconds(backend, project, tasks) for _ in range(3)]
        theirs = [*theirs[:1], *pool.apply(rival, arguments)]
    print(f"{'/predict for ' + str(len(tasks)) + ' tasks':<44}{'seconds':>8}{'images/s':>10}")
    for name, value in (
        ("YOLO.predict image by image, best of two", min(theirs)),
        ("ours, first call of a new process", first),
        ("ours, best of three", min(ours)),
    ):
        print(f"{name:<44}{value:>8.2f}{len(tasks) / value:>10.1f}")
    print(f"ratio {min(theirs) / min(ours):.2f}")
    memory(backend, project, tasks, options.predictions)
    annotator.close()
    lab.close()


def seconds(backend: Backend, project: int, tasks: list[Json]) -> float:
    start = time.monotonic()
    body = {"tasks": tasks, "project": str(project), "label_config": CONFIG}
    results = backend.http.post("/predict", json=body).json()["results"]
    assert sum(len(r["result"]) for r in results) > len(tasks)
    return time.monotonic() - start


def memory(backend: Backend, project: int, tasks: list[Json], count: int) -> None:
    print(f"\n{'predictions':>11}{'MB':>8}")
    done = 0
    while done < count:
        seconds(backend, project, tasks)
        done += len(tasks)
        if done % (2 * len(tasks)) == 0:
            family = [psutil.Process(backend.pid), *psutil.Process(backend.pid).children(True)]
            whole = sum(process.memory_info().rss for process in family) / 1e6
            print(f"{done:>11}{whole:>8.0f}", flush=True)


def rival(weights: str, url: str, token: str, tasks: list[Json]) -> list[float]:
    """A backend as they are usually written; seconds of its first and second turn."""
    import io

    import httpx
    import numpy as np
    from PIL import Image

    from backend.vision.ultralytics_models import quiet_ultralytics

    model = quiet_ultralytics().YOLO(weights)
    model.predict(np.zeros((640, 640, 3), dtype=np.uint8), verbose=False)
    times = []
    with httpx.Client(base_url=url, headers={"Authorization": f"Token {token}"}) as http:
        for _ in range(2):
            start = time.monotonic()
            for task in tasks:
                image = Image.open(io.BytesIO(http.get(task["data"]["image"]).content))
                (found,) = model.predict(image.convert("RGB"), verbose=False)
                [
                    {"x": 100 * x0, "y": 100 * y0, "width": 100 * (x1 - x0), "score": score}
                    for (x0, y0, x1, _), score in zip(
                        found.boxes.xyxyn.tolist(), found.boxes.conf.tolist(), strict=True
                    )
                ]
            times.append(time.monotonic() - start)
    return times


if __name__ == "__main__":
    main()
