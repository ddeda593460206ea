"""Memory and seconds of ten rounds of boxes, from nothing, on a real Label Studio.

uv run python -m benchmarks.rounds
"""

from __future__ import annotations

import time

import psutil

from benchmarks.stage import running_backend, running_studio
from tests.contract.test_places import BOXES, box
from tests.drawn import drawing
from tests.harness import Backend, Lab, data_uri

ROUNDS, EACH = 10, 4


def main() -> None:
    with (
        running_studio() as (studio, folder),
        running_backend(
            studio,
            folder / "home",
            PRELABEL_DETECTOR="builtin",
            PRELABEL_DETECTOR_SIZE="160",
            PRELABEL_RETRAIN_AFTER="1000",
        ) as backend,
    ):
        play(Lab(studio.url, studio.token), backend)


def play(lab: Lab, backend: Backend) -> None:
    project = lab.project(BOXES, title="ten rounds")
    drawings = [drawing(number) for number in range(ROUNDS * EACH + 60)]
    tasks = lab.add_raw(project, [data_uri(d.png()) for d in drawings])
    lab.connect(project, backend.url)
    version = backend.settled(project)["version"]
    print(f"{'round':>5}{'labels':>8}{'seconds':>9}{'MB':>7}")
    for turn in range(ROUNDS):
        part = range(turn * EACH, (turn + 1) * EACH)
        for number in part:
            result = [box(thing) for thing in drawings[number].things]
            body = {"result": result, "lead_time": 1.0}
            lab.call("POST", f"/api/tasks/{tasks[number]}/annotations/", json=body)
        start = time.monotonic()
        version = backend.learn(project, part.stop, version)["version"]
        seconds = time.monotonic() - start
        family = [psutil.Process(backend.pid), *psutil.Process(backend.pid).children(True)]
        whole = sum(process.memory_info().rss for process in family) / 1e6
        print(f"{turn + 1:>5}{part.stop:>8}{seconds:>9.1f}{whole:>7.0f}", flush=True)


if __name__ == "__main__":
    main()
