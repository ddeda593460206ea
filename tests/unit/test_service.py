"""The server's own part: it waits for nobody, and no single failure stops it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
import time
import zipfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import httpx
import pytest

from backend.errors import (
    OverBudget,
    PrelabelError,
    RoundCancelledError,
    RoundError,
    RoundInProgressError,
    StoreError,
    UsageError,
)
from backend.records import RoundOutcome, RoundStatus
from backend.scheduler import frames, predict_queue
from backend.scheduler.capture_watch import CaptureWatcher
from backend.scheduler.chores import ProjectChores
from backend.scheduler.jobs import PredictJob, WarmUpJob
from backend.scheduler.predict_queue import (
    CHUNK_SIZE,
    NO_VERSION,
    REQUEST_TIMEOUT_SECONDS,
    PredictQueue,
)
from backend.scheduler.project_state import ProjectState
from backend.scheduler.service import WAITING_MESSAGE, Service
from backend.scheduler.supervise import Supervisor
from backend.scheduler.worker_pool import WorkerPool
from backend.server.app import MAX_SETUP_BYTES, create_app
from backend.server.source_archive import zip_source
from backend.settings import Settings
from backend.store import wake
from backend.store.projects import ProjectStore

ROOT = Path(__file__).parents[2]
Work = Callable[[WorkerPool], Awaitable[None]]


def with_lane(notes: Path, work: Work, seconds: float = 0.0) -> list[list[int]]:
    """Do something with one small working process; what it was asked, in order."""

    async def run() -> None:
        program = (
            sys.executable,
            str(ROOT / "tests" / "support" / "fake_worker.py"),
            str(notes),
            str(seconds),
        )
        lane = WorkerPool(1, 0, program)
        try:
            await work(lane)
        finally:
            await lane.stop()

    asyncio.run(run())
    return [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []


def request(*tasks: int) -> bytes:
    """The body of a /predict."""
    return json.dumps({"tasks": [{"id": task} for task in tasks], "project": "1.1"}).encode()


def results(answer: bytes) -> list[int]:
    return [result["result"] for result in json.loads(answer)["results"]]


def asker(lane: WorkerPool, clock: Callable[[], float] = time.monotonic) -> PredictQueue:
    return PredictQueue(lane, clock, list)


def test_a_click_gets_between_the_tasks_of_a_long_list(tmp_path: Path) -> None:
    """One process answers; whoever asks for one task waits for a few, not for a hundred."""
    many = range(3 * CHUNK_SIZE)
    answered: list[str] = []

    async def work(lane: WorkerPool) -> None:
        ask = asker(lane)

        async def long() -> None:
            assert results(await ask.predict(request(*many))) == list(many)
            answered.append("list")

        async def click() -> None:
            await asyncio.sleep(0.1)
            assert results(await ask.predict(request(999))) == [999]
            answered.append("click")

        await asyncio.gather(long(), click())

    asked = with_lane(tmp_path / "notes", work, seconds=0.03)
    assert answered == ["click", "list"]
    assert asked.index([999]) < len(asked) - 1
    assert all(len(piece) <= CHUNK_SIZE for piece in asked)


def test_what_label_studio_has_given_up_is_not_computed(tmp_path: Path) -> None:
    now = [0.0]

    async def work(lane: WorkerPool) -> None:
        async with lane.acquire():
            waiting = asyncio.create_task(asker(lane, lambda: now[0]).predict(request(1, 2)))
            await asyncio.sleep(0.05)
            now[0] = REQUEST_TIMEOUT_SECONDS + 1
        answer = json.loads(await waiting)
        assert answer["model_version"] == NO_VERSION
        assert [result["result"] for result in answer["results"]] == [[], []]

    assert with_lane(tmp_path / "notes", work) == []


@pytest.mark.parametrize("body", [b"", b"[]", b"7", b'{"tasks": 3}', b'{"tasks": [1]}', b"\xff"])
def test_a_predict_that_cannot_be_read_is_named(body: bytes) -> None:
    with pytest.raises(UsageError, match="/predict cannot be read"):
        predict_queue.parse_predict_request(body)


@pytest.mark.parametrize(
    ("kind", "raised"),
    [("RoundInProgressError", RoundInProgressError), ("RoundCancelledError", RoundCancelledError),
     ("StoreError", StoreError), ("Defect", RoundError), ("OverBudget", OverBudget),
     ("SystemExit", RoundError)],
)  # fmt: skip
def test_a_job_fails_with_the_error_of_its_process_which_goes_on(
    tmp_path: Path, kind: str, raised: type[PrelabelError]
) -> None:
    async def work(lane: WorkerPool) -> None:
        async with lane.acquire() as worker:
            with pytest.raises(PrelabelError, match=r"It failed\.") as failed:
                await worker.run(WarmUpJob("1", kind))
            assert type(failed.value) is raised
            await worker.run(PredictJob(), request(1))

    assert with_lane(tmp_path / "notes", work) == [[1]]


def test_a_process_that_died_is_replaced(tmp_path: Path) -> None:
    async def work(lane: WorkerPool) -> None:
        async with lane.acquire() as worker:
            with pytest.raises(RoundError, match="working process died"):
                await worker.run(WarmUpJob("1", "die"))
            await worker.run(PredictJob(), request(1))

    assert with_lane(tmp_path / "notes", work) == [[1]]


def test_a_working_process_ends_when_its_thread_does(tmp_path: Path) -> None:
    """Else the server would wait for its answer for ever: here to a job without a number."""
    process = subprocess.Popen(
        [sys.executable, "-m", "backend.worker", "0"],
        cwd=ROOT,
        env={"PRELABEL_HOME": str(tmp_path), "PATH": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdin is not None
        process.stdin.write(frames.pack_frame({}))
        process.stdin.flush()
        assert process.wait(30) == 1
    finally:
        process.kill()
        process.communicate()


def test_background_work_goes_on_after_any_error_and_tells_it_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    times = 0

    async def work() -> None:
        nonlocal times
        times += 1
        if times < 4:
            raise FileNotFoundError("gone")
        if times < 6:
            raise StoreError("The disk is full.")
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Supervisor().run_forever(0, "looking", work))
    told = ["looking: FileNotFoundError: gone", "looking: The disk is full."]
    assert [record.message for record in caplog.records] == told


def with_service(
    tmp_path: Path, numbers: list[int], work: Callable[[Service], Awaitable[None]]
) -> list[dict[str, object]]:
    """Do something with a service whose rounds take 0.3 s and train nothing; why they ran."""
    notes = tmp_path / "notes"

    async def run() -> None:
        settings = Settings(home=tmp_path / "home", poll_seconds=3600)
        for number in numbers:
            ProjectStore(settings.home).register("http://127.0.0.1:9", number)
        program = (
            sys.executable,
            str(ROOT / "tests" / "support" / "fake_worker.py"),
            str(notes),
            "0.1",
        )
        service = Service(settings, worker_command=program)
        await service.start()
        try:
            await work(service)
        finally:
            await service.stop()

    asyncio.run(run())
    return [json.loads(line) for line in notes.read_text().splitlines()]


def in_state(service: Service, state: str) -> bool:
    return round_of(service, "1").state == state


async def until(check: Callable[[], object]) -> None:
    for _ in range(1000):
        if check():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within 10 s")


def round_of(service: Service, id: str) -> RoundStatus:
    return service.project(id).round


def test_what_comes_during_a_round_is_for_the_next_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def work(service: Service) -> None:
        service.wake({"id": 1}, labels=2)
        await until(partial(in_state, service, "training"))
        service.wake({"id": 1}, labels=3)
        await until(partial(in_state, service, "idle"))
        await until(partial(in_state, service, "training"))
        await until(partial(in_state, service, "idle"))

    asks = with_service(tmp_path, [1], work)
    assert [ask["hints"] for ask in asks] == [2, 3]
    told = [record.message for record in caplog.records if "epoch" in record.message]
    lines = ["project 1: things: epoch 1 of 2", "project 1: things: epoch 2 of 2"]
    assert told == 2 * lines, "each epoch once"


def test_start_training_survives_another_process_that_is_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be killed and never wake the server: the round is tried again all the same."""
    monkeypatch.setattr("backend.scheduler.service.LOCKED_RETRY_SECONDS", 0.1)
    busy = tmp_path / "busy"
    busy.touch()

    async def work(service: Service) -> None:
        await until(partial(in_state, service, "training"))
        service.wake({"id": 1}, forced=True)
        for state in ("idle", "training", "idle"):
            await until(partial(in_state, service, state))
        busy.unlink()
        await until(partial(in_state, service, "training"))
        await until(partial(in_state, service, "idle"))

    asks = with_service(tmp_path, [1], work)
    assert [ask["forced"] for ask in asks] == [False, True, True]


def test_labels_that_go_on_waiting_do_not_keep_the_machine_busy(tmp_path: Path) -> None:
    """This month's money is spent, say: looking again at once would change nothing."""
    (tmp_path / "waiting").touch()

    async def work(service: Service) -> None:
        await until(partial(in_state, service, "training"))
        await until(partial(in_state, service, "idle"))
        await asyncio.sleep(1.5)
        assert service.project("1").waiting == 1

    asks = with_service(tmp_path, [1], work)
    assert [ask["quiet"] for ask in asks] == [True]


def test_a_first_training_that_was_cancelled_waits_for_a_label(tmp_path: Path) -> None:
    cancelled = tmp_path / "cancelled"
    cancelled.touch()

    async def work(service: Service) -> None:
        await until(partial(in_state, service, "training"))
        await until(partial(in_state, service, "idle"))
        service.wake({"id": 1})  # an import, say
        await asyncio.sleep(1)
        cancelled.unlink()
        service.wake({"id": 1}, labels=1)
        await until(partial(in_state, service, "training"))
        await until(partial(in_state, service, "idle"))

    asks = with_service(tmp_path, [1], work)
    assert [ask["hints"] for ask in asks] == [0, 1]


def test_a_project_that_waits_for_another_ones_round_says_so(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        states = {id: round_of(service, id) for id in ("1", "2")}
        while not any(state.state == "training" for state in states.values()):
            await asyncio.sleep(0.01)
            states = {id: round_of(service, id) for id in ("1", "2")}
        (waiting,) = [state for state in states.values() if state.state != "training"]
        assert (waiting.state, waiting.detail) == ("observing", WAITING_MESSAGE)
        await until(lambda: all(round_of(service, id).state == "idle" for id in states))

    assert len(with_service(tmp_path, [1, 2], work)) == 2


@pytest.mark.parametrize(("live", "inspected"), [("v1-x", [[1]]), ("v2-x", [])])
def test_labels_are_looked_through_after_a_round_that_is_under_way_just_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live: str, inspected: list[list[int]]
) -> None:
    """Each label has a quick one of its own; only another version ends the wait."""
    monkeypatch.setattr("backend.scheduler.chores.LABEL_CHECK_DELAY_SECONDS", 0.05)
    monkeypatch.setattr("backend.scheduler.chores.LABEL_CHECK_RETRY_SECONDS", 0.05)
    projects, notes = ProjectStore(tmp_path), tmp_path / "notes"
    record = projects.register("http://127.0.0.1:9", 1)

    async def work(lane: WorkerPool) -> None:
        chores = ProjectChores(lane, lane, Supervisor())
        home = CaptureWatcher(record.id, projects.captures(record.id), lane, lambda: None)
        watched = ProjectState(record, home, live_version="v1-x", state="observing")
        chores.start_after_round(
            watched, RoundOutcome(versions=("v1-x",), trained="v1-x"), is_full_round=False
        )
        await asyncio.sleep(0.3)
        assert not notes.exists(), "never beside a round"
        watched.live_version, watched.state = live, "idle"
        await (until(notes.exists) if inspected else asyncio.sleep(0.3))
        await chores.stop()

    assert with_lane(notes, work) == inspected


Asking = Callable[[httpx.AsyncClient, Service], Awaitable[None]]


def served(home: Path, ask: Asking) -> None:
    """Ask a server whose Label Studio is away."""

    async def run() -> None:
        settings = Settings(home=home, label_studio_url="http://127.0.0.1:9", api_key="x")
        service = Service(settings)
        await service.start()
        transport = httpx.ASGITransport(create_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            await ask(client, service)
        await service.stop()

    asyncio.run(run())


def test_damaged_files_of_one_project_stop_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    projects = ProjectStore(tmp_path)
    for number in (1, 2, 3, 4):
        projects.register("http://127.0.0.1:9", number)
        wake.request_wake(projects.folder(str(number)), train=True)
    (projects.folder("1") / "project.json").write_text('{"id":')
    (projects.folder("2") / "live.json").write_bytes(b"\xff\xfe")
    (projects.folder("2") / "summary.json").write_text("[]")
    (projects.folder("3") / wake.TRAIN_FILE).unlink()
    (projects.folder("3") / wake.TRAIN_FILE).mkdir()

    async def ask(client: httpx.AsyncClient, service: Service) -> None:
        shown = (await client.get("/api/projects")).json()
        assert [project["id"] for project in shown] == [2, 3, 4]

    served(tmp_path, ask)
    assert not (projects.folder("4") / wake.TRAIN_FILE).exists(), "the wish was noticed"
    assert any("project 1 is left out" in record.message for record in caplog.records)


def test_pages_of_other_sites_may_not_speak_as_label_studio(tmp_path: Path) -> None:
    """A browser on the machine could name a hostile Label Studio to a backend at 127.0.0.1."""
    body = {"project": "7.1", "schema": "<View/>", "hostname": "http://evil.example"}

    async def ask(client: httpx.AsyncClient, service: Service) -> None:
        for other in ({"sec-fetch-site": "cross-site"}, {"origin": "http://evil.example"}):
            for path in ("/setup", "/predict", "/webhook"):
                answer = await client.post(path, json=body, headers=other)
                assert answer.status_code == 403, path
        assert service.projects() == []
        assert (await client.post("/setup", json=body)).status_code == 200
        assert [project.id for project in service.projects()] == [7]
        assert (await client.post("/webhook", json={})).status_code == 200
        assert (await client.post("/predict", content=b"[]")).status_code == 400

    served(tmp_path, ask)


def test_a_setup_that_is_too_large_is_refused(tmp_path: Path) -> None:
    async def ask(client: httpx.AsyncClient, service: Service) -> None:
        body = {"project": "7.1", "schema": "x" * MAX_SETUP_BYTES}
        answer = await client.post("/setup", json=body)
        assert (answer.status_code, answer.json()["detail"]) == (413, "That is larger than 4 MB.")
        assert service.projects() == []

    served(tmp_path, ask)


def test_a_label_studio_by_another_name_is_followed(tmp_path: Path) -> None:
    """At its old name, here port 9, nobody answers any more."""

    async def ask(client: httpx.AsyncClient, service: Service) -> None:
        for host in ("http://127.0.0.1:9", "http://labels.example"):
            body = {"project": "7.100", "schema": "<View/>", "hostname": host}
            assert (await client.post("/setup", json=body)).status_code == 200
        shown = [(project.id, project.server) for project in service.projects()]
        assert shown == [(7, "http://labels.example")]

    served(tmp_path, ask)


def test_the_source_that_is_served_is_the_whole_program(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(zip_source())) as packed:
        names = set(packed.namelist())
        licence = packed.read("LICENSE").decode()
    assert {"pyproject.toml", "README.md", "backend/server/source_archive.py"} <= names
    assert any(name.startswith("serverless/") for name in names)
    assert {f"label_config/{file.name}" for file in (ROOT / "label_config").glob("*.xml")} <= names
    assert "AFFERO" in licence
    assert not any("__pycache__" in name for name in names)
    kept = {str(f.relative_to(ROOT)) for f in (ROOT / "backend").rglob("*.py")}
    assert kept <= names
