"""Worker processes; they are started at first use and restarted after a crash."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from backend.callbacks import StateCallback
from backend.errors import RoundError, error_from_name
from backend.json_records import JsonObject
from backend.scheduler import frames
from backend.scheduler.jobs import Job, job_to_json
from backend.scheduler.worker_log import relay_log

log = logging.getLogger("prelabel")
WORKER_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "MALLOC_ARENA_MAX": "2"}
"""OpenMP threads sleep while they wait, because spinning threads of two busy processes slow each
other down severalfold. With the default number of malloc arenas, the threads of each round kept
10 MB more memory."""
WORKER_COMMAND = (sys.executable, "-m", "backend.worker")
TRAINING_NICENESS, PREDICTION_NICENESS = 10, 5
"""``nice`` values: predictions have priority over training."""


def _ignore_progress(state: str, progress: float, detail: str) -> None:
    """Default callback: ignore progress."""


class WorkerProcess:
    """A worker process, which runs one job at a time.

    Args:
        niceness: ``nice`` value of the process.
        command: command line; the niceness is appended as the last argument.
    """

    def __init__(
        self, niceness: int = TRAINING_NICENESS, command: Sequence[str] = WORKER_COMMAND
    ) -> None:
        self._niceness = niceness
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._job_ids = itertools.count()
        self._running_job: int | None = None
        self._relay: asyncio.Task[None] | None = None

    async def run(
        self, job: Job, body: bytes = b"", report: StateCallback = _ignore_progress
    ) -> tuple[Any, bytes]:
        """Run a job and return its result and body.

        Args:
            job: the job.
            body: body of the frame.
            report: receives the progress.

        Raises:
            PrelabelError: the job failed, or the process died.
        """
        process = await self._ensure_started()
        job_id = self._running_job = next(self._job_ids)
        try:
            await self._send_frame(
                process, frames.pack_frame({"id": job_id, **job_to_json(job)}, body)
            )
            header, answer = await self._read_answer(process, job_id, report)
        except BaseException:
            await self.stop()  # otherwise a late response would be taken for the next job's
            raise
        finally:
            self._running_job = None
        return _read_result(header), answer

    async def cancel(self) -> None:
        """Cancel the running job; a training then fails with ``RoundCancelledError``."""
        if self._process is not None and self._running_job is not None:
            await self._send_frame(
                self._process, frames.pack_frame({"cancel": self._running_job}, b"")
            )

    async def stop(self) -> None:
        """Kill the process."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            await _close_pipes(process)
        relay, self._relay = self._relay, None
        if relay is not None:
            relay.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await relay

    async def _ensure_started(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                str(self._niceness),
                env={**os.environ, **WORKER_ENVIRONMENT},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C goes to the server, which stops this process
            )
            assert self._process.stderr is not None  # noqa: S101 - it was opened with a pipe
            self._relay = asyncio.create_task(relay_log(self._process.stderr))
        return self._process

    async def _send_frame(self, process: asyncio.subprocess.Process, frame: bytes) -> None:
        assert process.stdin is not None  # noqa: S101 - it was opened with a pipe
        try:
            process.stdin.write(frame)
            await process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _worker_died() from error

    async def _read_answer(
        self, process: asyncio.subprocess.Process, job_id: int, report: StateCallback
    ) -> tuple[JsonObject, bytes]:
        assert process.stdout is not None  # noqa: S101 - it was opened with a pipe
        while (frame := await frames.receive_frame(process.stdout)) is not None:
            header, body = frame
            if "state" in header:
                report(header["state"], header["progress"], header["detail"])
            elif header["id"] == job_id:
                return header, body
        raise _worker_died()


async def _close_pipes(process: asyncio.subprocess.Process) -> None:
    """Wait until asyncio noticed the closed pipes, which it complains about after the loop."""
    assert process.stdin is not None  # noqa: S101 - it was opened with a pipe
    process.stdin.close()
    with contextlib.suppress(OSError):  # it was closed by the process
        await process.stdin.wait_closed()
    await asyncio.sleep(0)  # the end of its output arrived in the same iteration


@dataclass(frozen=True)
class Turn:
    """Who waits for a worker process.

    Attributes:
        project: id of the project; empty for work of no project.
        server: address of its Label Studio.
        is_unknown: the project never answered; those that did go first.
    """

    project: str = ""
    server: str = ""
    is_unknown: bool = False


NO_TURN = Turn()


@dataclass(eq=False)
class _Waiter:
    turn: Turn
    accepts_quick: bool
    worker: asyncio.Future[WorkerProcess]


class WorkerPool:
    """A pool of identical worker processes, shared fairly.

    Among the waiting, the projects of the server that was served longest ago go first, and among
    these the project that was served longest ago.

    Args:
        count: number of processes.
        niceness: their ``nice`` value.
        command: their command line.
        quick_count: further processes for quick work only. One is started when the others are
            busy, and stopped when they are free again.
    """

    def __init__(
        self,
        count: int,
        niceness: int,
        command: Sequence[str] = WORKER_COMMAND,
        quick_count: int = 0,
    ) -> None:
        workers = [WorkerProcess(niceness, command) for _ in range(count + quick_count)]
        self._quick_workers = workers[count:]
        self._workers = workers
        self._free_workers = list(workers[:count])
        self._free_quick_workers = list(self._quick_workers)
        self._waiters: list[_Waiter] = []
        self._served_at: dict[str, int] = {}
        self._served_count = 0

    def is_quick(self, worker: WorkerProcess) -> bool:
        """Whether a process is for quick work only."""
        return worker in self._quick_workers

    @contextlib.asynccontextmanager
    async def acquire(
        self, turn: Turn = NO_TURN, *, accepts_quick: bool = False
    ) -> AsyncIterator[WorkerProcess]:
        """Reserve a process; wait until one is free.

        Args:
            turn: who waits.
            accepts_quick: a process for quick work will do.
        """
        waiter = _Waiter(turn, accepts_quick, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self._assign_workers()
        try:
            worker = await waiter.worker
        except asyncio.CancelledError:
            await self._cancel_waiter(waiter)
            raise
        try:
            yield worker
        finally:
            await self._release(worker)

    async def stop(self) -> None:
        """Kill all processes."""
        for worker in self._workers:
            await worker.stop()

    def _assign_workers(self) -> None:
        for free in (self._free_workers, self._free_quick_workers):
            is_quick = free is self._free_quick_workers
            while free and (waiter := self._next_waiter(is_quick)):
                self._waiters.remove(waiter)
                self._served_count += 1
                for name in (waiter.turn.server, f"project {waiter.turn.project}"):
                    self._served_at[name] = self._served_count
                waiter.worker.set_result(free.pop())

    def _next_waiter(self, is_quick: bool) -> _Waiter | None:
        candidates = [
            waiter
            for waiter in self._waiters
            if not waiter.worker.done()  # a cancelled one leaves the list when its task runs next
            and (waiter.accepts_quick or not is_quick)
        ]
        return min(candidates, key=self._rank, default=None)

    def _rank(self, waiter: _Waiter) -> tuple[bool, int, int]:
        turn = waiter.turn
        return (
            turn.is_unknown,
            self._served_at.get(turn.server, 0),
            self._served_at.get(f"project {turn.project}", 0),
        )

    async def _cancel_waiter(self, waiter: _Waiter) -> None:
        """Remove a cancelled waiter from the queue, or release the process that it already got."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        elif waiter.worker.done() and not waiter.worker.cancelled():
            await self._release(waiter.worker.result())

    async def _release(self, worker: WorkerProcess) -> None:
        free = self._free_quick_workers if self.is_quick(worker) else self._free_workers
        free.append(worker)
        self._assign_workers()
        if self._free_workers:  # nothing waits: give back the memory of the others
            for idle in self._free_quick_workers:
                await idle.stop()


def _read_result(header: JsonObject) -> Any:
    if "failed" in header:
        raise error_from_name(header["failed"]["kind"], header["failed"]["text"])
    return header["done"]


def _worker_died() -> RoundError:
    return RoundError(
        "The worker process died (out of memory?). It is restarted, and no data is lost."
    )
