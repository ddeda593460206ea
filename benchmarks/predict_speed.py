"""Measure the throughput of /predict for boxes, and the backend's memory.

    uv run python -m benchmarks.predict_speed FOLDER --weights yolo26n.pt

FOLDER holds ``images/`` of about 640 pixels: 200, or fewer in smaller batches. A real Label Studio
serves the images. The baseline is what YOLO backends usually do for each image: download it, open
it, call ``model.predict`` in torch, build the regions. It is warmed up and has a process to itself,
as the backend has. Two rows compare like with like: images that both download and decode for the
first time, and images that both have on disk (the backend has pushed predictions for them).
Goal: faster than the baseline in both rows, and constant memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from pathlib import Path
from typing import Any

from benchmarks.servers import RunningStudio, backend_processes, running_loop
from tests.support.harness import BackendServer, Json, LabelStudioUser

BATCH_TASK_COUNT = 100
"""Maximum number of tasks per request."""
OBJECT_LABELS = "person car bicycle dog cat chair bottle cup book bus".split()
LABEL_CONFIG = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="box" toName="image">'
    + "".join(f'<Label value="{label}"/>' for label in OBJECT_LABELS)
    + "</RectangleLabels></View>"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument(
        "--predictions", type=int, default=1000, help="predictions of the memory measurement"
    )
    options = parser.parse_args()
    files = sorted((options.folder / "images").iterdir())[: 2 * BATCH_TASK_COUNT]
    weights = str(options.weights.resolve())
    with running_loop(PRELABEL_DETECTOR=weights) as (studio, backend):
        measure_throughput(studio, backend, files, options)


def measure_throughput(
    studio: RunningStudio, backend: BackendServer, files: list[Path], options: Any
) -> None:
    annotator, user, server = studio.annotator, studio.user, studio.server
    pushed_files, new_files = files[: len(files) // 2], files[len(files) // 2 :]
    project = annotator.create_project("predicting", LABEL_CONFIG)
    annotator.upload_images(project, pushed_files)
    annotator.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    pushed_tasks = task_payloads(user, project)
    # Not connected to the backend, which therefore has never downloaded its images.
    second_project = annotator.create_project("never pushed", LABEL_CONFIG)
    annotator.upload_images(second_project, new_files)
    new_tasks = task_payloads(user, second_project)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        arguments = (str(options.weights), server.url, server.token, new_tasks)
        baseline_fetched = pool.apply(time_baseline, arguments)
        baseline_on_disk = pool.apply(time_baseline_on_disk, (str(options.weights), pushed_files))
    time_predict(backend, project, pushed_tasks)  # warm up
    ours_new = time_predict(backend, project, new_tasks)
    ours_on_disk = min(time_predict(backend, project, pushed_tasks) for _ in range(3))
    print(f"{'/predict, images a second':<44}{'baseline':>9}{'ours':>8}{'ratio':>8}")
    for name, count, baseline_seconds, our_seconds in (
        ("images downloaded for the first time", len(new_tasks), baseline_fetched, ours_new),
        ("images on disk, best of three", len(pushed_tasks), min(baseline_on_disk), ours_on_disk),
    ):
        speeds = f"{count / baseline_seconds:>9.1f}{count / our_seconds:>8.1f}"
        print(f"{name:<44}{speeds}{baseline_seconds / our_seconds:>8.2f}")
    print_memory(backend, project, pushed_tasks, options.predictions)


def task_payloads(user: LabelStudioUser, project: int) -> list[Json]:
    """Return the tasks as Label Studio sends them to /predict."""
    return [{"id": task["id"], "data": task["data"]} for task in user.list_tasks(project)]


def time_predict(backend: BackendServer, project: int, tasks: list[Json]) -> float:
    start = time.monotonic()
    body = {"tasks": tasks, "project": str(project), "label_config": LABEL_CONFIG}
    results = backend.http.post("/predict", json=body).json()["results"]
    assert sum(len(r["result"]) for r in results) > len(tasks)
    return time.monotonic() - start


def print_memory(backend: BackendServer, project: int, tasks: list[Json], count: int) -> None:
    print(f"\n{'predictions':>11}{'MB':>8}")
    prediction_count = 0
    while prediction_count < count:
        time_predict(backend, project, tasks)
        prediction_count += len(tasks)
        if prediction_count % (2 * len(tasks)) == 0:
            rss = sum(process.memory_info().rss for process in backend_processes(backend))
            print(f"{prediction_count:>11}{rss / 1e6:>8.0f}", flush=True)


def time_baseline(weights: str, url: str, token: str, tasks: list[Json]) -> float:
    """Return the seconds of a usual backend for images that Label Studio serves."""
    import io

    import httpx
    from PIL import Image

    model = _load_warm_model(weights)
    with httpx.Client(base_url=url, headers={"Authorization": f"Token {token}"}) as http:
        start = time.monotonic()
        for task in tasks:
            content = http.get(task["data"]["image"]).raise_for_status().content
            _predict_regions(model, Image.open(io.BytesIO(content)).convert("RGB"))
        return time.monotonic() - start


def time_baseline_on_disk(weights: str, files: list[Path]) -> list[float]:
    """Return the seconds of a usual backend for images on disk, three times."""
    from PIL import Image

    model = _load_warm_model(weights)
    times = []
    for _ in range(3):
        start = time.monotonic()
        for file in files:
            _predict_regions(model, Image.open(file).convert("RGB"))
        times.append(time.monotonic() - start)
    return times


def _load_warm_model(weights: str) -> Any:
    import numpy as np

    from backend.vision.ultralytics_models import import_ultralytics

    model = import_ultralytics().YOLO(weights)
    model.predict(np.zeros((640, 640, 3), dtype=np.uint8), verbose=False)
    return model


def _predict_regions(model: Any, image: Any) -> list[Json]:
    (result,) = model.predict(image, verbose=False)
    pairs = zip(result.boxes.xyxyn.tolist(), result.boxes.conf.tolist(), strict=True)
    return [
        {"x": 100 * x0, "y": 100 * y0, "width": 100 * (x1 - x0), "score": score}
        for (x0, y0, x1, _), score in pairs
    ]


if __name__ == "__main__":
    main()
