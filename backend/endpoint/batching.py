"""Batch the images of concurrent requests into one call of the model.

Requests that arrive while the model is busy are queued and processed as one batch. A request that
arrives while it is idle is processed at once.
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
    """A queue of items that are processed in batches.

    Args:
        process_batch: returns one output per item; called in the executor.
        max_batch_size: maximum number of items per batch.
        executor: runs the batches.
        max_queued: maximum queue length; further items are rejected.
        concurrency: number of concurrent batches.
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
        """Return the outputs of items, in the same order.

        Raises:
            ProblemError: too many items are queued.
            Exception: raised by ``process_batch`` for one of the items.
        """
        if len(self._queue) + len(items) > self._max_queued:
            message = "Too many requests are waiting: try again in a second."
            raise ProblemError(503, "busy", message, {"retry-after": "1"})
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in items]
        self._queue.extend(zip(items, futures, strict=True))
        if len(self._tasks) < self._concurrency:
            self._tasks.add(loop.create_task(self._drain_queue()))
        return list(await asyncio.gather(*futures))

    async def _drain_queue(self) -> None:
        try:
            while self._queue:
                batch_size = min(self._max_batch_size, len(self._queue))
                batch = [self._queue.popleft() for _ in range(batch_size)]
                # the future of a caller that disconnected is cancelled, and so done
                await self._run_batch([entry for entry in batch if not entry[1].done()])
        finally:  # not in a done callback: the next submit must see the free slot
            self._tasks -= {task for task in self._tasks if task is asyncio.current_task()}

    async def _run_batch(self, batch: list[tuple[BatchItem, asyncio.Future[BatchOutput]]]) -> None:
        """Process a batch; if it fails, process each item alone, so that only bad items fail."""
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
