"""A live ``/predict`` on its way to a process that answers: in pieces, so that clicks get between.

One process answers, because each has its models in memory. Whoever waits for it is served in the
order of asking, and a long list queues up again after every few tasks.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

from backend.errors import UsageError
from backend.label_studio.ml_protocol import nothing_known
from backend.scheduler.project_state import Watched
from backend.scheduler.worker_pool import Lane

log = logging.getLogger("prelabel")
WAIT_FOR_FIRST = 60.0
"""Seconds that a /predict waits for a project's first version."""
GIVE_UP = 95.0
"""Seconds after which nobody reads the answer: Label Studio hangs up at 100."""
PIECE = 10
"""Tasks that are answered before others get their turn."""
NO_VERSION = "unready"


class Asker:
    """Gets answers.

    Args:
        lane: processes that answer.
        clock: monotonic seconds.
        unready: the projects without a version.
    """

    def __init__(
        self, lane: Lane, clock: Callable[[], float], unready: Callable[[], list[Watched]]
    ) -> None:
        self._lane = lane
        self._clock = clock
        self._unready = unready

    async def answer(self, body: bytes) -> bytes:
        """The answer to a ``/predict``: exactly one result per task.

        Waits for a project's first version, so that the first ask is not answered with nothing.

        Args:
            body: Label Studio's request.

        Raises:
            UsageError: it cannot be read.
            PrelabelError: it cannot be answered.
        """
        asked = self._clock()
        request = await asyncio.to_thread(read_request, body)
        tasks = request["tasks"]
        answers: list[bytes] = []
        for start in range(0, max(1, len(tasks)), PIECE):
            ahead = tasks[start + PIECE : start + 2 * PIECE]
            part = {**request, "tasks": tasks[start : start + PIECE], "ahead": ahead}
            piece = body if len(tasks) <= PIECE else await asyncio.to_thread(_packed, part)
            answer = await self._piece(piece, asked)
            if answer is None:
                return _packed(nothing_known(tasks, NO_VERSION))
            answers.append(answer)
        return answers[0] if len(answers) == 1 else await asyncio.to_thread(_joined, answers)

    async def _piece(self, piece: bytes, asked: float) -> bytes | None:
        """The answer to a few tasks; None where there is none in time."""
        while True:
            unready = self._unready()
            async with self._lane.worker() as worker:
                if self._clock() - asked > GIVE_UP:
                    log.warning("A /predict was not answered: Label Studio has given it up.")
                    return None
                done, answer = await worker.run({"job": "predict"}, piece)
            left = asked + WAIT_FOR_FIRST - self._clock()
            if done["ready"]:
                return answer
            if not unready or left <= 0:
                return None
            await _first_of(unready, left)


def read_request(body: bytes) -> dict[str, Any]:
    """A ``/predict`` request; ``tasks`` is a list, maybe an empty one.

    Raises:
        UsageError: it is no JSON object, or its tasks are no list of objects.
    """
    try:
        request = json.loads(body)
    except ValueError as error:
        raise UsageError(f"/predict cannot be read: {error}.") from error
    tasks = (request.get("tasks") or []) if isinstance(request, dict) else None
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise UsageError("/predict cannot be read: it has no list of tasks.")
    return {**request, "tasks": tasks}


def _packed(value: Any) -> bytes:
    return json.dumps(value).encode()


def _joined(answers: list[bytes]) -> bytes:
    """One answer; a version that went live meanwhile stands at its own results."""
    read = [json.loads(answer) for answer in answers]
    results = [result for answer in read for result in answer["results"]]
    return _packed({**read[0], "results": results})


async def _first_of(unready: list[Watched], seconds: float) -> None:
    """Wait until one of them has its first version."""
    waiting = [asyncio.create_task(watched.ready.wait()) for watched in unready]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
