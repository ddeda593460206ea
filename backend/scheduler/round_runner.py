"""Run the rounds of each project: wait, run a round on a worker process, record its outcome."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from backend.callbacks import StateCallback
from backend.errors import (
    LongRoundError,
    NotFoundError,
    PrelabelError,
    ProjectMissingError,
    RoundCancelledError,
    RoundInProgressError,
    StoreError,
)
from backend.json_records import JsonObject, from_json
from backend.records import RoundOutcome, RoundRequest
from backend.scheduler.chores import ProjectChores
from backend.scheduler.jobs import RoundJob
from backend.scheduler.project_state import ProjectState
from backend.scheduler.registration import Registration
from backend.scheduler.supervise import Supervisor
from backend.scheduler.worker_pool import WorkerPool
from backend.settings import Settings
from backend.store.projects import ProjectStore, save_outcome
from backend.store.versions import VersionStore

log = logging.getLogger("prelabel")
DEBOUNCE_SECONDS = 0.2
"""Delay before a round starts, to debounce wake-ups."""
LONG_PAUSE_SECONDS = 180.0
"""Pause in labeling after which a single new label starts even a training that takes minutes."""
RETRY_MIN_SECONDS, RETRY_MAX_SECONDS = 5.0, 300.0
"""Delay before a failed round is retried; doubled after each failure."""
LOCKED_RETRY_SECONDS = 5.0
"""Delay before a round is retried if another process holds the project's lock."""


@dataclass(frozen=True)
class RoundRunner:
    """Run the rounds of projects.

    Attributes:
        settings: the settings.
        clock: monotonic clock in seconds.
        projects: the project store.
        registration: checks projects that never answered.
        workers: worker processes for rounds.
        chores: maintenance after rounds.
        supervisor: logs unexpected errors.
        commit_files: makes written files visible to other machines.
    """

    settings: Settings
    clock: Callable[[], float]
    projects: ProjectStore
    registration: Registration
    workers: WorkerPool
    chores: ProjectChores
    supervisor: Supervisor
    commit_files: Callable[[], None]

    async def run_forever(self, project: ProjectState) -> None:
        """Run a round whenever something wakes the project, or after the polling interval."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(project.wake_event.wait(), self._wait_seconds(project))
            await asyncio.sleep(DEBOUNCE_SECONDS)
            project.wake_event.clear()
            with self.supervisor.log_errors(f"the loop of project {project.record.id}"):
                await self._run_round(project)

    @property
    def _pauses(self) -> tuple[float, float]:
        """The short and the long pause in labeling, in seconds."""
        short = self.settings.quiet_seconds
        return short, max(short, LONG_PAUSE_SECONDS)

    def _wait_seconds(self, project: ProjectState) -> float:
        """Return the seconds until the next round, unless the project is woken before."""
        if project.locked_elsewhere:
            return LOCKED_RETRY_SECONDS
        if project.failures:
            return min(RETRY_MAX_SECONDS, RETRY_MIN_SECONDS * 2.0 ** (project.failures - 1))
        next_pauses = self._pauses[project.pauses_done :]
        if project.waiting_labels and not project.training_paused and next_pauses:
            remaining_seconds = project.last_labeled_at + next_pauses[0] - self.clock()
            return min(max(remaining_seconds, 0.0), self.settings.poll_seconds)
        return self.settings.poll_seconds

    async def _run_round(self, project: ProjectState) -> None:
        if project.training_paused and not project.live_version:
            return  # without a version a round could only train, and the training was cancelled
        quiet_time = self.clock() - project.last_labeled_at
        pauses_done = sum(quiet_time >= pause for pause in self._pauses)
        request = RoundRequest(
            forced=project.training_requested,
            quiet=pauses_done > 0,
            long_quiet=pauses_done > 1,
            hints=project.pending_events,
            held=project.training_paused,
        )
        project.training_requested = False
        try:
            await self.registration.check_reachable(project)
            async with project.round_lock:
                outcome = await self._run_round_job(project, request)
            self._finish_round(project, outcome, request)
            project.pauses_done = pauses_done
        except RoundInProgressError:  # in a command, which wakes the project afterwards
            project.set_state("idle")
            project.locked_elsewhere = True
            project.training_requested |= request.forced
        except RoundCancelledError as error:
            project.set_state("idle", str(error))
            project.training_paused = True
        except PrelabelError as error:
            self._fail_round(project, str(error), forced=request.forced)
            if isinstance(error, ProjectMissingError):
                project.record = self.projects.set_missing(project.record.id)
        except Exception as error:  # a bug must not end the loop
            log.exception("project %s", project.record.id)
            self._fail_round(project, f"{type(error).__name__}: {error}", forced=request.forced)
        await asyncio.to_thread(self.commit_files)

    async def _run_round_job(self, project: ProjectState, request: RoundRequest) -> RoundOutcome:
        """Run a round in a worker process, as soon as one is free."""

        def report(state: str, progress: float, detail: str) -> None:
            if state == "training" and detail and detail != project.detail:
                log.info("project %s: %s", project.record.id, detail)
            if state != project.state or (state == "training" and detail != project.detail):
                self.refresh_live(project)  # a quick version may have been promoted
            project.set_state(state, detail, progress)
            project.recent_labels.note_state(state)

        project.locked_elsewhere = False
        try:
            outcome = await self._run_on_worker(project, request, report, accepts_quick=True)
        except LongRoundError:
            outcome = await self._run_on_worker(project, request, report, accepts_quick=False)
        return from_json(RoundOutcome, outcome)

    async def _run_on_worker(
        self,
        project: ProjectState,
        request: RoundRequest,
        report: StateCallback,
        *,
        accepts_quick: bool,
    ) -> JsonObject:
        project.is_waiting = True
        try:
            async with self.workers.acquire(project.turn, accepts_quick=accepts_quick) as worker:
                project.worker, project.is_waiting = worker, False
                project.recent_labels.start_round()
                quick = self.workers.is_quick(worker)
                job = RoundJob(project.record.id, replace(request, quick=quick))
                outcome, _ = await worker.run(job, report=report)
        finally:
            project.is_cancelling = False
            project.worker, project.is_waiting = None, False  # it may run another project's job
        result: JsonObject = outcome
        return result

    def _finish_round(
        self, project: ProjectState, outcome: RoundOutcome, request: RoundRequest
    ) -> None:
        is_full_round, outcome = outcome.cleanup, replace(outcome, cleanup=False)
        if is_full_round:
            project.pending_events -= request.hints  # more events may have arrived during the round
        if outcome.full_training_due:
            project.wake_event.set()
        project.waiting_labels = outcome.waiting
        project.recent_labels.finish_round(is_full=is_full_round)
        if request.forced:
            project.untrained_reason = outcome.untrained_reason
            if project.untrained_reason:
                log.info("project %s: %s", project.record.id, project.untrained_reason)
        elif outcome.trained or outcome.waiting or outcome.labels != project.outcome.labels:
            project.untrained_reason = ""
        project.set_state("idle", project.untrained_reason, progress=1.0)
        project.error, project.failures = "", 0
        if project.record.missing_since:
            project.record = self.projects.set_present(project.record.id)
        if outcome != project.outcome:
            project.outcome = outcome
            with contextlib.suppress(StoreError):  # the file is only needed at the next start
                save_outcome(self.projects.folder(project.record.id), outcome)
        self.refresh_live(project)
        if not outcome.full_training_due:
            self.chores.start_after_round(project, outcome, is_full_round=is_full_round)

    def _fail_round(self, project: ProjectState, error: str, forced: bool) -> None:
        if error != project.error:
            log.error("project %s: %s", project.record.id, error)
        project.set_state("failed")
        project.error = error
        project.failures += 1
        project.training_requested |= forced
        self.refresh_live(project)

    def refresh_live(self, project: ProjectState) -> None:
        """Read the live version; a failed round may have promoted one."""
        with contextlib.suppress(NotFoundError, StoreError):
            card = VersionStore(self.projects.folder(project.record.id)).live_card()
            project.live_version = card.version if card else ""
            project.live_is_quick = card is not None and card.is_quick
        if project.live_version:
            project.ready_event.set()
