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

from backend.endpoint.problems import ProblemError

BatchItem = TypeVar("BatchItem")
BatchOutput = TypeVar("BatchOutput")
MAX_QUEUED_ITEMS = 512


class Batcher(Generic[BatchItem, BatchOutput]):
    """Gathers.

    Args:
        process_batch: some questions → as many answers; called by one thread at a time.
        max_batch_size: questions at once.
        executor: where it is called.
        max_queued: questions beyond which nobody else may wait.
        concurrency: looks at the same time.
    """

    def __init__(
        self,
        process_batch: Callable[[list[BatchItem]], Sequence[BatchOutput]],
        max_batch_size: int,
        executor: Executor,
        max_queued: int = MAX_QUEUED_ITEMS,
        concurrency: int = 1,
    ) -> None:
        self._process_batch = process_batch
        self._max_batch_size = max_batch_size
        self._executor = executor
        self._max_queued = max_queued
        self._queue: deque[tuple[BatchItem, asyncio.Future[BatchOutput]]] = deque()
        self._concurrency = concurrency
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, items: Sequence[BatchItem]) -> list[BatchOutput]:
        """The answers to some questions, in their order.

        Raises:
            ProblemError: too many wait already.
            Exception: what the answering raised.
        """
        if len(self._queue) + len(items) > self._max_queued:
            raise ProblemError(
                503, "busy", "Too many requests wait: ask again in a second.", {"retry-after": "1"}
            )
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in items]
        self._queue.extend(zip(items, futures, strict=True))
        if len(self._tasks) < self._concurrency:
            self._tasks.add(loop.create_task(self._drain_queue()))
        return list(await asyncio.gather(*futures))

    async def _drain_queue(self) -> None:
        try:
            while self._queue:
                batch = [self._queue.popleft() for _ in range(self._next_batch_size())]
                batch = [entry for entry in batch if not entry[1].done()]  # their callers went away
                await self._run_batch(batch)
        finally:  # at once, so that whoever asks now finds a free lane
            self._tasks -= {task for task in self._tasks if task is asyncio.current_task()}

    def _next_batch_size(self) -> int:
        return min(self._max_batch_size, len(self._queue))

    async def _run_batch(self, batch: list[tuple[BatchItem, asyncio.Future[BatchOutput]]]) -> None:
        """One look; where it fails each is tried alone, so that a bad one costs nobody else."""
        if not batch:
            return
        loop = asyncio.get_running_loop()
        try:
            items = [item for item, _ in batch]
            results = await loop.run_in_executor(self._executor, self._process_batch, items)
        except Exception as error:
            if len(batch) > 1:
                for entry in batch:
                    await self._run_batch([entry])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
