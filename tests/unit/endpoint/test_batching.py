"""Waiting requests are processed together, and a bad one affects no other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.endpoint.batching import Batcher
from backend.endpoint.problems import ProblemError


class Doubler:
    """Doubles numbers after ``free`` is set, and records the batch sizes."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.free = threading.Event()

    def __call__(self, numbers: list[int]) -> Sequence[int]:
        self.sizes.append(len(numbers))
        assert self.free.wait(10)
        if 13 in numbers:
            raise ValueError("thirteen")
        return [2 * number for number in numbers]


async def begun(doubler: Doubler) -> None:
    """Wait until the first batch is being processed."""
    for _ in range(5000):
        if doubler.sizes:
            return
        await asyncio.sleep(0.001)


async def held(doubler: Doubler, batcher: Batcher[int, int], *asked: int) -> list[object]:
    """Submit one item, and the others while it is being processed."""
    tasks = [asyncio.create_task(batcher.submit([asked[0]]))]
    await begun(doubler)
    tasks += [asyncio.create_task(batcher.submit([number])) for number in asked[1:]]
    await asyncio.sleep(0.01)
    doubler.free.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_items_submitted_during_a_batch_form_the_next_ones() -> None:
    doubler = Doubler()
    batcher = Batcher(doubler, 4, ThreadPoolExecutor(1))
    answers = asyncio.run(held(doubler, batcher, 1, 2, 3, 4, 5, 6))
    assert answers == [[2], [4], [6], [8], [10], [12]]
    assert doubler.sizes == [1, 4, 1]


def test_an_item_that_fails_does_not_fail_the_others() -> None:
    doubler = Doubler()
    batcher = Batcher(doubler, 8, ThreadPoolExecutor(1))
    answers = asyncio.run(held(doubler, batcher, 1, 2, 13, 4))
    assert answers[:2] == [[2], [4]]
    assert isinstance(answers[2], ValueError)
    assert answers[3] == [8]


def test_items_beyond_the_queue_limit_are_refused() -> None:
    doubler = Doubler()
    batcher = Batcher(doubler, 2, ThreadPoolExecutor(1), max_queued=3)
    answers = asyncio.run(held(doubler, batcher, 1, 2, 3, 4, 5, 6))
    refused = [answer for answer in answers if isinstance(answer, ProblemError)]
    assert [problem.status for problem in refused] == [503, 503]
    assert refused[0].headers == {"retry-after": "1"}


def test_batches_run_at_the_same_time_and_no_slot_is_lost() -> None:
    both = threading.Barrier(2, timeout=10)

    def together(numbers: list[int]) -> Sequence[int]:
        both.wait()  # passes only with two batches at once
        return numbers

    async def ask() -> list[list[int]]:
        batcher = Batcher(together, 1, ThreadPoolExecutor(2), concurrency=2)
        results: list[list[int]] = []
        for _ in range(50):
            results += await asyncio.gather(batcher.submit([1]), batcher.submit([2]))
        return results

    assert asyncio.run(ask()) == [[1], [2]] * 50


def test_cancelled_items_are_not_processed() -> None:
    doubler = Doubler()
    batcher = Batcher(doubler, 8, ThreadPoolExecutor(1))

    async def leave() -> None:
        first = asyncio.create_task(batcher.submit([1]))
        await begun(doubler)
        second = asyncio.create_task(batcher.submit([2]))
        await asyncio.sleep(0.01)
        second.cancel()
        await asyncio.sleep(0.01)
        doubler.free.set()
        assert await first == [2]
        with pytest.raises(asyncio.CancelledError):
            await second
        assert await batcher.submit([3]) == [6]

    asyncio.run(leave())
    assert doubler.sizes == [1, 1]
