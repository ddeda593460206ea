"""The scheduler: return the state of projects from memory, and run rounds in worker processes.

It runs on one event loop and never blocks it. Webhooks, buttons, timers and files only *wake* a
project. A round in a worker process then compares Label Studio with the newest version, and trains
and predicts if necessary.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial
from typing import Any

from backend.errors import NotFoundError, StoreError, UsageError
from backend.json_records import JsonObject
from backend.label_studio.ml_protocol import NO_VERSION, ControlLabel
from backend.records import ProjectStatus
from backend.runtime.connection import parse_created_at
from backend.scheduler.capture_watch import CaptureWatcher
from backend.scheduler.chores import ProjectChores
from backend.scheduler.jobs import TryJob
from backend.scheduler.label_decisions import LabelDecision, LabelDecisions
from backend.scheduler.predict_requests import PredictRequestRunner
from backend.scheduler.project_state import ProjectState
from backend.scheduler.registration import Registration
from backend.scheduler.round_runner import RoundRunner
from backend.scheduler.supervise import Supervisor, cancel_all
from backend.scheduler.worker_pool import (
    PREDICTION_NICENESS,
    TRAINING_NICENESS,
    WORKER_COMMAND,
    WorkerPool,
)
from backend.settings import COMPUTE_LOCAL, Settings
from backend.store import wake
from backend.store.files import sweep_temporary_files
from backend.store.label_answers import LabelAnswer, save_label_answer
from backend.store.project_titles import title_notes
from backend.store.projects import ProjectRecord, ProjectStore, read_outcome
from backend.store.queue_front import StoredLabelError
from backend.store.versions import VersionStore

log = logging.getLogger("prelabel")
HOME_POLL_SECONDS = 1.0
"""Polling interval of the home folder, for requests of other processes."""
WAITING_MESSAGE = "Waiting for {others}"
PRELOADED_PROJECTS = 3
"""Projects whose live versions are loaded at the start; their networks stay in memory."""
QUICK_WORKERS = 1
"""Worker processes for rounds without a long training, so that one never blocks all projects."""
MAX_UNKNOWN_PROJECTS = 100
"""Connected projects that never answered; beyond these the oldest are forgotten, as anybody may
send ``/setup``."""


class Service:
    """Schedule the rounds of all projects.

    Args:
        settings: the settings.
        clock: monotonic clock in seconds.
        commit_files: makes written files visible to other machines; not needed on a local disk.
        reload_files: makes the files of other machines visible; not needed on a local disk.
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
        self._reload_files = reload_files
        self._projects = ProjectStore(settings.home, settings.endpoint_data_dir)
        self._project_states: dict[str, ProjectState] = {}
        self._loop_tasks: dict[str, asyncio.Task[None]] = {}
        self._cancelled_tasks: set[asyncio.Task[None]] = set()
        self._round_workers = WorkerPool(
            settings.workers, TRAINING_NICENESS, worker_command, QUICK_WORKERS
        )
        self._prediction_workers = WorkerPool(1, PREDICTION_NICENESS, worker_command)
        self._supervisor = Supervisor()
        self._chores = ProjectChores(
            self._round_workers, self._prediction_workers, self._supervisor
        )
        self._predict_runner = PredictRequestRunner(
            self._prediction_workers, clock, self._unready_projects
        )
        self._registration = Registration(settings, self._projects)
        self._round_runner = RoundRunner(
            settings,
            clock,
            self._projects,
            self._registration,
            self._round_workers,
            self._chores,
            self._supervisor,
            commit_files,
        )
        self._poll_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load the projects of the home folder and start a round of each."""
        name = "the home folder"
        with self._supervisor.log_errors(name):
            await asyncio.to_thread(sweep_temporary_files, self.settings.home)
        with self._supervisor.log_errors(name):
            self._scan_home()
            if self.settings.compute == COMPUTE_LOCAL:  # a start must not cost GPU time
                self._chores.start_preload(self._recent_projects())
        polling = self._supervisor.run_forever(HOME_POLL_SECONDS, name, self._poll_home)
        self._poll_task = asyncio.create_task(polling)

    async def stop(self) -> None:
        """Stop all jobs; an interrupted round is repeated at the next start."""
        running_tasks = [*self._loop_tasks.values(), *self._cancelled_tasks]
        running_tasks += [self._poll_task] if self._poll_task else []
        await cancel_all(running_tasks)
        await self._chores.stop()
        await self._round_workers.stop()
        await self._prediction_workers.stop()

    # -- the ML backend protocol ------------------------------------------------------------

    async def setup(self, project: str, server: str, token: str) -> str:
        """Connect a project.

        Args:
            project: ``"<number>.<time of creation, seconds since 1970>"``.
            server: URL of Label Studio, as it reports it; may be empty.
            token: access token of the project's creator; may be empty.

        Returns:
            the name of the live version, or ``NO_VERSION`` before the first one.

        Raises:
            UsageError: the project is missing, or its server is not allowed.
        """
        record = await self._registration.register(project, server, token)
        await self._forget_unknown(keep=record.id)
        project_state = self._add_project(record)
        if project_state.error:  # the new token may work
            project_state.wake_event.set()
        return project_state.live_version or NO_VERSION

    async def _forget_unknown(self, keep: str) -> None:
        """Forget the oldest projects that never answered, when there are too many."""
        unknown = [
            state
            for id, state in self._project_states.items()
            if state.is_unknown and not state.live_version and id != keep
        ]
        for state in unknown[: max(0, len(unknown) + 1 - MAX_UNKNOWN_PROJECTS)]:
            id = state.record.id
            log.warning("project %s is forgotten: its Label Studio never answered", id)
            self._stop_project(id)
            await asyncio.to_thread(self._projects.forget, id)

    def wake(
        self,
        project: Mapping[str, Any] | None,
        *,
        forced: bool = False,
        labels: int = 0,
        labeled_tasks: Mapping[int, frozenset[ControlLabel]] | None = None,
    ) -> list[str]:
        """Start rounds of projects that may have changed.

        Args:
            project: Label Studio's project JSON with ``id`` and ``created_at``; None for all.
            forced: train regardless of the number of new labels, as Start Training does.
            labels: number of annotations that may have changed.
            labeled_tasks: tasks that got their first annotation, with their labels; they count at
                once.

        Returns:
            the ids of the woken projects.
        """
        number = (project or {}).get("id")
        created = parse_created_at(str((project or {}).get("created_at") or ""))
        woken = [
            state
            for state in self._project_states.values()
            if number is None or state.record.matches(number, created)
        ]
        for project_state in woken:
            project_state.recent_labels.add(labeled_tasks or {})
            self._wake_project(project_state, forced, labels)
        return [project_state.record.id for project_state in woken]

    async def predict(self, body: bytes) -> bytes:
        """Return the response to a ``/predict`` request; see :class:`PredictRequestRunner`."""
        return await self._predict_runner.predict(body)

    def versions(self) -> list[str]:
        """Return the versions of all projects, since the request does not specify one."""
        return [name for state in self._project_states.values() for name in state.outcome.versions]

    # -- the dashboard and the API ----------------------------------------------------------

    def projects(self) -> list[ProjectStatus]:
        """Return the status of all projects."""
        return [self._status(project_state) for project_state in self._project_states.values()]

    def project(self, id: str) -> ProjectStatus:
        """Return the status of a project.

        Raises:
            NotFoundError: no project has this id.
        """
        return self._status(self._project_state(id))

    def recently_labeled(self, id: str) -> Set[int]:
        """Return the tasks of a project that were labeled after the last round read it.

        Raises:
            NotFoundError: no project has this id.
        """
        return self._project_state(id).recent_labels.tasks

    async def cancel(self, id: str) -> ProjectStatus:
        """Cancel the training of a project, if one is running; the live version stays.

        Raises:
            NotFoundError: no project has this id.
        """
        project_state = self._project_state(id)
        if project_state.worker is not None and project_state.state == "training":
            project_state.is_cancelling = True
            await project_state.worker.cancel()
        return self._status(project_state)

    async def train(self, id: str) -> None:
        """Start training, regardless of the number of new labels.

        Raises:
            NotFoundError: no project has this id.
        """
        self._wake_project(self._project_state(id), forced=True)

    async def try_image(self, id: str, content: bytes) -> JsonObject:
        """Return the endpoint's response to an image, by the live version of a project.

        Raises:
            NotFoundError: no project has this id.
            PrelabelError: the image cannot be read, or there is no version yet.
        """
        self._project_state(id)
        async with self._prediction_workers.acquire() as worker:
            response, _ = await worker.run(TryJob(id), content)
        result: JsonObject = response
        return result

    async def decide_label(self, id: str, decision: LabelDecision, error: StoredLabelError) -> None:
        """Confirm or change a listed label, or undo the change.

        Raises:
            NotFoundError: no project has this id, or the label or its change is not listed.
            PrelabelError: the label could not be changed.
        """
        project_state = self._project_state(id)
        decisions = LabelDecisions(id, self._projects.folder(id), self._prediction_workers)
        if await decisions.carry_out(decision, error):
            self._wake_project(project_state, labels=1)

    async def promote(self, id: str, version: str, by: str, reason: str) -> None:
        """Make a version live, overriding the quality gate, and push its predictions.

        Raises:
            NotFoundError: there is no such project, or version.
        """
        project_state = self._project_state(id)
        versions = VersionStore(self._projects.folder(id))
        await asyncio.to_thread(versions.promote, version, by, reason)
        self._round_runner.refresh_live(project_state)
        is_running = project_state.state not in ("idle", "failed") or project_state.is_waiting
        if is_running or project_state.locked_elsewhere:
            self._chores.start_publish(project_state)
        self._wake_project(project_state)

    async def roll_back(self, id: str, by: str, expected: str = "") -> None:
        """Make the version before the live one live again.

        Args:
            id: the project.
            by: who did it.
            expected: the version that was confirmed; empty if any is accepted.

        Raises:
            NotFoundError: no project has this id.
            StoreError: there is no older version.
            UsageError: it would not be the expected version.
        """
        self._project_state(id)
        versions = VersionStore(self._projects.folder(id))
        previous = await asyncio.to_thread(versions.rollback_target)
        if expected not in ("", previous):
            raise UsageError("The live version has changed: open the page again.")
        await self.promote(id, previous, by, "rolled back by a person")

    async def leave(self, id: str) -> None:
        """Stop showing a project that was deleted in Label Studio; its files stay.

        Raises:
            NotFoundError: no project has this id.
            UsageError: Label Studio has the project.
        """
        project_state = self._project_state(id)
        if not project_state.record.missing_since:
            raise UsageError("Label Studio has this project: delete its connection there first.")
        await asyncio.to_thread(partial(self._projects.set_missing, id, is_removed=True))
        self._scan_home()

    async def save_removed_label_decision(self, id: str, answer: LabelAnswer) -> None:
        """Save the decision about annotations whose label was removed from the labeling config.

        Raises:
            NotFoundError: no project has this id, or no annotation has the label any more.
            UsageError: the labeling config does not have the new label.
        """
        project_state = self._project_state(id)
        outcome = project_state.outcome
        if not any(answer.is_about(row.control, row.label) for row in outcome.removed_labels):
            raise NotFoundError(f"No annotation has the removed label {answer.label!r} any more.")
        labels = {name for c in outcome.controls if c.name == answer.control for name in c.labels}
        if answer.new and answer.new not in labels:
            raise UsageError(f"The labeling config does not have the label {answer.new!r}.")
        await asyncio.to_thread(save_label_answer, self._projects.folder(id), answer)
        self._wake_project(project_state)

    def _recent_projects(self) -> list[ProjectState]:
        """Return the projects with a version that were active last, the last one first."""
        states = [state for state in self._project_states.values() if state.live_version]
        states.sort(key=lambda state: self._projects.last_activity(state.record.id), reverse=True)
        return states[:PRELOADED_PROJECTS]

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
        self._round_runner.refresh_live(project)
        project.wake_event.set()
        self._project_states[record.id] = project
        self._loop_tasks[record.id] = asyncio.create_task(self._round_runner.run_forever(project))
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
            project.training_paused, project.pauses_done = False, 0
            project.last_labeled_at = self._clock()
        project.wake_event.set()

    def _unready_projects(self) -> list[ProjectState]:
        return [s for s in self._project_states.values() if not s.ready_event.is_set()]

    async def _poll_home(self) -> None:
        with self._supervisor.log_errors("the files of other processes"):
            await asyncio.to_thread(self._reload_files)
        self._scan_home()

    def _scan_home(self) -> None:
        """Read new projects, promotions and requests that other processes wrote."""
        records, damaged = self._projects.read_all()
        for id, message in damaged.items():
            self._supervisor.report_once(f"project {id} is skipped", message)
        records = [record for record in records if not record.is_removed]
        known_ids = {record.id for record in records} | damaged.keys()
        for id in self._project_states.keys() - known_ids:  # forgotten, or removed from the list
            self._stop_project(id)
        for record in records:
            with self._supervisor.log_errors(f"files of project {record.id}"):
                self._check_wake_file(self._add_project(record))

    def _stop_project(self, id: str) -> None:
        del self._project_states[id]
        task = self._loop_tasks.pop(id)
        task.cancel()
        self._cancelled_tasks.add(task)  # it stops its worker process first
        task.add_done_callback(self._cancelled_tasks.discard)

    def _check_wake_file(self, project: ProjectState) -> None:
        is_requested, is_forced = wake.consume_wake(self._projects.folder(project.record.id))
        if is_requested:
            self._round_runner.refresh_live(project)
            self._wake_project(project, is_forced)
        self._chores.start_capture_import(project)

    def _waiting_detail(self, project: ProjectState) -> str:
        """Return what a waiting project waits for."""
        notes = title_notes(state.status() for state in self._project_states.values())
        others = [
            f"“{other.record.title or other.record.id}”"
            + (f", {note}," if (note := notes.get(other.status().id)) else "")
            + (f" ({other.detail})" if other.detail else "")
            for other in self._project_states.values()
            if other.worker is not None and other is not project
        ]
        return WAITING_MESSAGE.format(others=", ".join(others) or "other work to finish")

    def _status(self, project: ProjectState) -> ProjectStatus:
        status = project.status(self._waiting_detail(project) if project.is_waiting else "")
        return replace(status, predicting=self._predict_runner.progress(project.record))
