"""The scheduler: answers requests from memory and runs rounds in worker processes.

It runs on one event loop and never blocks it. Webhooks, buttons, timers and files only *wake* a
project; a round in a worker process then compares Label Studio with the newest version and acts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from backend.errors import (
    NotFoundError,
    PrelabelError,
    RoundCancelledError,
    RoundInProgressError,
    StoreError,
    UsageError,
)
from backend.json_records import from_json
from backend.label_studio.ml_protocol import parse_project
from backend.records import ProjectStatus, RoundOutcome, RoundRequest
from backend.runtime.connection import is_server_reachable, parse_created_at
from backend.scheduler.capture_watch import CaptureWatcher
from backend.scheduler.chores import ProjectChores
from backend.scheduler.jobs import RoundJob
from backend.scheduler.predict_queue import NO_VERSION, PredictQueue
from backend.scheduler.project_state import ProjectState
from backend.scheduler.supervise import Supervisor
from backend.scheduler.worker_pool import (
    PREDICTION_NICENESS,
    TRAINING_NICENESS,
    WORKER_COMMAND,
    WorkerPool,
)
from backend.settings import Settings
from backend.store import wake
from backend.store.files import sweep_temporary_files
from backend.store.projects import ProjectRecord, ProjectStore, read_outcome, save_outcome
from backend.store.servers import is_same_server
from backend.store.versions import VersionStore

log = logging.getLogger("prelabel")
DEBOUNCE_SECONDS = 0.2
"""Time in which further wake-ups are merged before a round starts."""
RETRY_MIN_SECONDS, RETRY_MAX_SECONDS = 5.0, 300.0
"""Delay until a failed round is retried; doubled after each failure."""
LOCKED_RETRY_SECONDS = 5.0
"""Delay until a round is retried after another process held the project's lock."""
HOME_POLL_SECONDS = 1.0
"""Polling interval of the home folder, for requests of other processes."""
WAITING_MESSAGE = "It waits until something else that is under way is done."


class Service:
    """Schedules the rounds of all projects.

    Args:
        settings: the backend's settings.
        clock: monotonic clock in seconds.
        commit_files: makes written files visible to other machines; not needed on a local disk.
        reload_files: makes files of other machines visible; not needed on a local disk.
        worker_command: command of the worker processes.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
        commit_files: Callable[[], None] = lambda: None,
        reload_files: Callable[[], None] = lambda: None,
        worker_command: Sequence[str] = WORKER_COMMAND,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._commit_files = commit_files
        self._reload_files = reload_files
        self._projects = ProjectStore(settings.home, settings.endpoint_data_dir)
        self._project_states: dict[str, ProjectState] = {}
        self._loop_tasks: dict[str, asyncio.Task[None]] = {}
        self._round_workers = WorkerPool(settings.workers, TRAINING_NICENESS, worker_command)
        self._prediction_workers = WorkerPool(1, PREDICTION_NICENESS, worker_command)
        self._supervisor = Supervisor()
        self._chores = ProjectChores(
            self._round_workers, self._prediction_workers, self._supervisor
        )
        self._predict_queue = PredictQueue(self._prediction_workers, clock, self._unready_projects)
        self._poll_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load the projects of the home folder and start a round of each."""
        name = "the home folder"
        with self._supervisor.log_errors(name):
            await asyncio.to_thread(sweep_temporary_files, self.settings.home)
        with self._supervisor.log_errors(name):
            self._scan_home()
        polling = self._supervisor.run_forever(HOME_POLL_SECONDS, name, self._poll_home)
        self._poll_task = asyncio.create_task(polling)

    async def stop(self) -> None:
        """Stop all work; an interrupted round is repeated at the next start."""
        running_tasks = [*self._loop_tasks.values()]
        running_tasks += [self._poll_task] if self._poll_task else []
        for task in running_tasks:
            task.cancel()
        await asyncio.gather(*running_tasks, return_exceptions=True)
        await self._chores.stop()
        await self._round_workers.stop()
        await self._prediction_workers.stop()

    # -- the ML backend protocol ------------------------------------------------------------

    async def setup(self, project: str, server: str, token: str) -> str:
        """Connect a project.

        Args:
            project: ``"<number>.<time of creation, seconds since 1970>"``.
            server: Label Studio's address as it reports it; may be empty.
            token: token of the project's creator; may be empty.

        Returns:
            the live version's name, or a placeholder before the first one.

        Raises:
            UsageError: the project is missing, or its server is not allowed.
        """
        number, created = parse_project({"project": project})
        if not number:
            raise UsageError(f"/setup names no project: {project[:40]!a}.")
        server = self._check_server(server)
        record = await asyncio.to_thread(
            self._projects.register, server, number, created, token, is_server_reachable
        )
        project_state = self._add_project(record)
        if project_state.error:  # the new token may work
            project_state.wake_event.set()
        return project_state.live_version or NO_VERSION

    def wake(
        self, project: Mapping[str, Any] | None, *, forced: bool = False, labels: int = 0
    ) -> list[str]:
        """Start rounds because something may have changed.

        Args:
            project: Label Studio's project JSON with ``id`` and ``created_at``; None for all.
            forced: train, as Start Training does.
            labels: number of annotations that may have changed.

        Returns:
            the ids of the woken projects.
        """
        number = (project or {}).get("id")
        created = parse_created_at(str((project or {}).get("created_at") or ""))
        woken = [
            w
            for w in self._project_states.values()
            if number is None or w.record.matches(number, created)
        ]
        for project_state in woken:
            self._wake_project(project_state, forced, labels)
        return [project_state.record.id for project_state in woken]

    async def predict(self, body: bytes) -> bytes:
        """Answer a ``/predict`` request; see :meth:`PredictQueue.predict`."""
        return await self._predict_queue.predict(body)

    def versions(self) -> list[str]:
        """Return the versions of all projects, because the request names none."""
        return [name for state in self._project_states.values() for name in state.outcome.versions]

    # -- the dashboard and the API ----------------------------------------------------------

    def projects(self) -> list[ProjectStatus]:
        """Return the status of all projects."""
        return [project_state.status() for project_state in self._project_states.values()]

    def project(self, id: str) -> ProjectStatus:
        """Return the status of a project.

        Raises:
            NotFoundError: no project has this id.
        """
        return self._project_state(id).status()

    async def cancel(self, id: str) -> ProjectStatus:
        """Cancel the round of a project while it trains; its live version stays.

        Raises:
            NotFoundError: no project has this id.
        """
        project_state = self._project_state(id)
        if project_state.worker is not None and project_state.state == "training":
            await project_state.worker.cancel()
        return project_state.status()

    async def train(self, id: str) -> None:
        """Start training, however few labels are new.

        Raises:
            NotFoundError: no project has this id.
        """
        self._wake_project(self._project_state(id), forced=True)

    async def promote(self, id: str, version: str, by: str, reason: str) -> None:
        """Make a version live, overriding the quality gate, and push its predictions.

        Raises:
            NotFoundError: there is no such project, or version.
        """
        project_state = self._project_state(id)
        versions = VersionStore(self._projects.folder(id))
        await asyncio.to_thread(versions.promote, version, by, reason)
        self._refresh_live(project_state)
        self._wake_project(project_state)

    async def roll_back(self, id: str, by: str) -> None:
        """Make the version before the live one live again.

        Raises:
            NotFoundError: no project has this id.
            StoreError: there is no older version.
        """
        self._project_state(id)
        versions = VersionStore(self._projects.folder(id))
        previous = await asyncio.to_thread(versions.rollback_target)
        await self.promote(id, previous, by, "rolled back by a person")

    # -- waking -----------------------------------------------------------------------------

    def _project_state(self, id: str) -> ProjectState:
        if id not in self._project_states:
            raise NotFoundError(f"No project {id!r} is connected to this backend.")
        return self._project_states[id]

    def _add_project(self, record: ProjectRecord) -> ProjectState:
        """Start scheduling a project, or update the record of a scheduled one."""
        existing = self._project_states.get(record.id)
        if existing is not None:
            existing.record = record  # its server may have a new address
            return existing
        project = ProjectState(record, self._capture_watcher(record))
        with contextlib.suppress(StoreError):  # the next round writes it again
            project.outcome = read_outcome(self._projects.folder(record.id))
        self._refresh_live(project)
        project.wake_event.set()
        self._project_states[record.id] = project
        self._loop_tasks[record.id] = asyncio.create_task(self._run_loop(project))
        return project

    def _capture_watcher(self, record: ProjectRecord) -> CaptureWatcher:
        captures = self._projects.captures(record.id)

        def on_import() -> None:
            self._wake_project(self._project_states[record.id])

        return CaptureWatcher(record.id, captures, self._round_workers, on_import)

    def _wake_project(self, project: ProjectState, forced: bool = False, labels: int = 0) -> None:
        project.training_requested |= forced
        project.pending_events += labels
        if forced or labels:  # other events do not resume a cancelled training
            project.training_paused = project.quiet_round_done = False
            project.last_labeled_at = self._clock()
        project.wake_event.set()

    def _unready_projects(self) -> list[ProjectState]:
        return [w for w in self._project_states.values() if not w.ready_event.is_set()]

    async def _poll_home(self) -> None:
        with self._supervisor.log_errors("the files of other processes"):
            await asyncio.to_thread(self._reload_files)
        self._scan_home()

    def _scan_home(self) -> None:
        """Read new projects, promotions and requests that other processes wrote."""
        records, damaged = self._projects.read_all()
        for id, message in damaged.items():
            self._supervisor.report_once(f"project {id} is left out", message)
        for record in records:
            with self._supervisor.log_errors(f"files of project {record.id}"):
                self._check_wake_file(self._add_project(record))

    def _check_wake_file(self, project: ProjectState) -> None:
        is_requested, is_forced = wake.consume_wake(self._projects.folder(project.record.id))
        if is_requested:
            self._refresh_live(project)
            self._wake_project(project, is_forced)
        self._chores.start_capture_import(project)

    # -- the loop of one project ------------------------------------------------------------

    async def _run_loop(self, project: ProjectState) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(project.wake_event.wait(), self._wait_seconds(project))
            await asyncio.sleep(DEBOUNCE_SECONDS)
            project.wake_event.clear()
            with self._supervisor.log_errors(f"the loop of project {project.record.id}"):
                await self._run_round(project)

    def _wait_seconds(self, project: ProjectState) -> float:
        """Return the seconds until the next round if nothing wakes the project."""
        if project.locked_elsewhere:
            return LOCKED_RETRY_SECONDS
        if project.failures:
            return min(RETRY_MAX_SECONDS, RETRY_MIN_SECONDS * 2.0 ** (project.failures - 1))
        if project.waiting_labels and not project.training_paused and not project.quiet_round_done:
            remaining_seconds = (
                project.last_labeled_at + self.settings.quiet_seconds - self._clock()
            )
            return min(max(remaining_seconds, 0.0), self.settings.poll_seconds)
        return self.settings.poll_seconds

    async def _run_round(self, project: ProjectState) -> None:
        if project.training_paused and not project.live_version:
            return  # without a version a round can only train, which was cancelled
        quiet_time = self._clock() - project.last_labeled_at
        request = RoundRequest(
            forced=project.training_requested,
            quiet=quiet_time >= self.settings.quiet_seconds,
            hints=project.pending_events,
            held=project.training_paused,
        )
        project.training_requested = False
        if self._round_workers.is_full:
            project.set_state("observing", WAITING_MESSAGE, 0.0)
        try:
            async with project.round_lock:
                outcome = await self._run_round_job(project, request)
            self._finish_round(project, outcome, request.hints)
            project.quiet_round_done = request.quiet
        except RoundInProgressError:  # of the command line, which wakes the project afterwards
            project.set_state("idle")
            project.locked_elsewhere = True
            project.training_requested |= request.forced
        except RoundCancelledError as error:
            project.set_state("idle", str(error))
            project.training_paused = True
        except PrelabelError as error:
            self._fail_round(project, str(error), forced=request.forced)
        except Exception as error:  # a bug must not end the loop
            log.exception("project %s", project.record.id)
            self._fail_round(project, f"{type(error).__name__}: {error}", forced=request.forced)
        finally:
            project.worker = None
        await asyncio.to_thread(self._commit_files)

    async def _run_round_job(self, project: ProjectState, request: RoundRequest) -> RoundOutcome:
        """Run a round in a worker process, as soon as one is free."""

        def report(state: str, progress: float, detail: str) -> None:
            if state == "training" and detail and detail != project.detail:
                log.info("project %s: %s", project.record.id, detail)
            project.set_state(state, detail, progress)

        project.locked_elsewhere = False
        job = RoundJob(project.record.id, request)
        async with self._round_workers.acquire() as project.worker:
            outcome, _ = await project.worker.run(job, report=report)
        return from_json(RoundOutcome, outcome)

    def _finish_round(self, project: ProjectState, outcome: RoundOutcome, hints: int) -> None:
        is_full_round, outcome = outcome.cleanup, replace(outcome, cleanup=False)
        if is_full_round:
            project.pending_events -= hints  # more events may have arrived during the round
        project.waiting_labels = outcome.waiting
        project.set_state("idle", progress=1.0)
        project.error, project.failures = "", 0
        if outcome != project.outcome:
            project.outcome = outcome
            with contextlib.suppress(StoreError):  # only needed at the next start
                save_outcome(self._projects.folder(project.record.id), outcome)
        self._refresh_live(project)
        self._chores.start_after_round(project, outcome, is_full_round=is_full_round)

    def _fail_round(self, project: ProjectState, error: str, forced: bool) -> None:
        if error != project.error:
            log.error("project %s: %s", project.record.id, error)
        project.set_state("failed")
        project.error = error
        project.failures += 1
        project.training_requested |= forced
        self._refresh_live(project)

    def _refresh_live(self, project: ProjectState) -> None:
        """Read the live version; a failed round may have promoted one."""
        with contextlib.suppress(StoreError):
            project.live_version = (
                VersionStore(self._projects.folder(project.record.id)).live() or ""
            )
        if project.live_version:
            project.ready_event.set()

    def _check_server(self, server: str) -> str:
        allowed = self.settings.allowed_servers
        if server and allowed and not any(is_same_server(server, other) for other in allowed):
            raise UsageError(f"{server} is not in PRELABEL_ALLOWED_SERVERS; add it to connect it.")
        return server
