"""Start jobs that import captured images into Label Studio soon after they were stored."""

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
"""Time limit of one import job, so that other jobs are not blocked."""
RETRY_DELAY_SECONDS = 15.0
"""Delay before a failed import is retried."""


class CaptureWatcher:
    """Start an import job when the endpoint has stored captures of a project.

    Args:
        project: id of the project.
        captures: the project's captures.
        worker_pool: runs the import jobs.
        on_import: called after an import has created tasks.
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
        """Return whether the captures have changed since the last import."""
        return not self._is_importing and self._captures.last_modified() > self._checked_at

    def counts(self) -> CaptureCounts:
        """Return the counts after the last import."""
        return self._counts

    async def import_captures(self) -> None:
        """Run import jobs until all captures are imported; a failed job is retried."""
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
            log.warning("project %s: captures could not be imported: %s", self._project, error)
            await asyncio.sleep(RETRY_DELAY_SECONDS)
        finally:
            self._is_importing = False

    async def _update_counts(self) -> None:
        self._counts = CaptureCounts(*await asyncio.to_thread(self._captures.counts))
