"""The part that never waits: knows all projects from memory, and lets rounds run elsewhere.

Everything here is quick and runs on one event loop. Webhooks, buttons, timers and files only
*wake* a project; a round in a working process then compares and acts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from backend.errors import Busy, Cancelled, NotThere, PrelabelError, StoreError, UsageError
from backend.label_studio.protocol import nothing_known, project_of
from backend.loop.connection import created_at, same_server
from backend.loop.homecoming import Homecoming
from backend.loop.watched import Watched
from backend.loop.workers import ANSWERING, TRAINING, JobFailed, Lane
from backend.settings import Settings
from backend.store.captures import Captures
from backend.store.files import read_json, write_json
from backend.store.projects import ProjectRecord, Projects
from backend.store.versions import Versions

log = logging.getLogger("prelabel")
DEBOUNCE = 0.2
"""Seconds in which wake-ups gather before a round looks."""
WAIT_FOR_FIRST = 60.0
"""Seconds that a /predict waits for a project's first version; Label Studio gives up at 100."""
RETRY_FIRST, RETRY_LAST = 5.0, 300.0
"""Seconds until a failed round is tried again; doubled each time."""
LOOK_SECONDS = 1.0
"""How often the home folder is looked at for what other processes left there."""
CLEANUP_SECONDS = 0.5
"""How long old predictions are removed before others get their turn."""
INSPECT_AFTER = 20.0
"""Seconds after a round until labels are looked through, if nothing newer has come meanwhile."""
NO_VERSION = "unready"


class Service:
    """All projects of one backend.

    Args:
        settings: of this backend.
        clock: monotonic seconds.
        keep: makes what was written last; nothing has to be done for that on one's own disk.
        refresh: sees what others wrote; the same.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
        keep: Callable[[], None] = lambda: None,
        refresh: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._keep = keep
        self._refresh_files = refresh
        self._projects = Projects(settings.home)
        self._watched: dict[str, Watched] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._rounds = Lane(settings.workers, TRAINING)
        self._predictions = Lane(1, ANSWERING)
        self._looking: asyncio.Task[None] | None = None
        self._asides: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Know the projects of the home folder, and look at each."""
        self._look()
        self._looking = asyncio.create_task(self._look_now_and_then())

    async def stop(self) -> None:
        """End everything; what was under way is done again at the next start."""
        running = [*self._tasks.values(), *self._asides]
        running += [self._looking] if self._looking else []
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._rounds.stop()
        await self._predictions.stop()

    # -- what the protocol asks -------------------------------------------------------------

    async def setup(self, project: str, server: str, token: str) -> str:
        """Label Studio names a project: it is known from now on.

        Args:
            project: ``"<number>.<seconds since 1970>"``.
            server: the address Label Studio calls itself; may be empty.
            token: its creator's token; may be empty.

        Returns:
            the live version's name, or a placeholder before the first one.

        Raises:
            UsageError: no project is named, or its server may not be used.
        """
        number, created = project_of({"project": project})
        if not number:
            raise UsageError(f"/setup names no project: {project[:40]!r}.")
        server = self._allowed(server.rstrip("/"))
        record = await asyncio.to_thread(
            self._projects.register,
            server,
            number,
            created,
            token,
        )
        watched = self._watch(record)
        if watched.error:  # a token may have come that works
            watched.awake.set()
        return watched.live or NO_VERSION

    def wake(
        self, project: Mapping[str, Any] | None, *, forced: bool = False, labels: int = 0
    ) -> list[str]:
        """Something happened; what it says is only a hint.

        Args:
            project: Label Studio's project JSON (``id``, ``created_at``); None: any.
            forced: Start Training.
            labels: annotations that may have changed.

        Returns:
            the ids of the woken projects.
        """
        number = (project or {}).get("id")
        created = created_at(str((project or {}).get("created_at") or ""))
        woken = [w for w in self._watched.values() if number is None or _is(w, number, created)]
        for watched in woken:
            self._wake(watched, forced, labels)
        return [watched.record.id for watched in woken]

    async def predict(self, body: bytes) -> bytes:
        """The answer to ``/predict``; the body is passed on unread, it may be large.

        Waits for a project's first version, so that the first ask is not answered with nothing.
        """
        deadline = self._clock() + WAIT_FOR_FIRST
        while True:
            unready = self._unready()
            async with self._predictions.worker() as worker:
                done, answer = await worker.run({"job": "predict"}, body)
            left = deadline - self._clock()
            if done["ready"] or not unready or left <= 0:
                return answer if done["ready"] else _nothing(body)
            await _first_of(unready, left)

    def versions(self) -> list[str]:
        """The versions of all projects, newest first; Label Studio does not say which it asks."""
        return [name for w in self._watched.values() for name in w.summary.get("versions", [])]

    # -- what people ask --------------------------------------------------------------------

    def projects(self) -> list[dict[str, Any]]:
        """All projects."""
        return [watched.json() for watched in self._watched.values()]

    def project(self, id: str) -> dict[str, Any]:
        """One project.

        Raises:
            NotThere: no project has this id.
        """
        if id not in self._watched:
            raise NotThere(f"No project {id!r} is connected to this backend.")
        return self._watched[id].json()

    async def cancel(self, id: str) -> dict[str, Any]:
        """Cancel the round of a project while it trains; its live version stays.

        Raises:
            NotThere: no project has this id.
        """
        self.project(id)
        watched = self._watched[id]
        if watched.worker is not None and watched.state == "training":
            await watched.worker.cancel()
        return watched.json()

    async def train(self, id: str) -> None:
        """Start Training, from here.

        Raises:
            NotThere: no project has this id.
        """
        self.project(id)
        self._wake(self._watched[id], forced=True)

    async def promote(self, id: str, version: str, by: str, reason: str) -> None:
        """Make a version live, whatever the loop thinks of it; a round then pushes its answers.

        Raises:
            NotThere: there is no such project, or version.
        """
        self.project(id)
        watched = self._watched[id]
        versions = Versions(self._projects.folder(id))
        await asyncio.to_thread(versions.promote, version, by, reason)
        self._refresh(watched)
        self._wake(watched)

    async def roll_back(self, id: str, by: str) -> None:
        """Make the version before the live one live again.

        Raises:
            NotThere: no project has this id.
            StoreError: there is no older version.
        """
        self.project(id)
        versions = Versions(self._projects.folder(id))
        older = await asyncio.to_thread(versions.before_live)
        await self.promote(id, older, by, "rolled back by a person")

    # -- waking -----------------------------------------------------------------------------

    def _watch(self, record: ProjectRecord) -> Watched:
        if record.id not in self._watched:
            watched = Watched(record, self._homecoming(record))
            watched.summary = read_json(self._summary_file(record)) or {}
            self._refresh(watched)
            watched.awake.set()
            self._watched[record.id] = watched
            self._tasks[record.id] = asyncio.create_task(self._loop(watched))
        return self._watched[record.id]

    def _homecoming(self, record: ProjectRecord) -> Homecoming:
        captures = Captures(self._projects.folder(record.id), self.settings.kept)

        def came() -> None:
            self._wake(self._watched[record.id])

        return Homecoming(record.id, captures, self._rounds, came)

    def _wake(self, watched: Watched, forced: bool = False, labels: int = 0) -> None:
        watched.forced |= forced
        watched.hints += labels
        watched.held = False
        watched.last_event = self._clock()
        watched.awake.set()

    def _unready(self) -> list[Watched]:
        return [w for w in self._watched.values() if not w.ready.is_set()]

    async def _look_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await asyncio.to_thread(self._refresh_files)
                self._look()
            except PrelabelError as error:
                log.warning("%s", error)

    def _look(self) -> None:
        """Notice what other processes left: new projects, a promotion, a request for a round."""
        for record in self._projects.all():
            watched = self._watch(record)
            file = self._projects.folder(record.id) / "wake"
            if file.exists():
                forced = file.read_text(encoding="utf-8").strip() == "train"
                file.unlink(missing_ok=True)
                self._wake(watched, forced)
            if watched.live and watched.home.due():
                self._aside(watched.home.fetch())

    # -- the loop of one project ------------------------------------------------------------

    async def _loop(self, watched: Watched) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(watched.awake.wait(), self._pause(watched))
            await asyncio.sleep(DEBOUNCE)
            watched.awake.clear()
            await self._round(watched)

    def _pause(self, watched: Watched) -> float:
        """Seconds until the project is looked at although nothing woke it."""
        if watched.failures:
            return min(RETRY_LAST, RETRY_FIRST * 2.0 ** (watched.failures - 1))
        if watched.waiting and not watched.held:
            left = watched.last_event + self.settings.quiet_seconds - self._clock()
            return min(max(left, 0.0), self.settings.poll_seconds)
        return self.settings.poll_seconds

    async def _round(self, watched: Watched) -> None:
        ask = {
            "forced": watched.forced,
            "quiet": self._clock() - watched.last_event >= self.settings.quiet_seconds,
            "hints": watched.hints,
            "held": watched.held,
        }
        watched.forced = False

        def tell(state: str, progress: float, detail: str) -> None:
            watched.state, watched.progress, watched.detail = state, progress, detail

        job = {"job": "round", "project": watched.record.id, "ask": ask}
        try:
            async with self._rounds.worker() as watched.worker:
                outcome, _ = await watched.worker.run(job, tell=tell)
            self._done(watched, outcome)
        except JobFailed as error:
            if error.kind == Busy.__name__:  # the command line is at it, and wakes us after
                watched.state, watched.forced = "idle", bool(ask["forced"])
            elif error.kind == Cancelled.__name__:
                watched.state, watched.detail, watched.held = "idle", str(error), True
            else:
                self._failed(watched, str(error), forced=bool(ask["forced"]))
        except PrelabelError as error:
            self._failed(watched, str(error), forced=bool(ask["forced"]))
        except Exception as error:  # a defect of ours must not end the loop
            log.exception("project %s", watched.record.id)
            self._failed(watched, f"{type(error).__name__}: {error}", forced=bool(ask["forced"]))
        finally:
            watched.worker = None
        await asyncio.to_thread(self._keep)

    def _done(self, watched: Watched, outcome: dict[str, Any]) -> None:
        cleanup = outcome.pop("cleanup")
        if cleanup:
            watched.hints = 0
        watched.waiting = outcome["waiting"]
        watched.state, watched.progress, watched.error, watched.failures = "idle", 1.0, "", 0
        watched.detail = ""
        if outcome != watched.summary:
            watched.summary = outcome
            with contextlib.suppress(StoreError):  # only remembered for the next start
                write_json(self._summary_file(watched.record), outcome)
        self._refresh(watched)
        if cleanup and len(outcome["versions"]) > 1 and not watched.cleaning:
            watched.cleaning = True
            self._aside(self._cleanup(watched))
        if outcome["trained"] and outcome["trained"] == watched.live:
            self._aside(self._inspect(watched))
        smart = any(control.get("smart") for control in outcome["controls"])
        if smart and watched.warmed != watched.live:
            watched.warmed = watched.live
            self._aside(self._warm(watched))

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside the loops; it ends with the service."""
        task = asyncio.create_task(work)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    def _failed(self, watched: Watched, error: str, forced: bool) -> None:
        if error != watched.error:
            log.error("project %s: %s", watched.record.id, error)
        watched.state, watched.error = "failed", error
        watched.failures += 1
        watched.forced |= forced
        self._refresh(watched)

    async def _cleanup(self, watched: Watched) -> None:
        """Remove what retired versions left in Label Studio, a little at a time.

        Rounds go first, and half of the time belongs to the annotators.
        """
        job = {"job": "cleanup", "project": watched.record.id, "seconds": CLEANUP_SECONDS}
        try:
            left = 1
            while left:
                busy = watched.awake.is_set() or watched.state not in ("idle", "failed")
                if not busy:
                    async with self._rounds.worker() as worker:
                        left, _ = await worker.run(job)
                await asyncio.sleep(CLEANUP_SECONDS if left else 0)
        except PrelabelError as error:
            log.warning("project %s: old predictions stay for now: %s", watched.record.id, error)
        finally:
            watched.cleaning = False

    async def _inspect(self, watched: Watched) -> None:
        """Look for wrong labels among those that the new version learned from."""
        job = {"job": "inspect", "project": watched.record.id}
        version = watched.live
        await asyncio.sleep(INSPECT_AFTER)
        if watched.live != version or watched.state != "idle":
            return  # the next version's labels are looked through instead
        try:
            async with self._rounds.worker() as worker:
                await worker.run(job)
        except PrelabelError as error:
            log.warning("project %s: labels are not looked through: %s", watched.record.id, error)

    async def _warm(self, watched: Watched) -> None:
        """Load what smart tools need; the first click else waits for a process and its models."""
        job = {"job": "warm", "project": watched.record.id, "version": watched.live}
        try:
            async with self._predictions.worker() as worker:
                await worker.run(job)
        except PrelabelError as error:
            log.warning("project %s: smart tools start slowly: %s", watched.record.id, error)

    def _refresh(self, watched: Watched) -> None:
        """The live version as the store has it: a round that failed may have made one."""
        with contextlib.suppress(StoreError):
            watched.live = Versions(self._projects.folder(watched.record.id)).live() or ""
        if watched.live:
            watched.ready.set()

    def _summary_file(self, record: ProjectRecord) -> Path:
        return self._projects.folder(record.id) / "summary.json"

    def _allowed(self, server: str) -> str:
        allowed = self.settings.allowed_servers
        if server and allowed and not any(same_server(server, one) for one in allowed):
            raise UsageError(f"{server} is not in PRELABEL_ALLOWED_SERVERS; add it to connect it.")
        return server


async def _first_of(unready: list[Watched], seconds: float) -> None:
    """Wait until one of them has its first version."""
    waiting = [asyncio.create_task(watched.ready.wait()) for watched in unready]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


def _is(watched: Watched, number: Any, created: int) -> bool:
    record = watched.record
    return str(record.number) == str(number) and (not created or record.created in (0, created))


def _nothing(body: bytes) -> bytes:
    return json.dumps(nothing_known(json.loads(body).get("tasks") or [], NO_VERSION)).encode()
