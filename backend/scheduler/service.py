"""The part that never waits: knows all projects from memory, and lets rounds run elsewhere.

Everything here is quick and runs on one event loop. Webhooks, buttons, timers and files only
*wake* a project; a round in a working process then compares and acts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from backend.errors import Busy, Cancelled, NotThere, PrelabelError, StoreError, UsageError
from backend.label_studio.ml_protocol import project_of
from backend.runtime.connection import answers, created_at
from backend.scheduler.capture_watch import Homecoming
from backend.scheduler.chores import Chores
from backend.scheduler.predict_queue import NO_VERSION, Asker
from backend.scheduler.project_state import Watched
from backend.scheduler.supervise import Tending
from backend.scheduler.worker_pool import ANSWERING, PROGRAM, TRAINING, Lane
from backend.settings import Settings
from backend.store import wake
from backend.store.files import read_json, write_json
from backend.store.projects import ProjectRecord, Projects
from backend.store.servers import same_server
from backend.store.versions import Versions

log = logging.getLogger("prelabel")
DEBOUNCE = 0.2
"""Seconds in which wake-ups gather before a round looks."""
RETRY_FIRST, RETRY_LAST = 5.0, 300.0
"""Seconds until a failed round is tried again; doubled each time."""
BARRED_SECONDS = 5.0
"""Seconds until a round is tried again that another process kept from running."""
LOOK_SECONDS = 1.0
"""How often the home folder is looked at for what other processes left there."""
WAITS = "It waits until something else that is under way is done."


class Service:
    """All projects of one backend.

    Args:
        settings: of this backend.
        clock: monotonic seconds.
        keep: makes what was written last; nothing has to be done for that on one's own disk.
        refresh: sees what others wrote; the same.
        program: of the working processes.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
        keep: Callable[[], None] = lambda: None,
        refresh: Callable[[], None] = lambda: None,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._keep = keep
        self._refresh_files = refresh
        self._projects = Projects(settings.home, settings.kept)
        self._watched: dict[str, Watched] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._rounds = Lane(settings.workers, TRAINING, program)
        self._predictions = Lane(1, ANSWERING, program)
        self._tending = Tending()
        self._chores = Chores(self._rounds, self._predictions, self._tending)
        self._asker = Asker(self._predictions, clock, self._unready)
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Know the projects of the home folder, and look at each."""
        name = "the home folder"
        with self._tending.bearing(name):
            self._look()
        looking = self._tending.for_ever(LOOK_SECONDS, name, self._look_again)
        self._looking = asyncio.create_task(looking)

    async def stop(self) -> None:
        """End everything; what was under way is done again at the next start."""
        running = [*self._tasks.values()]
        running += [self._looking] if self._looking else []
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._chores.stop()
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
            self._projects.register, server, number, created, token, answers
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
        """The answer to ``/predict``; see :meth:`Asker.answer`."""
        return await self._asker.answer(body)

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
        """The project as the server knows it, from now on."""
        known = self._watched.get(record.id)
        if known is not None:
            known.record = record  # its server may go by another name now
            return known
        watched = Watched(record, self._homecoming(record))
        with contextlib.suppress(StoreError):  # the next round makes it anew
            summary = read_json(self._summary_file(record))
            watched.summary = summary if isinstance(summary, dict) else {}
        self._refresh(watched)
        watched.awake.set()
        self._watched[record.id] = watched
        self._tasks[record.id] = asyncio.create_task(self._loop(watched))
        return watched

    def _homecoming(self, record: ProjectRecord) -> Homecoming:
        captures = self._projects.captures(record.id)

        def came() -> None:
            self._wake(self._watched[record.id])

        return Homecoming(record.id, captures, self._rounds, came)

    def _wake(self, watched: Watched, forced: bool = False, labels: int = 0) -> None:
        watched.forced |= forced
        watched.hints += labels
        if forced or labels:  # what else happens does not make up for a cancelled training
            watched.held = watched.quieted = False
            watched.last_event = self._clock()
        watched.awake.set()

    def _unready(self) -> list[Watched]:
        return [w for w in self._watched.values() if not w.ready.is_set()]

    async def _look_again(self) -> None:
        with self._tending.bearing("files of others"):
            await asyncio.to_thread(self._refresh_files)
        self._look()

    def _look(self) -> None:
        """Notice what other processes left: new projects, a promotion, a request for a round."""
        records, damaged = self._projects.readable()
        for id, sentence in damaged.items():
            self._tending.tell(f"project {id} is left out", sentence)
        for record in records:
            with self._tending.bearing(f"files of project {record.id}"):
                self._look_at(self._watch(record))

    def _look_at(self, watched: Watched) -> None:
        asked, train = wake.take(self._projects.folder(watched.record.id))
        if asked:
            self._refresh(watched)
            self._wake(watched, train)
        self._chores.bring_home(watched)

    # -- the loop of one project ------------------------------------------------------------

    async def _loop(self, watched: Watched) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(watched.awake.wait(), self._pause(watched))
            await asyncio.sleep(DEBOUNCE)
            watched.awake.clear()
            with self._tending.bearing(f"the loop of project {watched.record.id}"):
                await self._round(watched)

    def _pause(self, watched: Watched) -> float:
        """Seconds until the project is looked at although nothing woke it."""
        if watched.barred:
            return BARRED_SECONDS
        if watched.failures:
            return min(RETRY_LAST, RETRY_FIRST * 2.0 ** (watched.failures - 1))
        if watched.waiting and not watched.held and not watched.quieted:
            left = watched.last_event + self.settings.quiet_seconds - self._clock()
            return min(max(left, 0.0), self.settings.poll_seconds)
        return self.settings.poll_seconds

    async def _round(self, watched: Watched) -> None:
        if watched.held and not watched.live:
            return  # without a version a round can only train, and that was cancelled
        ask = {
            "forced": watched.forced,
            "quiet": self._clock() - watched.last_event >= self.settings.quiet_seconds,
            "hints": watched.hints,
            "held": watched.held,
        }
        watched.forced = False
        if self._rounds.full:
            watched.state, watched.progress, watched.detail = "observing", 0.0, WAITS
        try:
            async with watched.turn:
                outcome = await self._work(watched, ask)
            self._done(watched, outcome, int(ask["hints"]))
            watched.quieted = bool(ask["quiet"])
        except Busy:  # the command line is at it, and wakes us after, unless it is killed
            watched.state, watched.detail, watched.barred = "idle", "", True
            watched.forced |= bool(ask["forced"])
        except Cancelled as error:
            watched.state, watched.detail, watched.held = "idle", str(error), True
        except PrelabelError as error:
            self._failed(watched, str(error), forced=bool(ask["forced"]))
        except Exception as error:  # a defect of ours must not end the loop
            log.exception("project %s", watched.record.id)
            self._failed(watched, f"{type(error).__name__}: {error}", forced=bool(ask["forced"]))
        finally:
            watched.worker = None
        await asyncio.to_thread(self._keep)

    async def _work(self, watched: Watched, ask: dict[str, Any]) -> dict[str, Any]:
        """A round in a working process, as soon as one is free; its outcome."""

        def tell(state: str, progress: float, detail: str) -> None:
            if state == "training" and detail and detail != watched.detail:
                log.info("project %s: %s", watched.record.id, detail)
            watched.state, watched.progress, watched.detail = state, progress, detail

        watched.barred = False
        job = {"job": "round", "project": watched.record.id, "ask": ask}
        async with self._rounds.worker() as watched.worker:
            outcome, _ = await watched.worker.run(job, tell=tell)
        found: dict[str, Any] = outcome
        return found

    def _done(self, watched: Watched, outcome: dict[str, Any], hints: int) -> None:
        looked = bool(outcome.pop("cleanup"))
        if looked:
            watched.hints -= hints  # more may have come meanwhile
        watched.waiting = outcome["waiting"]
        watched.state, watched.progress, watched.error, watched.failures = "idle", 1.0, "", 0
        watched.detail = ""
        if outcome != watched.summary:
            watched.summary = outcome
            with contextlib.suppress(StoreError):  # only remembered for the next start
                write_json(self._summary_file(watched.record), outcome)
        self._refresh(watched)
        self._chores.after_round(watched, outcome, looked=looked)

    def _failed(self, watched: Watched, error: str, forced: bool) -> None:
        if error != watched.error:
            log.error("project %s: %s", watched.record.id, error)
        watched.state, watched.detail, watched.error = "failed", "", error
        watched.failures += 1
        watched.forced |= forced
        self._refresh(watched)

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


def _is(watched: Watched, number: Any, created: int) -> bool:
    record = watched.record
    return str(record.number) == str(number) and (not created or record.created in (0, created))
