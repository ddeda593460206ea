"""Memory and seconds of ten rounds of boxes on a real Label Studio.

    uv run python -m benchmarks.detector_rounds
    uv run python -m benchmarks.detector_rounds --weights yolo26n.pt --size 640

Without weights a small network learns from nothing, in pictures of 160 pixels; with them, what
people get by default: pretrained weights are fine-tuned at their own size.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import psutil

from benchmarks.servers import running_backend, running_studio
from tests.support.detection_projects import BOXES_CONFIG, make_box_region
from tests.support.drawings import make_drawing
from tests.support.harness import BackendServer, LabelStudioUser, make_data_uri

ROUND_COUNT, LABELS_PER_ROUND = 10, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="builtin", help="PRELABEL_DETECTOR")
    parser.add_argument("--size", type=int, default=160, help="pixels of pictures and of the input")
    parser.add_argument("--seconds", type=float, default=120, help="that a round may train")
    options = parser.parse_args()
    with (
        running_studio() as (studio, folder),
        running_backend(
            studio,
            folder / "home",
            PRELABEL_DETECTOR=options.weights,
            PRELABEL_DETECTOR_SIZE=str(options.size),
            PRELABEL_TRAIN_SECONDS=str(options.seconds),
            PRELABEL_RETRAIN_AFTER="1000",
        ) as backend,
    ):
        run_detector_rounds(LabelStudioUser(studio.url, studio.token), backend, options.size)


def run_detector_rounds(user: LabelStudioUser, backend: BackendServer, size: int) -> None:
    project = user.create_project(BOXES_CONFIG, title="ten rounds")
    scale = size / 160
    shape, radius = (size, size * 3 // 4), (7 * scale, 13 * scale)
    image_count = ROUND_COUNT * LABELS_PER_ROUND + 60
    drawings = [make_drawing(number, shape, radius=radius) for number in range(image_count)]
    tasks = user.import_images(project, [make_data_uri(d.to_png()) for d in drawings])
    user.connect_backend(project, backend.url)
    version = backend.wait_for_round(project)["version"]
    print(f"{'round':>5}{'labels':>8}{'seconds':>9}{'MB':>7}{'most MB':>9}")
    for round_index in range(ROUND_COUNT):
        labeled_numbers = range(
            round_index * LABELS_PER_ROUND, (round_index + 1) * LABELS_PER_ROUND
        )
        for number in labeled_numbers:
            result = [make_box_region(drawn_object) for drawn_object in drawings[number].objects]
            body = {"result": result, "lead_time": 1.0}
            user.request("POST", f"/api/tasks/{tasks[number]}/annotations/", json=body)
        start = time.monotonic()
        version = backend.train_and_wait(project, labeled_numbers.stop, version)["version"]
        seconds = time.monotonic() - start
        current, peak = process_memory(backend)
        print(
            f"{round_index + 1:>5}{labeled_numbers.stop:>8}{seconds:>9.1f}{current:>7.0f}{peak:>9.0f}",
            flush=True,
        )


def process_memory(backend: BackendServer) -> tuple[float, float]:
    """MB of the server and its processes: now, and at most so far where Linux tells it."""
    processes = [psutil.Process(backend.pid), *psutil.Process(backend.pid).children(True)]
    current = sum(process.memory_info().rss for process in processes)
    peak = sum(_peak_bytes(process.pid) for process in processes)
    return current / 1e6, peak / 1e6


def _peak_bytes(pid: int) -> int:
    """The most bytes a process ever had; 0 where nothing tells it."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    kilobytes = next(line.split()[1] for line in text.splitlines() if line.startswith("VmHWM:"))
    return int(kilobytes) * 1024


if __name__ == "__main__":
    main()
