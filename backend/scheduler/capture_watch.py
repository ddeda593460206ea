"""When captured images are fetched: soon after they appear, one job at a time, beside rounds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from backend.errors import PrelabelError
from backend.records import CaptureCounts
from backend.scheduler.jobs import CaptureImportJob
from backend.scheduler.worker_pool import WorkerPool
from backend.store.captures import CaptureStore

log = logging.getLogger("prelabel")
IMPORT_JOB_SECONDS = 5.0
"""That a job may take before others get their turn."""
RETRY_DELAY_SECONDS = 15.0
"""Seconds until Label Studio is asked again after it refused."""


class CaptureWatcher:
    """The captures of one project, as the server sees them.

    Args:
        project: its id.
        captures: of it.
        worker_pool: processes that do the work.
        on_import: told when tasks were made.
    """

    def __init__(
        self,
        project: str,
        captures: CaptureStore,
        worker_pool: WorkerPool,
        on_import: Callable[[], None],
    ) -> None:
        self._project = project
        self._captures = captures
        self._worker_pool = worker_pool
        self._on_import = on_import
        self._checked_at = 0.0
        self._counts = CaptureCounts()
        self._is_importing = False

    def is_due(self) -> bool:
        """Whether something may wait: the endpoint wrote since the last job. Cheap."""
        return not self._is_importing and self._captures.last_modified() > self._checked_at

    def counts(self) -> CaptureCounts:
        """Return the counts after the last import."""
        return self._counts

    async def import_captures(self) -> None:
        """Bring back what waits; what cannot be brought now is tried again later."""
        if self._is_importing:
            return
        self._is_importing = True
        changed_at = self._captures.last_modified()
        try:
            job = CaptureImportJob(self._project, IMPORT_JOB_SECONDS)
            while True:
                async with self._worker_pool.acquire() as worker:
                    imported_count, _ = await worker.run(job)
                await self._update_counts()
                if not imported_count:
                    break
                self._on_import()
            self._checked_at = changed_at
        except PrelabelError as error:
            log.warning("project %s: captured images wait: %s", self._project, error)
            await asyncio.sleep(RETRY_DELAY_SECONDS)
        finally:
            self._is_importing = False

    async def _update_counts(self) -> None:
        self._counts = CaptureCounts(*await asyncio.to_thread(self._captures.counts))
