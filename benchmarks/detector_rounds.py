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
from tests.contract.test_places import BOXES, box
from tests.support.drawings import drawing
from tests.support.harness import Backend, Lab, data_uri

ROUNDS, EACH = 10, 4


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
        play(Lab(studio.url, studio.token), backend, options.size)


def play(lab: Lab, backend: Backend, size: int) -> None:
    project = lab.project(BOXES, title="ten rounds")
    share = size / 160
    shape, radius = (size, size * 3 // 4), (7 * share, 13 * share)
    pictures = ROUNDS * EACH + 60
    drawings = [drawing(number, shape, radius=radius) for number in range(pictures)]
    tasks = lab.add_raw(project, [data_uri(d.png()) for d in drawings])
    lab.connect(project, backend.url)
    version = backend.settled(project)["version"]
    print(f"{'round':>5}{'labels':>8}{'seconds':>9}{'MB':>7}{'most MB':>9}")
    for turn in range(ROUNDS):
        part = range(turn * EACH, (turn + 1) * EACH)
        for number in part:
            result = [box(thing) for thing in drawings[number].things]
            body = {"result": result, "lead_time": 1.0}
            lab.call("POST", f"/api/tasks/{tasks[number]}/annotations/", json=body)
        start = time.monotonic()
        version = backend.learn(project, part.stop, version)["version"]
        seconds = time.monotonic() - start
        now, most = memory(backend)
        print(f"{turn + 1:>5}{part.stop:>8}{seconds:>9.1f}{now:>7.0f}{most:>9.0f}", flush=True)


def memory(backend: Backend) -> tuple[float, float]:
    """MB of the server and its processes: now, and at most so far where Linux tells it."""
    family = [psutil.Process(backend.pid), *psutil.Process(backend.pid).children(True)]
    now = sum(process.memory_info().rss for process in family)
    most = sum(_most(process.pid) for process in family)
    return now / 1e6, most / 1e6


def _most(pid: int) -> int:
    """The most bytes a process ever had; 0 where nothing tells it."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    kilobytes = next(line.split()[1] for line in text.splitlines() if line.startswith("VmHWM:"))
    return int(kilobytes) * 1024


if __name__ == "__main__":
    main()
