"""What is done beside rounds: removing, looking through, warming up, bringing home."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from backend.errors import PrelabelError, RoundInProgressError
from backend.records import RoundOutcome
from backend.scheduler.jobs import CleanupJob, Job, LabelCheckJob, WarmUpJob
from backend.scheduler.project_state import ProjectState
from backend.scheduler.supervise import Supervisor
from backend.scheduler.worker_pool import WorkerPool

log = logging.getLogger("prelabel")
CLEANUP_TURN_SECONDS = 0.5
"""How long old predictions are removed before others get their turn."""
LABEL_CHECK_DELAY_SECONDS = 20.0
"""Seconds after a round until labels are looked through, if nothing newer has come meanwhile."""
LABEL_CHECK_RETRY_SECONDS, LABEL_CHECK_RETRIES = 3.0, 200
"""Seconds until that is tried again where a round is under way, as at each label, and how often."""


class ProjectChores:
    """Starts them; each ends by itself, or with the service.

    Args:
        round_workers: processes that run rounds.
        prediction_workers: processes that answer.
        supervisor: is told what nobody foresaw.
    """

    def __init__(
        self, round_workers: WorkerPool, prediction_workers: WorkerPool, supervisor: Supervisor
    ) -> None:
        self._round_workers = round_workers
        self._prediction_workers = prediction_workers
        self._supervisor = supervisor
        self._running_tasks: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """End all that are under way."""
        running = list(self._running_tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def start_after_round(
        self, project_state: ProjectState, outcome: RoundOutcome, *, is_full_round: bool
    ) -> None:
        """What a round leaves to be done.

        Args:
            project_state: the project.
            outcome: the round's.
            is_full_round: it looked at everything: retired versions may have predictions left.
        """
        if is_full_round and len(outcome.versions) > 1 and not project_state.is_cleaning:
            project_state.is_cleaning = True
            self._start(project_state, self._remove_old_predictions(project_state))
        if outcome.trained and outcome.trained == project_state.live_version:
            self._start(project_state, self._find_label_errors(project_state))
        has_smart_tools = any(control.smart for control in outcome.controls)
        if has_smart_tools and project_state.warmed_version != project_state.live_version:
            project_state.warmed_version = project_state.live_version
            self._start(project_state, self._warm_smart_tools(project_state))

    def start_capture_import(self, project_state: ProjectState) -> None:
        """Captured images, where some may wait."""
        if project_state.live_version and project_state.capture_watcher.is_due():
            self._start(project_state, project_state.capture_watcher.import_captures())

    def _start(self, project_state: ProjectState, coroutine: Coroutine[Any, Any, None]) -> None:
        async def run_guarded() -> None:
            with self._supervisor.log_errors(f"project {project_state.record.id}"):
                await coroutine

        task = asyncio.create_task(run_guarded())
        self._running_tasks.add(task)
        task.add_done_callback(self._running_tasks.discard)

    async def _remove_old_predictions(self, project_state: ProjectState) -> None:
        """Remove what retired versions left in Label Studio, a little at a time.

        Rounds go first, and half of the time belongs to the annotators.
        """
        remaining = 1
        try:
            while remaining:
                if not project_state.wants_round:
                    async with project_state.round_lock:  # a round may be waiting already
                        remaining = await self._remove_some_predictions(project_state, remaining)
                await asyncio.sleep(CLEANUP_TURN_SECONDS if remaining else 0)
        finally:
            project_state.is_cleaning = False

    async def _remove_some_predictions(self, project_state: ProjectState, remaining: int) -> int:
        """Predictions that are left; as many as before while the command line is at work."""
        try:
            job = CleanupJob(project_state.record.id, CLEANUP_TURN_SECONDS)
            return int(await self._run_job(self._round_workers, job))
        except RoundInProgressError:
            return remaining
        except PrelabelError as error:
            log.warning(
                "project %s: old predictions stay for now: %s", project_state.record.id, error
            )
            return 0

    async def _find_label_errors(self, project_state: ProjectState) -> None:
        """Look for wrong labels among those that the new version learned from."""
        version = project_state.live_version
        await asyncio.sleep(LABEL_CHECK_DELAY_SECONDS)
        for _ in range(LABEL_CHECK_RETRIES):
            if project_state.live_version != version or project_state.state == "idle":
                break
            await asyncio.sleep(LABEL_CHECK_RETRY_SECONDS)
        if project_state.live_version != version or project_state.state != "idle":
            return  # the next version's labels are looked through instead
        try:
            await self._run_job(self._round_workers, LabelCheckJob(project_state.record.id))
        except PrelabelError as error:
            log.warning(
                "project %s: labels are not looked through: %s", project_state.record.id, error
            )

    async def _warm_smart_tools(self, project_state: ProjectState) -> None:
        """Load what smart tools need; the first click else waits for a process and its models."""
        try:
            job = WarmUpJob(project_state.record.id, project_state.live_version)
            await self._run_job(self._prediction_workers, job)
        except PrelabelError as error:
            log.warning("project %s: smart tools start slowly: %s", project_state.record.id, error)

    async def _run_job(self, worker_pool: WorkerPool, job: Job) -> Any:
        async with worker_pool.acquire() as worker:
            result, _ = await worker.run(job)
        return result
