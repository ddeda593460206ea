"""How fast ``/predict`` answers for boxes, beside ``YOLO.predict`` image by image; and memory.

    uv run python -m benchmarks.predict_speed FOLDER --weights yolo26n.pt

FOLDER holds ``images/`` of about 640 pixels, twice as many as are asked for at once. A real Label
Studio serves the images to both. The rival is what backends for YOLO usually do: fetch an image,
open it, ``model.predict`` in torch, make the regions. It has one process to itself, as ours has,
and was warmed up. Two rows compare like with like: images that both see for the first time,
which both fetch and decode; and images that both hold on disk, ours since it pushed predictions of
them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.servers import running_backend, running_studio
from demo.annotator import Annotator
from demo.label_studio import Studio
from tests.support.harness import Backend, Json, Lab

TASKS = 100
"""That are asked for at once, where there are so many images."""
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
    files = sorted((options.folder / "images").iterdir())[: 2 * TASKS]
    weights = str(options.weights.resolve())
    with (
        running_studio() as (studio, folder),
        running_backend(studio, folder / "home", PRELABEL_DETECTOR=weights) as backend,
    ):
        measure(studio, backend, files, options)


def measure(studio: Studio, backend: Backend, files: list[Path], options: Any) -> None:
    annotator, lab = Annotator(studio.url, studio.token), Lab(studio.url, studio.token)
    known, unknown = files[: len(files) // 2], files[len(files) // 2 :]
    project = annotator.create("predicting", CONFIG)
    annotator.upload(project, known)
    annotator.connect(project, backend.url)
    backend.settled(project)
    held = asked(lab, project)
    beside = annotator.create("never pushed", CONFIG)  # not connected: its images are new to ours
    annotator.upload(beside, unknown)
    new = asked(lab, beside)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        fetched = pool.apply(rival, (str(options.weights), studio.url, studio.token, new))
        opened = pool.apply(rival_on_disk, (str(options.weights), known))
    seconds(backend, project, held)  # both are warmed up
    ours_new = seconds(backend, project, new)
    ours_held = min(seconds(backend, project, held) for _ in range(3))
    print(f"{'/predict, images a second':<44}{'rival':>8}{'ours':>8}{'ratio':>8}")
    for name, count, theirs, ours in (
        ("images seen for the first time", len(new), fetched[0], ours_new),
        ("images held on disk, best turn", len(held), min(opened), ours_held),
    ):
        row = f"{count / theirs:>8.1f}{count / ours:>8.1f}{theirs / ours:>8.2f}"
        print(f"{name:<44}{row}")
    memory(backend, project, held, options.predictions)
    annotator.close()
    lab.close()


def asked(lab: Lab, project: int) -> list[Json]:
    """Tasks as Label Studio sends them."""
    return [{"id": task["id"], "data": task["data"]} for task in lab.tasks(project)]


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
    """A backend as they are usually written; seconds of one turn over images on Label Studio."""
    import io

    import httpx
    from PIL import Image

    model = _warm(weights)
    with httpx.Client(base_url=url, headers={"Authorization": f"Token {token}"}) as http:
        start = time.monotonic()
        for task in tasks:
            content = http.get(task["data"]["image"]).raise_for_status().content
            _regions(model, Image.open(io.BytesIO(content)).convert("RGB"))
        return [time.monotonic() - start]


def rival_on_disk(weights: str, files: list[Path]) -> list[float]:
    """The same with images that were fetched before; seconds of each of three turns."""
    from PIL import Image

    model = _warm(weights)
    times = []
    for _ in range(3):
        start = time.monotonic()
        for file in files:
            _regions(model, Image.open(file).convert("RGB"))
        times.append(time.monotonic() - start)
    return times


def _warm(weights: str) -> Any:
    import numpy as np

    from backend.vision.ultralytics_models import quiet_ultralytics

    model = quiet_ultralytics().YOLO(weights)
    model.predict(np.zeros((640, 640, 3), dtype=np.uint8), verbose=False)
    return model


def _regions(model: Any, image: Any) -> list[Json]:
    (found,) = model.predict(image, verbose=False)
    pairs = zip(found.boxes.xyxyn.tolist(), found.boxes.conf.tolist(), strict=True)
    return [
        {"x": 100 * x0, "y": 100 * y0, "width": 100 * (x1 - x0), "score": score}
        for (x0, y0, x1, _), score in pairs
    ]


if __name__ == "__main__":
    main()
