"""The working processes as the server sees them: started at first use, replaced when they die."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from backend.callbacks import StateCallback
from backend.errors import RoundError, named
from backend.scheduler import frames

log = logging.getLogger("prelabel")
FRUGAL = {"OMP_WAIT_POLICY": "PASSIVE", "MALLOC_ARENA_MAX": "2"}
"""Threads that wait for each other sleep: spinning, two busy processes slow each other manifold.
What threads gave back is used again: else each round's new threads took 10 MB more, for ever."""
PROGRAM = (sys.executable, "-m", "backend.worker")
TRAINING, ANSWERING = 10, 5
"""How far processes stand back (``nice``): a click never waits for training."""


def _silent(state: str, progress: float, detail: str) -> None:
    """Nobody wants to know."""


class WorkerProcess:
    """One process; one job at a time. It reads its settings from the same environment.

    Args:
        niceness: how far it stands back behind others.
        program: that takes jobs, given the niceness as last argument.
    """

    def __init__(self, niceness: int = TRAINING, program: Sequence[str] = PROGRAM) -> None:
        self._niceness = niceness
        self._program = program
        self._process: asyncio.subprocess.Process | None = None
        self._numbers = itertools.count()
        self._running: int | None = None

    async def run(
        self, job: Mapping[str, Any], body: bytes = b"", tell: StateCallback = _silent
    ) -> tuple[Any, bytes]:
        """Run a job.

        Args:
            job: ``job`` and its arguments.
            body: bytes that belong to it.
            tell: told the state, the progress, 0 to 1, and details.

        Raises:
            PrelabelError: the job failed, with the error that it told, or its process died.
        """
        process = await self._alive()
        number = self._running = next(self._numbers)
        try:
            await self._send(process, frames.pack({"id": number, **job}, body))
            header, answer = await self._answer(process, number, tell)
        except BaseException:
            await self.stop()  # its next answer would be taken for another job's
            raise
        finally:
            self._running = None
        return _result(header), answer

    async def cancel(self) -> None:
        """Ask the job under way to end; it fails with ``Cancelled`` if it can."""
        if self._process is not None and self._running is not None:
            await self._send(self._process, frames.pack({"cancel": self._running}, b""))

    async def stop(self) -> None:
        """End the process, whatever it does."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _alive(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *self._program,
                str(self._niceness),
                env={**os.environ, **FRUGAL},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the server, which ends this one
            )
        return self._process

    async def _send(self, process: asyncio.subprocess.Process, frame: bytes) -> None:
        assert process.stdin is not None  # noqa: S101 - it was opened with a pipe
        try:
            process.stdin.write(frame)
            await process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _died() from error

    async def _answer(
        self, process: asyncio.subprocess.Process, number: int, tell: StateCallback
    ) -> tuple[frames.Header, bytes]:
        assert process.stdout is not None  # noqa: S101 - it was opened with a pipe
        while (frame := await frames.receive(process.stdout)) is not None:
            header, body = frame
            if "state" in header:
                tell(header["state"], header["progress"], header["detail"])
            elif header["id"] == number:
                return header, body
        raise _died()


class Lane:
    """A few processes that share the jobs of one kind.

    Args:
        count: how many run at the same time.
        niceness: how far they stand back behind others.
        program: that takes jobs.
    """

    def __init__(self, count: int, niceness: int, program: Sequence[str] = PROGRAM) -> None:
        self._all = [WorkerProcess(niceness, program) for _ in range(count)]
        self._free: asyncio.LifoQueue[WorkerProcess] = asyncio.LifoQueue()
        for worker in self._all:
            self._free.put_nowait(worker)

    @property
    def full(self) -> bool:
        """Whether whoever wants a process now has to wait for one."""
        return self._free.empty()

    @contextlib.asynccontextmanager
    async def worker(self) -> AsyncIterator[WorkerProcess]:
        """A process of one's own, for a while."""
        worker = await self._free.get()
        try:
            yield worker
        finally:
            self._free.put_nowait(worker)

    async def stop(self) -> None:
        """End all processes."""
        for worker in self._all:
            await worker.stop()


def _result(header: frames.Header) -> Any:
    if "failed" in header:
        raise named(header["failed"]["kind"], header["failed"]["text"])
    return header["done"]


def _died() -> RoundError:
    return RoundError(
        "The working process died (out of memory?); it is started again, and nothing is lost."
    )
