"""Maintenance between rounds: remove old predictions, check labels, warm up, import captures."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

from backend.errors import PrelabelError, RoundInProgressError
from backend.records import RoundOutcome
from backend.scheduler.jobs import (
    CleanupJob,
    Job,
    LabelCheckJob,
    PreloadJob,
    PublishJob,
    WarmUpJob,
)
from backend.scheduler.project_state import ProjectState
from backend.scheduler.supervise import Supervisor, cancel_all
from backend.scheduler.worker_pool import WorkerPool

log = logging.getLogger("prelabel")
CLEANUP_JOB_SECONDS = 0.5
"""Time limit of one cleanup job, and pause between two, so that other jobs are not blocked."""
LABEL_CHECK_DELAY_SECONDS = 20.0
"""Delay of the label check after a round; a newer version restarts it."""
LABEL_CHECK_RETRY_SECONDS, LABEL_CHECK_RETRIES = 3.0, 200
"""Interval and number of retries of the label check while rounds are running."""


class ProjectChores:
    """Start the maintenance jobs of projects.

    Args:
        round_workers: worker processes for rounds.
        prediction_workers: worker processes for predictions.
        supervisor: logs unexpected errors.
    """

    def __init__(
        self, round_workers: WorkerPool, prediction_workers: WorkerPool, supervisor: Supervisor
    ) -> None:
        self._round_workers = round_workers
        self._prediction_workers = prediction_workers
        self._supervisor = supervisor
        self._running_tasks: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Cancel all running jobs."""
        await cancel_all(self._running_tasks)

    def start_preload(self, project_states: Sequence[ProjectState]) -> None:
        """Load the live versions of projects in the order given.

        Each is a job of its own, so that a request waits for one of them at most.
        """
        self._start("the live versions", self._preload(project_states))

    def start_after_round(
        self, project_state: ProjectState, outcome: RoundOutcome, *, is_full_round: bool
    ) -> None:
        """Start the maintenance jobs after a round.

        Args:
            project_state: the project.
            outcome: the round's outcome.
            is_full_round: whether the round compared all tasks; predictions of retired versions are
                removed only then.
        """
        name = _log_name(project_state)
        if is_full_round and not project_state.is_cleaning:
            project_state.is_cleaning = True
            self._start(name, self._remove_old_predictions(project_state))
        if outcome.trained and outcome.trained == project_state.live_version:
            self._start(name, self._find_label_errors(project_state))
        has_smart_tools = any(control.smart for control in outcome.controls)
        if has_smart_tools and project_state.warmed_version != project_state.live_version:
            project_state.warmed_version = project_state.live_version
            self._start(name, self._warm_smart_tools(project_state))

    def start_publish(self, project_state: ProjectState) -> None:
        """Publish a version that a person made live, without waiting for the current round."""
        self._start(_log_name(project_state), self._publish(project_state))

    def start_capture_import(self, project_state: ProjectState) -> None:
        """Import captured images if there are new ones."""
        if project_state.live_version and project_state.capture_watcher.is_due():
            self._start(_log_name(project_state), project_state.capture_watcher.import_captures())

    def _start(self, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        async def run_guarded() -> None:
            with self._supervisor.log_errors(name):
                await coroutine

        task = asyncio.create_task(run_guarded())
        self._running_tasks.add(task)
        task.add_done_callback(self._running_tasks.discard)

    async def _publish(self, project_state: ProjectState) -> None:
        job = PublishJob(project_state.record.id)
        try:
            async with self._round_workers.acquire(
                project_state.turn, accepts_quick=True
            ) as worker:
                await worker.run(job)
        except PrelabelError as error:  # the current round publishes it, or the next one
            log.warning("project %s: not published yet: %s", project_state.record.id, error)

    async def _remove_old_predictions(self, project_state: ProjectState) -> None:
        """Remove predictions of retired versions from Label Studio in short jobs.

        Rounds have priority, and pauses keep Label Studio responsive for annotators.
        """
        remaining = 1
        try:
            while remaining:
                if not project_state.is_busy:
                    async with project_state.round_lock:  # a round may hold it by now
                        remaining = await self._remove_some_predictions(project_state, remaining)
                await asyncio.sleep(CLEANUP_JOB_SECONDS if remaining else 0)
        finally:
            project_state.is_cleaning = False

    async def _remove_some_predictions(self, project_state: ProjectState, remaining: int) -> int:
        """Return the number of predictions left; unchanged if another process runs a round."""
        try:
            job = CleanupJob(project_state.record.id, CLEANUP_JOB_SECONDS)
            return int(await self._run_job(self._round_workers, job))
        except RoundInProgressError:
            return remaining
        except PrelabelError as error:
            message = "project %s: old predictions could not be removed: %s"
            log.warning(message, project_state.record.id, error)
            return 0

    async def _find_label_errors(self, project_state: ProjectState) -> None:
        """Check the labels that the new version was trained on."""
        version = project_state.live_version
        await asyncio.sleep(LABEL_CHECK_DELAY_SECONDS)
        for _ in range(LABEL_CHECK_RETRIES):
            if project_state.live_version != version or project_state.state == "idle":
                break
            await asyncio.sleep(LABEL_CHECK_RETRY_SECONDS)
        if project_state.live_version != version or project_state.state != "idle":
            return  # a newer version starts its own check
        try:
            await self._run_job(self._round_workers, LabelCheckJob(project_state.record.id))
        except PrelabelError as error:
            log.warning("project %s: the label check failed: %s", project_state.record.id, error)

    async def _warm_smart_tools(self, project_state: ProjectState) -> None:
        """Load the models of smart tools, so that the first click is not slowed down."""
        try:
            job = WarmUpJob(project_state.record.id, project_state.live_version)
            await self._run_job(self._prediction_workers, job)
        except PrelabelError as error:
            message = "project %s: the models of smart tools could not be preloaded: %s"
            log.warning(message, project_state.record.id, error)

    async def _preload(self, project_states: Sequence[ProjectState]) -> None:
        for project_state in project_states:
            try:
                await self._run_job(self._prediction_workers, PreloadJob(project_state.record.id))
            except PrelabelError as error:
                message = "project %s: the live version could not be preloaded: %s"
                log.warning(message, project_state.record.id, error)

    async def _run_job(self, worker_pool: WorkerPool, job: Job) -> Any:
        async with worker_pool.acquire() as worker:
            result, _ = await worker.run(job)
        return result


def _log_name(project_state: ProjectState) -> str:
    return f"project {project_state.record.id}"
