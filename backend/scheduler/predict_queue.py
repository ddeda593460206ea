"""The queue of ``/predict`` requests for the prediction worker.

A single process predicts, because each process needs its own copy of the models in memory. Requests
are processed in order. A long list of tasks is split into chunks, so that the request of a smart
tool can run between them.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

from backend.label_studio.ml_protocol import NO_VERSION, empty_response, parse_predict_request
from backend.scheduler.jobs import PredictJob
from backend.scheduler.project_state import ProjectState
from backend.scheduler.worker_pool import WorkerPool

log = logging.getLogger("prelabel")
FIRST_VERSION_TIMEOUT_SECONDS = 60.0
"""Maximum time that a ``/predict`` request waits for a project's first version."""
REQUEST_TIMEOUT_SECONDS = 95.0
"""Time after which a request is dropped, since Label Studio disconnects after 100 seconds."""
CHUNK_SIZE = 10
"""Tasks per chunk."""


class PredictQueue:
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

    async def predict(self, body: bytes) -> bytes:
        """Return the response to a ``/predict`` request, with exactly one result per task.

        Wait for a project's first version, so that the first request gets predictions.

        Raises:
            UsageError: the body cannot be read.
            PrelabelError: prediction failed.
        """
        started_at = self._clock()
        request = await asyncio.to_thread(parse_predict_request, body)
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
