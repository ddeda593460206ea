"""What is done beside rounds: removing, looking through, warming up, bringing home."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from backend.errors import Busy, PrelabelError
from backend.scheduler.project_state import Watched
from backend.scheduler.supervise import Tending
from backend.scheduler.worker_pool import Lane

log = logging.getLogger("prelabel")
CLEANUP_SECONDS = 0.5
"""How long old predictions are removed before others get their turn."""
INSPECT_AFTER = 20.0
"""Seconds after a round until labels are looked through, if nothing newer has come meanwhile."""
INSPECT_AGAIN, INSPECT_TRIES = 3.0, 200
"""Seconds until that is tried again where a round is under way, as at each label, and how often."""


class Chores:
    """Starts them; each ends by itself, or with the service.

    Args:
        rounds: processes that run rounds.
        predictions: processes that answer.
        tending: is told what nobody foresaw.
    """

    def __init__(self, rounds: Lane, predictions: Lane, tending: Tending) -> None:
        self._rounds = rounds
        self._predictions = predictions
        self._tending = tending
        self._running: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """End all that are under way."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def after_round(self, watched: Watched, outcome: dict[str, Any], *, looked: bool) -> None:
        """What a round leaves to be done.

        Args:
            watched: the project.
            outcome: the round's.
            looked: it looked at everything: retired versions may have predictions left.
        """
        if looked and len(outcome["versions"]) > 1 and not watched.cleaning:
            watched.cleaning = True
            self._start(watched, self._clean(watched))
        if outcome["trained"] and outcome["trained"] == watched.live:
            self._start(watched, self._inspect(watched))
        smart = any(control.get("smart") for control in outcome["controls"])
        if smart and watched.warmed != watched.live:
            watched.warmed = watched.live
            self._start(watched, self._warm(watched))

    def bring_home(self, watched: Watched) -> None:
        """Captured images, where some may wait."""
        if watched.live and watched.home.due():
            self._start(watched, watched.home.fetch())

    def _start(self, watched: Watched, work: Coroutine[Any, Any, None]) -> None:
        async def borne() -> None:
            with self._tending.bearing(f"project {watched.record.id}"):
                await work

        task = asyncio.create_task(borne())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _clean(self, watched: Watched) -> None:
        """Remove what retired versions left in Label Studio, a little at a time.

        Rounds go first, and half of the time belongs to the annotators.
        """
        job = {"job": "cleanup", "seconds": CLEANUP_SECONDS}
        left = 1
        try:
            while left:
                if not watched.wants_round:
                    async with watched.turn:  # a round may be waiting already
                        left = await self._left(watched, job, left)
                await asyncio.sleep(CLEANUP_SECONDS if left else 0)
        finally:
            watched.cleaning = False

    async def _left(self, watched: Watched, job: dict[str, Any], left: int) -> int:
        """Predictions that are left; as many as before while the command line is at work."""
        try:
            return int(await self._run(self._rounds, watched, job))
        except Busy:
            return left
        except PrelabelError as error:
            log.warning("project %s: old predictions stay for now: %s", watched.record.id, error)
            return 0

    async def _inspect(self, watched: Watched) -> None:
        """Look for wrong labels among those that the new version learned from."""
        version = watched.live
        await asyncio.sleep(INSPECT_AFTER)
        for _ in range(INSPECT_TRIES):
            if watched.live != version or watched.state == "idle":
                break
            await asyncio.sleep(INSPECT_AGAIN)
        if watched.live != version or watched.state != "idle":
            return  # the next version's labels are looked through instead
        try:
            await self._run(self._rounds, watched, {"job": "inspect"})
        except PrelabelError as error:
            log.warning("project %s: labels are not looked through: %s", watched.record.id, error)

    async def _warm(self, watched: Watched) -> None:
        """Load what smart tools need; the first click else waits for a process and its models."""
        try:
            await self._run(self._predictions, watched, {"job": "warm", "version": watched.live})
        except PrelabelError as error:
            log.warning("project %s: smart tools start slowly: %s", watched.record.id, error)

    async def _run(self, lane: Lane, watched: Watched, job: dict[str, Any]) -> Any:
        async with lane.worker() as worker:
            done, _ = await worker.run({**job, "project": watched.record.id})
        return done
