"""Requests that wait at the same time → one look of the model at all of their images.

Nobody waits for others to come: while the model is busy requests gather, and when it is free it
takes them all. Alone, a request is answered at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

from backend.endpoint.problems import Problem

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
MOST_WAITING = 512


class Batcher(Generic[Asked, Answer]):
    """Gathers.

    Args:
        answer: some questions → as many answers; called by one thread at a time.
        most: questions at once.
        thread: where it is called.
        most_waiting: questions beyond which nobody else may wait.
        lanes: looks at the same time.
    """

    def __init__(
        self,
        answer: Callable[[list[Asked]], Sequence[Answer]],
        most: int,
        thread: Executor,
        most_waiting: int = MOST_WAITING,
        lanes: int = 1,
    ) -> None:
        self._answer = answer
        self._most = most
        self._thread = thread
        self._most_waiting = most_waiting
        self._waiting: deque[tuple[Asked, asyncio.Future[Answer]]] = deque()
        self._lanes = lanes
        self._working: set[asyncio.Task[None]] = set()

    async def ask(self, questions: Sequence[Asked]) -> list[Answer]:
        """The answers to some questions, in their order.

        Raises:
            Problem: too many wait already.
            Exception: what the answering raised.
        """
        if len(self._waiting) + len(questions) > self._most_waiting:
            raise Problem(
                503, "busy", "Too many requests wait: ask again in a second.", {"retry-after": "1"}
            )
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in questions]
        self._waiting.extend(zip(questions, futures, strict=True))
        if len(self._working) < self._lanes:
            self._working.add(loop.create_task(self._work()))
        return list(await asyncio.gather(*futures))

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(self._next())]
                batch = [pair for pair in batch if not pair[1].done()]  # their callers went away
                await self._look(batch)
        finally:  # at once, so that whoever asks now finds a free lane
            self._working -= {task for task in self._working if task is asyncio.current_task()}

    def _next(self) -> int:
        return min(self._most, len(self._waiting))

    async def _look(self, batch: list[tuple[Asked, asyncio.Future[Answer]]]) -> None:
        """One look; where it fails each is tried alone, so that a bad one costs nobody else."""
        if not batch:
            return
        loop = asyncio.get_running_loop()
        try:
            questions = [question for question, _ in batch]
            answers = await loop.run_in_executor(self._thread, self._answer, questions)
        except Exception as error:
            if len(batch) > 1:
                for pair in batch:
                    await self._look([pair])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)
