"""The server's own part: it waits for nobody, and no single failure stops it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend.errors import (
    OverBudgetError,
    PrelabelError,
    RoundCancelledError,
    RoundError,
    RoundInProgressError,
    StoreError,
    UsageError,
)
from backend.label_studio.ml_protocol import NO_VERSION, parse_predict_request
from backend.learning.audit import is_audit
from backend.records import ControlStatus, RoundOutcome, RoundStatus
from backend.scheduler import frames, supervise
from backend.scheduler.capture_watch import CaptureWatcher
from backend.scheduler.chores import ProjectChores
from backend.scheduler.jobs import PredictJob, WarmUpJob
from backend.scheduler.predict_requests import (
    CHUNK_SIZE,
    REQUEST_TIMEOUT_SECONDS,
    PredictRequestRunner,
)
from backend.scheduler.project_state import ProjectState
from backend.scheduler.service import Service
from backend.scheduler.supervise import Supervisor
from backend.scheduler.worker_pool import Turn, WorkerPool
from backend.server.app import create_app
from backend.server.ml_routes import MAX_SETUP_BYTES
from backend.server.source_archive import zip_source
from backend.settings import Settings
from backend.store import wake
from backend.store.projects import ProjectStore, save_outcome
from backend.store.queue_front import QueuedTask, QueueFront
from backend.store.record_files import write_backed_up
from backend.store.versions import VersionStore
from tests.support.dashboard_client import served_with_service
from tests.support.dashboard_homes import make_card

ROOT = Path(__file__).parents[2]
PoolWork = Callable[[WorkerPool], Awaitable[None]]


def with_pool(notes: Path, work: PoolWork, seconds: float = 0.0) -> list[list[int]]:
    """Run work with a pool of one fake worker, and return the requests it noted, in order."""

    async def run() -> None:
        program = (
            sys.executable,
            str(ROOT / "tests" / "support" / "fake_worker.py"),
            str(notes),
            str(seconds),
        )
        pool = WorkerPool(1, 0, program)
        try:
            await work(pool)
        finally:
            await pool.stop()

    asyncio.run(run())
    return [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []


def request(*tasks: int) -> bytes:
    """Return the body of a ``/predict`` request."""
    return json.dumps({"tasks": [{"id": task} for task in tasks], "project": "1.1"}).encode()


def results(answer: bytes) -> list[int]:
    return [result["result"] for result in json.loads(answer)["results"]]


def make_request_runner(
    pool: WorkerPool, clock: Callable[[], float] = time.monotonic
) -> PredictRequestRunner:
    return PredictRequestRunner(pool, clock, list)


def test_a_smart_tool_request_runs_between_the_chunks_of_a_long_list(tmp_path: Path) -> None:
    """A single worker predicts, so a click waits for one chunk, not for the whole list."""
    many = range(3 * CHUNK_SIZE)
    answered: list[str] = []

    async def work(pool: WorkerPool) -> None:
        ask = make_request_runner(pool)

        async def long() -> None:
            assert results(await ask.predict(request(*many))) == list(many)
            answered.append("list")

        async def click() -> None:
            await asyncio.sleep(0.1)
            assert results(await ask.predict(request(999))) == [999]
            answered.append("click")

        await asyncio.gather(long(), click())

    asked = with_pool(tmp_path / "notes", work, seconds=0.03)
    assert answered == ["click", "list"]
    assert asked.index([999]) < len(asked) - 1
    assert all(len(piece) <= CHUNK_SIZE for piece in asked)


def test_a_long_list_shows_its_progress(tmp_path: Path) -> None:
    projects = ProjectStore(tmp_path / "home")
    record, other = (projects.register("http://127.0.0.1:1", number, 1) for number in (1, 2))
    shown: list[str] = []

    async def work(pool: WorkerPool) -> None:
        ask = make_request_runner(pool)

        async def watch() -> None:
            await until(lambda: ask.progress(record))
            while (progress := ask.progress(record)) is not None:
                assert ask.progress(other) is None
                shown.append(progress.count_text)
                await asyncio.sleep(0.01)

        await asyncio.gather(ask.predict(request(*range(25))), watch())
        assert ask.progress(record) is None
        opened = asyncio.create_task(ask.predict(request(1)))
        await asyncio.sleep(0.02)
        assert ask.progress(record) is None, "somebody opened a task"
        await opened

    with_pool(tmp_path / "notes", work, seconds=0.03)
    assert list(dict.fromkeys(shown)) == [f"{n} of 25 tasks" for n in (0, 10, 20)]


def test_requests_that_label_studio_abandoned_are_dropped(tmp_path: Path) -> None:
    now = [0.0]

    async def work(pool: WorkerPool) -> None:
        async with pool.acquire():
            waiting = asyncio.create_task(
                make_request_runner(pool, lambda: now[0]).predict(request(1, 2))
            )
            await asyncio.sleep(0.05)
            now[0] = REQUEST_TIMEOUT_SECONDS + 1
        answer = json.loads(await waiting)
        assert answer["model_version"] == NO_VERSION
        assert [result["result"] for result in answer["results"]] == [[], []]

    assert with_pool(tmp_path / "notes", work) == []


@pytest.mark.parametrize("body", [b"", b"[]", b"7", b'{"tasks": 3}', b'{"tasks": [1]}', b"\xff"])
def test_an_unreadable_predict_request_raises_a_usage_error(body: bytes) -> None:
    with pytest.raises(UsageError, match="/predict cannot be read"):
        parse_predict_request(body)


@pytest.mark.parametrize(
    ("kind", "raised"),
    [("RoundInProgressError", RoundInProgressError), ("RoundCancelledError", RoundCancelledError),
     ("StoreError", StoreError), ("Defect", RoundError), ("OverBudgetError", OverBudgetError),
     ("SystemExit", RoundError)],
)  # fmt: skip
def test_a_job_raises_its_error_and_the_worker_continues(
    tmp_path: Path, kind: str, raised: type[PrelabelError]
) -> None:
    async def work(pool: WorkerPool) -> None:
        async with pool.acquire() as worker:
            with pytest.raises(PrelabelError, match=r"It failed\.") as failed:
                await worker.run(WarmUpJob("1", kind))
            assert type(failed.value) is raised
            await worker.run(PredictJob(), request(1))

    assert with_pool(tmp_path / "notes", work) == [[1]]


def test_a_worker_is_not_given_to_a_cancelled_job(tmp_path: Path) -> None:
    """The job leaves the queue only when its task runs next, after the worker is released."""

    async def use(pool: WorkerPool) -> None:
        async with pool.acquire():
            pass

    async def work(pool: WorkerPool) -> None:
        async with pool.acquire():
            waiting = asyncio.create_task(use(pool))
            await asyncio.sleep(0)
            waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()
        await asyncio.wait_for(use(pool), 5)

    with_pool(tmp_path / "notes", work)


def test_a_task_that_survives_its_cancellation_is_cancelled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervise, "CANCEL_INTERVAL_SECONDS", 0.01)

    async def survive_once() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(60)

    async def run() -> None:
        task = asyncio.create_task(survive_once())
        await asyncio.sleep(0)
        await asyncio.wait_for(supervise.cancel_all([task]), 5)
        assert task.cancelled()

    asyncio.run(run())


def test_a_worker_that_died_is_replaced(tmp_path: Path) -> None:
    async def work(pool: WorkerPool) -> None:
        async with pool.acquire() as worker:
            with pytest.raises(RoundError, match="worker process died"):
                await worker.run(WarmUpJob("1", "die"))
            await worker.run(PredictJob(), request(1))

    assert with_pool(tmp_path / "notes", work) == [[1]]


def test_a_worker_exits_when_its_job_thread_fails(tmp_path: Path) -> None:
    """Otherwise the server would wait for an answer forever. The job here has no id."""
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


def test_background_work_continues_after_errors_and_logs_each_once(
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
    tmp_path: Path,
    numbers: list[int],
    work: Callable[[Service], Awaitable[None]],
    **settings_values: Any,
) -> list[dict[str, object]]:
    """Run work with a service whose rounds take 0.3 s, and return the rounds' requests."""
    notes = tmp_path / "notes"

    async def run() -> None:
        settings = Settings(home=tmp_path / "home", poll_seconds=3600, **settings_values)
        for number in numbers:
            projects = ProjectStore(settings.home)
            record = projects.register(f"http://127.0.0.1:{number}", number)
            projects.set_title(record.id, f"Project {number}")
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


def in_state(service: Service, state: str, id: str = "1") -> bool:
    current = round_of(service, id)
    return current.state == state and not current.waiting


async def until(check: Callable[[], object]) -> None:
    for _ in range(1000):
        if check():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within 10 s")


def round_of(service: Service, id: str) -> RoundStatus:
    return service.project(id).round


def test_events_during_a_round_start_another_round(
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


def test_start_training_is_kept_while_another_process_runs_a_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be killed and never wake the server: the round is tried again all the same."""
    monkeypatch.setattr("backend.scheduler.round_runner.LOCKED_RETRY_SECONDS", 0.1)
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
    forced = [ask["forced"] for ask in asks]
    assert len(forced) > 2
    assert forced == [False, *[True] * (len(forced) - 1)]


def test_start_training_without_a_label_says_why_until_there_is_one(tmp_path: Path) -> None:
    async def rest(service: Service) -> str | None:
        await until(partial(in_state, service, "training"))
        await until(partial(in_state, service, "idle"))
        return round_of(service, "1").detail

    async def work(service: Service) -> None:
        assert await rest(service) is None, "nobody asked"
        service.wake({"id": 1}, forced=True)
        assert await rest(service) == "Nothing is labeled yet: label a few images first."
        service.wake({"id": 1})
        assert await rest(service) is not None, "polling does not take it away"
        (tmp_path / "waiting").touch()
        service.wake({"id": 1}, labels=1)
        assert await rest(service) is None

    with_service(tmp_path, [1], work)


def test_waiting_labels_do_not_start_rounds_continuously(tmp_path: Path) -> None:
    """This month's money is spent, say: looking again at once would change nothing."""
    (tmp_path / "waiting").touch()

    async def work(service: Service) -> None:
        await until(partial(in_state, service, "training"))
        await until(partial(in_state, service, "idle"))
        await asyncio.sleep(1.5)
        assert service.project("1").waiting == 1

    asks = with_service(tmp_path, [1], work)
    assert [ask["quiet"] for ask in asks] == [True]


def test_a_waiting_label_is_looked_at_after_a_short_and_a_long_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that takes minutes waits for the second one if little is new."""
    monkeypatch.setattr("backend.scheduler.round_runner.LONG_PAUSE_SECONDS", 3.0)
    (tmp_path / "waiting").touch()

    async def work(service: Service) -> None:
        await until(partial(in_state, service, "training"))
        await until(partial(in_state, service, "idle"))
        service.wake({"id": 1}, labels=1)
        await asyncio.sleep(5)

    asks = with_service(tmp_path, [1], work, quiet_seconds=1.5)
    pauses = [(ask["quiet"], ask["long_quiet"]) for ask in asks]
    assert pauses == [(True, True), (False, False), (True, False), (True, True)]


def test_a_cancelled_first_training_waits_for_a_label(tmp_path: Path) -> None:
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


def test_a_waiting_project_reports_what_it_waits_for(tmp_path: Path) -> None:
    for name in ("long", "hold-1", "hold-2"):
        (tmp_path / name).touch()

    async def work(service: Service) -> None:
        await until(lambda: any(in_state(service, "training", id) for id in ("1", "2")))
        await until(lambda: any(round_of(service, id).waiting for id in ("1", "2")))
        (waiting,) = [id for id in ("1", "2") if round_of(service, id).waiting]
        other = {"1": "2", "2": "1"}[waiting]
        await until(lambda: "epoch 2" in (round_of(service, waiting).detail or ""))
        shown = round_of(service, waiting)
        assert shown.detail == f"Waiting for “Project {other}” (things: epoch 2 of 2)"
        assert (shown.state, shown.is_running) == ("observing", True)
        (tmp_path / f"hold-{other}").unlink()
        await until(partial(in_state, service, "training", waiting))
        (tmp_path / f"hold-{waiting}").unlink()
        await until(lambda: all(in_state(service, "idle", id) for id in ("1", "2")))

    assert [ask["quick"] for ask in with_service(tmp_path, [1, 2], work)] == [False, False]


def test_labels_count_at_once_while_a_round_runs(tmp_path: Path) -> None:
    (tmp_path / "hold-1").touch()

    identity = "1.0"  # of the project, from which the audit set is drawn
    audit_task = next(task for task in range(20, 99) if is_audit(identity, task))
    new_tasks = [task for task in range(5, 20) if not is_audit(identity, task)][:2]

    def event(action: str, task: int, **annotation: object) -> bytes:
        return json.dumps(
            {
                "action": action,
                "project": {"id": 1},
                "task": {"id": task, "total_annotations": 1},
                "annotation": {"task": task, **annotation},
            }
        ).encode()

    async def work(service: Service) -> None:
        app = httpx.ASGITransport(create_app(service))
        async with httpx.AsyncClient(transport=app, base_url="http://127.0.0.1") as client:
            await until(partial(in_state, service, "training"))
            red = {"from_name": "colour", "type": "choices", "value": {"choices": ["red"]}}
            for task in (*new_tasks, new_tasks[0], audit_task):
                content = event("ANNOTATION_CREATED", task, result=[red])
                await client.post("/webhook", content=content)
            await client.post("/webhook", content=event("ANNOTATION_UPDATED", 7))
            skip = event("ANNOTATION_CREATED", 8, was_cancelled=True)
            await client.post("/webhook", content=skip)
            row = (await client.get("/api/projects/1")).json()
            assert (row["labels"], row["waiting"], row["new_in_round"]) == (3, 3, 3)
            assert row["audit_labels"] == 5
            assert row["controls"][0]["examples"] == {"red": 6, "blue": 2}, "without the audit task"
            page = (await client.get("/projects/1/now")).text
            assert "3 since this round began" in page
            page = (await client.get("/projects/1")).text
            assert 'data-label="Examples">6</td>' in page
            assert "Task 88" in page, "the queue is shown"
            assert f"Task {new_tasks[0]}<" not in page, "it is labeled"
            (tmp_path / "hold-1").unlink()
            await until(partial(in_state, service, "idle"))
            await until(lambda: service.project("1").waiting == 0)
            row = (await client.get("/api/projects/1")).json()
            assert "new_in_round" not in row

    projects = ProjectStore(tmp_path / "home")
    record = projects.register("http://127.0.0.1:1", 1)
    control = ControlStatus(
        name="colour", type="Choices", labels=("red", "blue"), examples={"red": 4, "blue": 2}
    )
    outcome = RoundOutcome(tasks=9, controls=(control,), audit_labels=4)
    save_outcome(projects.folder(record.id), outcome)
    queue = [QueuedTask(task, "typical") for task in (*new_tasks, 88)]
    QueueFront(projects.folder(record.id)).save_tasks(queue)
    with_service(tmp_path, [1], work)


def test_a_project_that_label_studio_does_not_have_leaves_after_a_day(tmp_path: Path) -> None:
    (tmp_path / "missing").touch()
    projects = ProjectStore(tmp_path / "home")

    async def work(service: Service) -> None:
        await until(lambda: service.project("1").removed_at)
        status = service.project("1")
        assert status.round.error == "It has no project 1."
        left = datetime.fromisoformat(status.removed_at) - datetime.now(UTC)
        assert timedelta(hours=23) < left <= timedelta(days=1)
        (tmp_path / "missing").unlink()
        service.wake({"id": 1})
        await until(lambda: not service.project("1").removed_at)
        (tmp_path / "missing").touch()
        long_ago = replace(projects.get("1"), missing_since="2026-01-01T00:00:00+00:00")
        write_backed_up(projects.folder("1") / "project.json", long_ago)
        await until(lambda: service._project_states["1"].record.missing_since)
        service.wake({"id": 1})
        await until(lambda: not service.projects())
        assert projects.listed() == []
        assert projects.folder("1").is_dir(), "its versions stay"
        await service.setup("1.0", "http://127.0.0.1:1", "")  # it is back
        assert [status.id for status in service.projects()] == [1]

    with_service(tmp_path, [1], work)


def test_a_cancelled_training_and_a_requested_one_are_shown_at_once(tmp_path: Path) -> None:
    (tmp_path / "hold-1").touch()

    async def work(service: Service) -> None:
        await until(partial(in_state, service, "training"))
        assert round_of(service, "1").can_cancel
        status = await service.cancel("1")
        assert (status.round.cancelling, status.round.can_cancel) == (True, False)
        (tmp_path / "hold-1").unlink()
        await until(partial(in_state, service, "idle"))
        assert not round_of(service, "1").cancelling
        await service.train("1")
        assert round_of(service, "1").is_running
        assert "Training was requested" in (round_of(service, "1").detail or "")
        await until(partial(in_state, service, "training"))
        await until(partial(in_state, service, "idle"))

    with_service(tmp_path, [1], work)


def test_workers_log_through_the_server_and_name_the_detector_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Their lines would run into the progress line of `init`."""
    caplog.set_level(logging.INFO)
    (tmp_path / "hold-1").touch()

    async def work(service: Service) -> None:
        await until(partial(in_state, service, "training"))
        await until(partial(in_state, service, "idle", "2"))
        (tmp_path / "hold-1").unlink()
        await until(partial(in_state, service, "idle"))

    with_service(tmp_path, [1, 2], work)
    lines = [record.message for record in caplog.records]
    assert lines.count(f"Detector: of {tmp_path / 'notes'}") == 1
    assert lines.count("busy") == lines.count("100%") > 1, "each worker process logs it"


def test_a_version_that_a_person_makes_live_is_published_during_a_training(tmp_path: Path) -> None:
    (tmp_path / "hold-1").touch()
    projects = ProjectStore(tmp_path / "home")
    folder = projects.folder(projects.register("http://127.0.0.1:1", 1).id)
    versions = VersionStore(folder)
    for number in range(3):
        versions.save(make_card(number, 4 * number), {}, lambda folder: None)
        versions.promote(f"v{number}-0123abcd", "the loop", "")

    def notes() -> str:
        return (tmp_path / "notes").read_text()

    async def work(service: Service) -> None:
        await until(partial(in_state, service, "training"))
        app = httpx.ASGITransport(create_app(service))
        async with httpx.AsyncClient(transport=app, base_url="http://127.0.0.1") as client:
            page = (await client.get("/projects/1/confirm/v1-0123abcd")).text
            assert "A training is running and continues." in page
            headers = {"sec-fetch-site": "same-origin"}
            await client.post("/projects/1/rollback?to=v1-0123abcd", headers=headers)
        assert service.project("1").version == "v1-0123abcd"
        await until(lambda: "published" in notes())
        assert in_state(service, "training")
        (tmp_path / "hold-1").unlink()
        await until(partial(in_state, service, "idle"))

    asked = with_service(tmp_path, [1], work)
    assert {"published": "1"} in asked


def test_a_quick_round_does_not_wait_for_a_long_one(tmp_path: Path) -> None:
    """A project that needs no long training is served while another one trains for minutes."""
    (tmp_path / "hold-1").touch()

    async def work(service: Service) -> None:
        await until(partial(in_state, service, "training"))
        service.wake({"id": 2}, labels=1)
        await until(partial(in_state, service, "training", "2"))
        await until(partial(in_state, service, "idle", "2"))
        assert in_state(service, "training")
        (tmp_path / "hold-1").unlink()
        await until(partial(in_state, service, "idle"))

    asked = with_service(tmp_path, [1, 2], work)
    assert {ask["project"]: ask["quick"] for ask in asked}.keys() == {"1", "2"}
    assert True in [ask["quick"] for ask in asked]


def test_servers_and_projects_take_turns_and_unknown_ones_go_last(tmp_path: Path) -> None:
    async def work(pool: WorkerPool) -> None:
        served: list[str] = []

        async def one(turn: Turn) -> None:
            async with pool.acquire(turn):
                served.append(turn.project)

        async with pool.acquire():
            busy = [Turn(f"a{number % 3}", "a") for number in range(6)]
            turns = [Turn("stranger", "x", is_unknown=True), *busy, Turn("b1", "b")]
            waiting = [asyncio.create_task(one(turn)) for turn in turns]
            await asyncio.sleep(0)
            waiting[2].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert served == ["a0", "b1", "a2", "a1", "a0", "a2", "stranger"]

    with_pool(tmp_path / "notes", work)


def test_invented_projects_neither_grow_without_bound_nor_hold_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.scheduler.service.MAX_UNKNOWN_PROJECTS", 5)

    async def work(service: Service) -> None:
        for number in range(100, 120):
            await service.setup(f"{number}.1", f"http://127.0.0.1:{number % 9 + 1}", "x")
        service.wake({"id": 1}, labels=1)
        await until(partial(in_state, service, "training"))
        await until(partial(in_state, service, "idle"))
        ids = {str(status.id) for status in service.projects()}
        assert ids == {"1", *map(str, range(115, 120))}
        assert {record.id for record in ProjectStore(tmp_path / "home").all()} == ids
        await until(lambda: "cannot be reached" in (round_of(service, "119").error or ""))

    asks = with_service(tmp_path, [1], work)
    assert {ask["project"] for ask in asks} == {"1"}


def test_a_stranger_neither_replaces_a_working_token_nor_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    valid = {("http://127.0.0.1:1", "good"), ("http://127.0.0.1:1", "newer")}
    monkeypatch.setattr(
        "backend.scheduler.registration.is_token_valid",
        lambda server, number, t: (server, t) in valid,
    )
    projects = ProjectStore(tmp_path / "home")

    async def work(service: Service) -> None:
        server = "http://127.0.0.1:1"
        await until((tmp_path / "notes").exists)
        for token, stored in (("good", "good"), ("bogus", "good"), ("newer", "newer")):
            await service.setup("1.5", server, token)
            assert projects.token("1") == stored
        (projects.folder("1") / "token").write_bytes(b"\xff\xfe")
        await service.setup("1.5", server, "newer")
        assert projects.token("1") == "newer", "a damaged token is replaced"
        await service.setup("1.5", "http://elsewhere.invalid", "evil")  # the old one is down
        assert projects.get("1").server == "http://elsewhere.invalid"
        assert projects.token("1") == "evil", "the old server's token stays at home"
        await until((tmp_path / "notes").exists)

    with_service(tmp_path, [1], work)


@pytest.mark.parametrize(("live", "inspected"), [("v1-x", [[1]]), ("v2-x", [])])
def test_the_label_check_runs_after_the_current_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live: str, inspected: list[list[int]]
) -> None:
    """Each label has a quick one of its own; only another version ends the wait."""
    monkeypatch.setattr("backend.scheduler.chores.LABEL_CHECK_DELAY_SECONDS", 0.05)
    monkeypatch.setattr("backend.scheduler.chores.LABEL_CHECK_RETRY_SECONDS", 0.05)
    projects, notes = ProjectStore(tmp_path), tmp_path / "notes"
    record = projects.register("http://127.0.0.1:9", 1)

    async def work(pool: WorkerPool) -> None:
        chores = ProjectChores(pool, pool, Supervisor())
        home = CaptureWatcher(record.id, projects.captures(record.id), pool, lambda: None)
        watched = ProjectState(record, home, live_version="v1-x", state="observing")
        chores.start_after_round(
            watched, RoundOutcome(versions=("v1-x",), trained="v1-x"), is_full_round=False
        )
        await asyncio.sleep(0.3)
        assert not notes.exists(), "never beside a round"
        watched.live_version, watched.state = live, "idle"
        await (
            until(lambda: notes.exists() and notes.stat().st_size)
            if inspected
            else asyncio.sleep(0.3)
        )
        await chores.stop()

    assert with_pool(notes, work) == inspected


def test_damaged_files_of_one_project_do_not_stop_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    projects = ProjectStore(tmp_path)
    for number in (1, 2, 3, 4):
        projects.register("http://127.0.0.1:9", number)
        wake.request_wake(projects.folder(str(number)), train=True)
    for name in ("project.json", "project.json.backup"):
        (projects.folder("1") / name).write_text('{"id":')
    (projects.folder("2") / "live.json").write_bytes(b"\xff\xfe")
    (projects.folder("2") / "summary.json").write_text("[]")
    (projects.folder("3") / wake.TRAIN_FILE).unlink()
    (projects.folder("3") / wake.TRAIN_FILE).mkdir()

    async def ask(client: httpx.AsyncClient, service: Service) -> None:
        shown = (await client.get("/api/projects")).json()
        assert [project["id"] for project in shown] == [2, 3, 4]

    served_with_service(tmp_path, ask)
    assert not (projects.folder("4") / wake.TRAIN_FILE).exists(), "the wish was noticed"
    assert any("project 1 is skipped" in record.message for record in caplog.records)


def test_a_start_removes_the_temporary_files_of_killed_processes(tmp_path: Path) -> None:
    leftovers = [tmp_path / "projects" / "1" / ".queue.json.0a1b2c3d", tmp_path / ".x.0a1b2c3d"]
    for file in leftovers:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        os.utime(file, (1e9, 1e9))

    async def ask(client: httpx.AsyncClient, service: Service) -> None:
        assert not any(file.exists() for file in leftovers)

    served_with_service(tmp_path, ask)


def test_cross_site_requests_to_the_ml_protocol_are_refused(tmp_path: Path) -> None:
    """A page in a local browser could connect a hostile Label Studio to a backend at 127.0.0.1."""
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

    served_with_service(tmp_path, ask)


def test_a_setup_that_is_too_large_is_refused(tmp_path: Path) -> None:
    async def ask(client: httpx.AsyncClient, service: Service) -> None:
        body = {"project": "7.1", "schema": "x" * MAX_SETUP_BYTES}
        answer = await client.post("/setup", json=body)
        assert (answer.status_code, answer.json()["detail"]) == (
            413,
            "The body is larger than 4 MB.",
        )
        assert service.projects() == []

    served_with_service(tmp_path, ask)


def test_a_new_address_of_label_studio_is_adopted(tmp_path: Path) -> None:
    """No server answers at the old address, port 9, any more."""

    async def ask(client: httpx.AsyncClient, service: Service) -> None:
        for host in ("http://127.0.0.1:9", "http://labels.example"):
            body = {"project": "7.100", "schema": "<View/>", "hostname": host}
            assert (await client.post("/setup", json=body)).status_code == 200
        shown = [(project.id, project.server) for project in service.projects()]
        assert shown == [(7, "http://labels.example")]

    served_with_service(tmp_path, ask)


def test_the_source_archive_holds_the_whole_program(tmp_path: Path) -> None:
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
