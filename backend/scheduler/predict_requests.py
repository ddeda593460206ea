"""Run ``/predict`` requests on the prediction worker.

A single process predicts, because each process needs its own copy of the models in memory. Requests
are processed in order. A long list of tasks is split into chunks, so that the request of a smart
tool can run between them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from backend.label_studio.ml_protocol import (
    NO_VERSION,
    empty_response,
    parse_predict_request,
    parse_project,
)
from backend.records import PredictionProgress
from backend.scheduler.jobs import PredictJob
from backend.scheduler.project_state import ProjectState
from backend.scheduler.worker_pool import WorkerPool
from backend.store.projects import ProjectRecord

log = logging.getLogger("prelabel")
FIRST_VERSION_TIMEOUT_SECONDS = 60.0
"""Maximum time that a ``/predict`` request waits for a project's first version."""
REQUEST_TIMEOUT_SECONDS = 95.0
"""Time after which a request is dropped, since Label Studio disconnects after 100 seconds."""
CHUNK_SIZE = 10
"""Tasks per chunk."""


@dataclass(eq=False)
class RunningRequest:
    """A ``/predict`` request that is being answered.

    Attributes:
        number: number of its project; 0 if unknown.
        created: when its project was created, in seconds since 1970; 0 if unknown.
        requested: number of its tasks.
        answered: number of tasks that are predicted.
    """

    number: int
    created: int
    requested: int
    answered: int = 0


class PredictRequestRunner:
    """Runs ``/predict`` requests on the prediction worker.

    Args:
        worker_pool: the prediction worker.
        clock: monotonic clock in seconds.
        unready_projects: returns the projects without a version.
    """

    def __init__(
        self,
        worker_pool: WorkerPool,
        clock: Callable[[], float],
        unready_projects: Callable[[], list[ProjectState]],
    ) -> None:
        self._worker_pool = worker_pool
        self._clock = clock
        self._unready_projects = unready_projects
        self._running_requests: list[RunningRequest] = []

    def progress(self, project: ProjectRecord) -> PredictionProgress | None:
        """Return the progress of a project's requests for several tasks; None without one.

        A request for one task is from somebody who opened it, or from a smart tool.
        """
        requests = [
            request
            for request in self._running_requests
            if request.requested > 1 and project.matches(request.number, request.created)
        ]
        if not requests:
            return None
        return PredictionProgress(
            sum(request.answered for request in requests),
            sum(request.requested for request in requests),
        )

    async def predict(self, body: bytes) -> bytes:
        """Return the response to a ``/predict`` request, with exactly one result per task.

        Wait for a project's first version, so that the first request gets predictions.

        Raises:
            UsageError: the body cannot be read.
            PrelabelError: prediction failed.
        """
        started_at = self._clock()
        request = await asyncio.to_thread(parse_predict_request, body)
        with self._count_progress(request) as running:
            return await self._predict_in_chunks(request, body, started_at, running)

    @contextlib.contextmanager
    def _count_progress(self, request: dict[str, Any]) -> Iterator[RunningRequest]:
        """Include a request in :meth:`progress` until it is answered."""
        running = RunningRequest(*parse_project(request), requested=len(request["tasks"]))
        self._running_requests.append(running)
        try:
            yield running
        finally:
            self._running_requests.remove(running)

    async def _predict_in_chunks(
        self, request: dict[str, Any], body: bytes, started_at: float, running: RunningRequest
    ) -> bytes:
        tasks = request["tasks"]
        answers: list[bytes] = []
        for start in range(0, max(1, len(tasks)), CHUNK_SIZE):
            next_tasks = tasks[start + CHUNK_SIZE : start + 2 * CHUNK_SIZE]
            chunk_tasks = tasks[start : start + CHUNK_SIZE]
            chunk_request = {**request, "tasks": chunk_tasks, "ahead": next_tasks}
            chunk = (
                body
                if len(tasks) <= CHUNK_SIZE
                else await asyncio.to_thread(_encode_json, chunk_request)
            )
            answer = await self._predict_chunk(chunk, started_at)
            if answer is None:
                return _encode_json(empty_response(tasks, NO_VERSION))
            answers.append(answer)
            running.answered += len(chunk_tasks)
        return answers[0] if len(answers) == 1 else await asyncio.to_thread(_join_answers, answers)

    async def _predict_chunk(self, chunk: bytes, started_at: float) -> bytes | None:
        """Return the response to a chunk; None after a timeout."""
        while True:
            unready_projects = self._unready_projects()
            async with self._worker_pool.acquire() as worker:
                if self._clock() - started_at > REQUEST_TIMEOUT_SECONDS:
                    log.warning("A /predict request was dropped: Label Studio has disconnected.")
                    return None
                result, answer = await worker.run(PredictJob(), chunk)
            remaining_seconds = started_at + FIRST_VERSION_TIMEOUT_SECONDS - self._clock()
            if result["ready"]:
                return answer
            if not unready_projects or remaining_seconds <= 0:
                return None
            await _wait_for_first(unready_projects, remaining_seconds)


def _encode_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _join_answers(answers: list[bytes]) -> bytes:
    """Merge the responses to chunks; each result keeps its own version."""
    decoded = [json.loads(answer) for answer in answers]
    results = [result for answer in decoded for result in answer["results"]]
    return _encode_json({**decoded[0], "results": results})


async def _wait_for_first(project_states: list[ProjectState], timeout_seconds: float) -> None:
    """Wait until one of the projects has its first version."""
    waiters = [asyncio.create_task(state.ready_event.wait()) for state in project_states]
    try:
        await asyncio.wait(waiters, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiters:
            task.cancel()
