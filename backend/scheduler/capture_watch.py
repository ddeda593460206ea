"""When captured images are fetched: soon after they appear, one job at a time, beside rounds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from backend.errors import PrelabelError
from backend.scheduler.worker_pool import Lane
from backend.store.captures import Captures

log = logging.getLogger("prelabel")
SECONDS = 5.0
"""That a job may take before others get their turn."""
AGAIN = 15.0
"""Seconds until Label Studio is asked again after it refused."""


class Homecoming:
    """The captures of one project, as the server sees them.

    Args:
        project: its id.
        captures: of it.
        lane: processes that do the work.
        came: told when tasks were made.
    """

    def __init__(
        self, project: str, captures: Captures, lane: Lane, came: Callable[[], None]
    ) -> None:
        self._project = project
        self._captures = captures
        self._lane = lane
        self._came = came
        self._seen = 0.0
        self._counts = (0, 0)
        self._busy = False

    def due(self) -> bool:
        """Whether something may wait: the endpoint wrote since the last job. Cheap."""
        return not self._busy and self._captures.changed() > self._seen

    def counts(self) -> dict[str, int]:
        """How many wait, and how many became tasks."""
        waiting, returned = self._counts
        return {"waiting": waiting, "returned": returned}

    async def fetch(self) -> None:
        """Bring back what waits; what cannot be brought now is tried again later."""
        if self._busy:
            return
        self._busy = True
        seen = self._captures.changed()
        try:
            job = {"job": "return", "project": self._project, "seconds": SECONDS}
            while True:
                async with self._lane.worker() as worker:
                    done, _ = await worker.run(job)
                await self._count()
                if not done:
                    break
                self._came()
            self._seen = seen
        except PrelabelError as error:
            log.warning("project %s: captured images wait: %s", self._project, error)
            await asyncio.sleep(AGAIN)
        finally:
            self._busy = False

    async def _count(self) -> None:
        self._counts = await asyncio.to_thread(self._captures.counts)
