"""What the server answers while a round runs, and how long a round takes. One table.

    uv run python -m benchmarks.server_latency

A real Label Studio with 1,000 tasks of 48 × 48 pixels, half of them labeled; the builtin encoder.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import httpx
import numpy as np
import psutil

from benchmarks.servers import running_backend, running_studio
from tests.support.harness import CHOICES, Backend, Lab, data_uri, png, until

TASKS = 1000
SECONDS = 8.0
WEBHOOKS = 100
"""Per second."""
Rows = list[tuple[str, str, str]]


def main() -> None:
    rows: Rows = []
    with (
        running_studio() as (studio, folder),
        running_backend(studio, folder / "home") as backend,
    ):
        rows += start_up(backend)
        lab = Lab(studio.url, studio.token)
        project = prepare(lab, backend)
        rows += rounds(lab, backend, project)
        rows += latency(backend, project)
        rows += memory(backend)
    rows += retraining()
    for what, figure, goal in rows:
        print(f"{what:<58} {figure:>26}   {goal}")


def start_up(backend: Backend) -> Rows:
    """Median of five starts."""
    found = []
    for _ in range(5):
        backend.stop()
        start = time.monotonic()
        backend.start()
        found.append(time.monotonic() - start)
    return [("start to first /health", f"{np.median(found):.2f} s", "goal < 1.5 s")]


def prepare(lab: Lab, backend: Backend) -> int:
    """A project whose tasks are embedded, half of them labeled."""
    project = lab.project(CHOICES.format(choice="single"), "a thousand tasks")
    rows = []
    for number in range(TASKS):
        colour = "red" if number % 2 else "blue"
        row: dict[str, object] = {"data": {"image": data_uri(png(colour, number))}}
        if number < TASKS // 2:
            row["annotations"] = [{"result": [lab.region([colour])]}]
        rows.append(row)
    lab.call("POST", f"/api/projects/{project}/import", json=rows)
    lab.connect(project, backend.url)
    until("the first round", lambda: settled(backend, project), 300)
    return project


def settled(backend: Backend, project: int) -> bool:
    state = backend.project(project)
    return bool(state and state["version"] and state["round"]["state"] == "idle")


def rounds(lab: Lab, backend: Backend, project: int) -> Rows:
    """From Start Training to the last pushed prediction, five times."""
    event = {"action": "START_TRAINING", "project": {"id": project}}
    open_tasks = [t["id"] for t in lab.tasks(project) if not t["is_labeled"]]
    found: list[float] = []
    shares: list[dict[str, float]] = []
    for task in open_tasks[:5]:
        lab.label(task, "red")
        before = backend.project(project)["version"]
        start = time.monotonic()
        backend.http.post("/webhook", json=event)

        def pushed(was: str = before) -> bool:
            return settled(backend, project) and backend.project(project)["version"] != was

        until("a round", pushed, 120)
        found.append(time.monotonic() - start)
        shares.append(last_seconds(backend, project))
    steps = {name: np.median([s.get(name, 0) for s in shares]) for name in shares[0]}
    told = ", ".join(f"{name} {value:.2f}" for name, value in steps.items())
    return [
        (
            f"Start Training to last push, {TASKS} tasks, {len(open_tasks)} open",
            f"{np.median(found):.2f} s",
            "goal < 4 s",
        ),
        ("  its steps (observe and push are Label Studio's)", told, ""),
    ]


def last_seconds(backend: Backend, project: int) -> dict[str, float]:
    import json

    file = backend.home / "projects" / str(project) / "summary.json"
    seconds: dict[str, float] = json.loads(file.read_text())["seconds"]
    return seconds


def latency(backend: Backend, project: int) -> Rows:
    """Answers while rounds run one after the other and 100 webhooks come in each second."""
    stop = threading.Event()
    training = threading.Thread(target=keep_training, args=(backend, project, stop))
    training.start()
    found = asyncio.run(load(backend.url, project))
    stop.set()
    training.join()
    return [
        (
            f"{path} during a round: p50 / p99 ({len(values)} calls)",
            f"{np.percentile(values, 50):.1f} / {np.percentile(values, 99):.1f} ms",
            "goal p99 < 50 ms",
        )
        for path, values in found.items()
    ]


def keep_training(backend: Backend, project: int, stop: threading.Event) -> None:
    event = {"action": "START_TRAINING", "project": {"id": project}}
    with httpx.Client(base_url=backend.url, trust_env=False) as client:
        while not stop.is_set():
            client.post("/webhook", json=event)
            time.sleep(0.5)


async def load(url: str, project: int) -> dict[str, list[float]]:
    """Each path at its rate for a few seconds; milliseconds of each call."""
    setup = {"project": f"{project}.0", "schema": "<View/>", "hostname": "", "access_token": ""}
    event = {"action": "ANNOTATION_CREATED", "project": {"id": project}, "annotation": {"id": 1}}
    calls: dict[str, tuple[float, Callable[[httpx.AsyncClient], object]]] = {
        "/health": (20, lambda c: c.get("/health")),
        "/versions": (20, lambda c: c.get("/versions")),
        "/setup": (20, lambda c: c.post("/setup", json=setup)),
        "/webhook": (WEBHOOKS, lambda c: c.post("/webhook", json=event)),
    }
    found: dict[str, list[float]] = {path: [] for path in calls}
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=url, trust_env=False, limits=limits) as client:

        async def one(path: str) -> None:
            start = time.perf_counter()
            answer = await calls[path][1](client)  # type: ignore[misc]
            found[path].append((time.perf_counter() - start) * 1000)
            assert answer.status_code == 200, answer.text

        async def steadily(path: str, rate: float) -> None:
            waiting = []
            for _ in range(int(rate * SECONDS)):
                waiting.append(asyncio.create_task(one(path)))
                await asyncio.sleep(1 / rate)
            await asyncio.gather(*waiting)

        await asyncio.gather(*(steadily(path, rate) for path, (rate, _) in calls.items()))
    return found


def memory(backend: Backend) -> Rows:
    """Resident memory of the server and its working processes, after all of the above."""
    server = psutil.Process(backend.pid)
    workers = [child.memory_info().rss / 1e6 for child in server.children(recursive=True)]
    told = f"{server.memory_info().rss / 1e6:.0f} MB + {sum(workers):.0f} MB"
    return [(f"memory: server + {len(workers)} working processes", told, "")]


def retraining() -> Rows:
    """A head on embeddings that are there already, median of five."""
    from backend.vision.heads.head import fit_head

    rows: Rows = []
    for n, goal in ((1_000, "goal < 0.2 s"), (10_000, "goal < 1.5 s")):
        random = np.random.default_rng(0)
        classes = random.integers(0, 10, n)
        centres = random.normal(size=(10, 512))
        vectors = centres[classes] + 4 * random.normal(size=(n, 512))
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        targets = np.eye(10, dtype=np.float32)[classes]
        labels = tuple(f"label {k}" for k in range(10))
        fit_head(vectors[:100], targets[:100], labels=labels, multiple=False)  # warm up
        found = []
        for seed in range(5):
            start = time.perf_counter()
            fit_head(vectors, targets, labels=labels, multiple=False, pool=vectors, seed=seed)
            found.append(time.perf_counter() - start)
        rows.append(
            (f"retrain a head on {n:,} × 512, 10 labels", f"{np.median(found):.2f} s", goal)
        )
    return rows


if __name__ == "__main__":
    main()
