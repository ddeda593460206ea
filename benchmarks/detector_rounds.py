"""Measure time and memory of ten detector rounds with a real Label Studio.

    uv run python -m benchmarks.detector_rounds
    uv run python -m benchmarks.detector_rounds --weights yolo26n.pt --size 640

By default a small network is trained from scratch on images of 160 pixels. With weights, they are
fine-tuned at their own size, as the product does by default. Goal: memory stops growing after the
first rounds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.servers import backend_processes, running_loop
from tests.support.detection_projects import make_box_region
from tests.support.drawings import make_drawing
from tests.support.harness import BackendServer, LabelStudioUser, make_data_uri

ROUND_COUNT, LABELS_PER_ROUND = 10, 4
LABEL_CONFIG = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="box" toName="image">'
    '<Label value="disc"/><Label value="square"/></RectangleLabels></View>'
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="builtin", help="PRELABEL_DETECTOR")
    parser.add_argument(
        "--size", type=int, default=160, help="pixels of the images and of the network's input"
    )
    parser.add_argument("--seconds", type=float, default=120, help="time limit of one training")
    options = parser.parse_args()
    with running_loop(
        PRELABEL_DETECTOR=options.weights,
        PRELABEL_DETECTOR_SIZE=str(options.size),
        PRELABEL_TRAIN_SECONDS=str(options.seconds),
        PRELABEL_RETRAIN_AFTER="1000",
    ) as (studio, backend):
        run_detector_rounds(studio.user, backend, options.size)


def run_detector_rounds(user: LabelStudioUser, backend: BackendServer, size: int) -> None:
    project = user.create_project(LABEL_CONFIG, title="ten rounds")
    scale = size / 160
    shape, radius = (size, size * 3 // 4), (7 * scale, 13 * scale)
    image_count = ROUND_COUNT * LABELS_PER_ROUND + 60
    drawings = [make_drawing(number, shape, radius=radius) for number in range(image_count)]
    tasks = user.import_images(project, [make_data_uri(d.to_png()) for d in drawings])
    user.connect_backend(project, backend.url)
    version = backend.wait_for_round(project)["version"]
    print(f"{'round':>5}{'labels':>8}{'seconds':>9}{'MB':>7}{'peak MB':>9}")
    for round_index in range(ROUND_COUNT):
        labeled = (round_index + 1) * LABELS_PER_ROUND
        for number in range(labeled - LABELS_PER_ROUND, labeled):
            result = [make_box_region(drawn_object) for drawn_object in drawings[number].objects]
            body = {"result": result, "lead_time": 1.0}
            user.request("POST", f"/api/tasks/{tasks[number]}/annotations/", json=body)
        start = time.monotonic()
        version = backend.train_and_wait(project, labeled, version)["version"]
        seconds = time.monotonic() - start
        current, peak = process_memory(backend)
        columns = f"{round_index + 1:>5}{labeled:>8}{seconds:>9.1f}{current:>7.0f}{peak:>9.0f}"
        print(columns, flush=True)


def process_memory(backend: BackendServer) -> tuple[float, float]:
    """Return present and peak memory in MB of the backend's processes; peak is 0 off Linux."""
    processes = backend_processes(backend)
    current = sum(process.memory_info().rss for process in processes)
    peak = sum(_peak_bytes(process.pid) for process in processes)
    return current / 1e6, peak / 1e6


def _peak_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    kilobytes = next(line.split()[1] for line in text.splitlines() if line.startswith("VmHWM:"))
    return int(kilobytes) * 1024


if __name__ == "__main__":
    main()
