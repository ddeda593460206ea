"""Measure response times during rounds, the duration of a round, and memory.

    uv run python -m benchmarks.server_latency

A real Label Studio holds 1,000 tasks of 48 × 48 pixels, half of them labeled; the encoder is the
builtin one. Goals: /health after 1.5 s, a round in 4 s, each endpoint below 50 ms (p99) while
rounds run and 100 webhooks arrive per second, a head trained in 0.2 s (1,000 images) and 1.5 s
(10,000).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import httpx
import numpy as np

from benchmarks.servers import backend_processes, running_loop
from tests.support.harness import (
    CHOICES_CONFIG,
    BackendServer,
    LabelStudioUser,
    make_data_uri,
    make_png,
    wait_until,
)

TASK_COUNT = 1000
LOAD_SECONDS = 8.0
WEBHOOKS_PER_SECOND = 100
ResultRows = list[tuple[str, str, str]]
"""Measurement, result and goal."""


def main() -> None:
    rows: ResultRows = []
    with running_loop() as (studio, backend):
        rows += measure_startup(backend)
        project = prepare_project(studio.user, backend)
        rows += measure_rounds(studio.user, backend, project)
        rows += measure_latency(backend, project)
        rows += measure_memory(backend)
    rows += measure_head_training()
    for measurement, figure, goal in rows:
        print(f"{measurement:<58} {figure:>26}   {goal}")


def measure_startup(backend: BackendServer) -> ResultRows:
    """Measure the start of the server, median of five."""
    startup_seconds = []
    for _ in range(5):
        backend.stop()
        start = time.monotonic()
        backend.start()
        startup_seconds.append(time.monotonic() - start)
    return [("start to first /health", f"{np.median(startup_seconds):.2f} s", "goal < 1.5 s")]


def prepare_project(user: LabelStudioUser, backend: BackendServer) -> int:
    """Create a project with half of its tasks labeled, and wait for the first round."""
    project = user.create_project(CHOICES_CONFIG.format(choice="single"), "a thousand tasks")
    rows = []
    for number in range(TASK_COUNT):
        colour = "red" if number % 2 else "blue"
        row: dict[str, object] = {"data": {"image": make_data_uri(make_png(colour, number))}}
        if number < TASK_COUNT // 2:
            row["annotations"] = [{"result": [user.make_choice_region([colour])]}]
        rows.append(row)
    user.request("POST", f"/api/projects/{project}/import", json=rows)
    user.connect_backend(project, backend.url)
    wait_until("the first round", lambda: is_settled(backend, project), 300)
    return project


def is_settled(backend: BackendServer, project: int) -> bool:
    state = backend.project(project)
    return bool(state and state["version"] and state["round"]["state"] == "idle")


def measure_rounds(user: LabelStudioUser, backend: BackendServer, project: int) -> ResultRows:
    """Measure five rounds from Start Training to the last pushed prediction."""
    event = {"action": "START_TRAINING", "project": {"id": project}}
    open_tasks = [t["id"] for t in user.list_tasks(project) if not t["is_labeled"]]
    round_seconds: list[float] = []
    step_seconds: list[dict[str, float]] = []
    for task in open_tasks[:5]:
        user.submit_annotation(task, "red")
        previous_version = backend.project(project)["version"]
        start = time.monotonic()
        backend.http.post("/webhook", json=event)

        def pushed(old_version: str = previous_version) -> bool:
            return (
                is_settled(backend, project) and backend.project(project)["version"] != old_version
            )

        wait_until("a round", pushed, 120)
        round_seconds.append(time.monotonic() - start)
        step_seconds.append(read_step_seconds(backend, project))
    steps = {name: np.median([s.get(name, 0) for s in step_seconds]) for name in step_seconds[0]}
    steps_text = ", ".join(f"{name} {value:.2f}" for name, value in steps.items())
    return [
        (
            f"Start Training to last push, {TASK_COUNT} tasks, {len(open_tasks)} open",
            f"{np.median(round_seconds):.2f} s",
            "goal < 4 s",
        ),
        ("  its steps (observe and push are Label Studio's)", steps_text, ""),
    ]


def read_step_seconds(backend: BackendServer, project: int) -> dict[str, float]:
    import json

    file = backend.home / "projects" / str(project) / "summary.json"
    seconds: dict[str, float] = json.loads(file.read_text())["seconds"]
    return seconds


def measure_latency(backend: BackendServer, project: int) -> ResultRows:
    """Measure response times while rounds run one after the other and webhooks arrive."""
    stop = threading.Event()
    training = threading.Thread(target=keep_training, args=(backend, project, stop))
    training.start()
    latencies = asyncio.run(call_steadily(backend.url, project))
    stop.set()
    training.join()
    return [
        (
            f"{path} during a round: p50 / p99 ({len(values)} calls)",
            f"{np.percentile(values, 50):.1f} / {np.percentile(values, 99):.1f} ms",
            "goal p99 < 50 ms",
        )
        for path, values in latencies.items()
    ]


def keep_training(backend: BackendServer, project: int, stop: threading.Event) -> None:
    event = {"action": "START_TRAINING", "project": {"id": project}}
    with httpx.Client(base_url=backend.url, trust_env=False) as client:
        while not stop.is_set():
            client.post("/webhook", json=event)
            time.sleep(0.5)


async def call_steadily(url: str, project: int) -> dict[str, list[float]]:
    """Request each path at its rate; return the milliseconds of each request."""
    setup = {"project": f"{project}.0", "schema": "<View/>", "hostname": "", "access_token": ""}
    event = {"action": "ANNOTATION_CREATED", "project": {"id": project}, "annotation": {"id": 1}}
    calls: dict[str, tuple[float, Callable[[httpx.AsyncClient], object]]] = {
        "/health": (20, lambda c: c.get("/health")),
        "/versions": (20, lambda c: c.get("/versions")),
        "/setup": (20, lambda c: c.post("/setup", json=setup)),
        "/webhook": (WEBHOOKS_PER_SECOND, lambda c: c.post("/webhook", json=event)),
    }
    latencies_by_path: dict[str, list[float]] = {path: [] for path in calls}
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=url, trust_env=False, limits=limits) as client:

        async def call_once(path: str) -> None:
            start = time.perf_counter()
            answer = await calls[path][1](client)  # type: ignore[misc]
            latencies_by_path[path].append((time.perf_counter() - start) * 1000)
            assert answer.status_code == 200, answer.text

        async def steadily(path: str, rate: float) -> None:
            pending_calls = []
            for _ in range(int(rate * LOAD_SECONDS)):
                pending_calls.append(asyncio.create_task(call_once(path)))
                await asyncio.sleep(1 / rate)
            await asyncio.gather(*pending_calls)

        await asyncio.gather(*(steadily(path, rate) for path, (rate, _) in calls.items()))
    return latencies_by_path


def measure_memory(backend: BackendServer) -> ResultRows:
    """Measure the resident memory of the server and its worker processes, after the rounds."""
    server, *workers = (process.memory_info().rss / 1e6 for process in backend_processes(backend))
    memory_text = f"{server:.0f} MB + {sum(workers):.0f} MB"
    return [(f"memory: server + {len(workers)} worker processes", memory_text, "")]


def measure_head_training() -> ResultRows:
    """Measure the training of a head on existing embeddings, median of five."""
    from backend.vision.heads.head import fit_head

    rows: ResultRows = []
    for n, goal in ((1_000, "goal < 0.2 s"), (10_000, "goal < 1.5 s")):
        rng = np.random.default_rng(0)
        classes = rng.integers(0, 10, n)
        centres = rng.normal(size=(10, 512))
        vectors = centres[classes] + 4 * rng.normal(size=(n, 512))
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        targets = np.eye(10, dtype=np.float32)[classes]
        labels = tuple(f"label {k}" for k in range(10))
        fit_head(vectors[:100], targets[:100], labels=labels, multiple=False)  # warm up
        fit_seconds = []
        for seed in range(5):
            start = time.perf_counter()
            fit_head(vectors, targets, labels=labels, multiple=False, pool=vectors, seed=seed)
            fit_seconds.append(time.perf_counter() - start)
        rows.append(
            (f"retrain a head on {n:,} × 512, 10 labels", f"{np.median(fit_seconds):.2f} s", goal)
        )
    return rows


if __name__ == "__main__":
    main()
