"""What is done with an answer after it was given: nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from backend.endpoint.alerts import Alerts
from backend.endpoint.capture_recorder import Capturing, Invocation, Regions, Rules
from backend.endpoint.functions import Loaded
from backend.endpoint.metrics import Drift, Metrics
from backend.errors import PrelabelError
from backend.store.captures import DAY, Captures
from backend.store.drift_reference import load_reference
from backend.store.projects import Projects
from backend.store.usage import Usage

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger("prelabel")
T = TypeVar("T")
MOST_WAITING = 1000
"""Answers that may wait to be considered; more are counted and let go."""
MOST_BYTES = 256_000_000
"""Of the images of answers that wait."""
PIXEL = 4
"""Bytes of a pixel in memory."""
WINDOWS = 2
"""Versions of a function whose drift is known: the live one, and the one before, to which answers
may still belong that wait."""
KEEP_SECONDS = 5.0
FORGET_SECONDS = 3600.0


class Desk:
    """Considers every answer: is it worth labeling, does somebody want to know, does it drift.

    Args:
        rules: of capturing.
        alerts: of all functions.
        metrics: of the endpoint.
        usage: counters to write now and then.
        kept: the folder of what is kept.
        keep: makes it last, now and then; nothing has to be done for that on one's own disk.
        seed: of the random share.
    """

    def __init__(
        self,
        rules: Rules,
        alerts: Alerts,
        metrics: Metrics,
        usage: Usage,
        kept: Path,
        keep: Callable[[], None] | None = None,
        seed: int | None = None,
    ) -> None:
        self._kept = Projects(kept)
        self._keep_files = keep or (lambda: None)
        self._rules = rules
        self._alerts = alerts
        self._metrics = metrics
        self._usage = usage
        self._random = np.random.default_rng(seed)
        self._capturing: dict[str, Capturing] = {}
        self._drift: dict[tuple[str, str], Drift] = {}
        self._thread = ThreadPoolExecutor(1, "desk")
        self._counting = threading.Lock()
        self._waiting = 0
        self._bytes = 0
        self._chores: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin with the chores."""
        self._alerts.start()
        self._chores = [
            asyncio.create_task(self._every(KEEP_SECONDS, self._write)),
            asyncio.create_task(self._every(FORGET_SECONDS, self._forget, at_once=True)),
        ]

    async def stop(self) -> None:
        """Consider what waits, and write what was counted."""
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await asyncio.to_thread(self._thread.shutdown)
        self._write()
        await self._alerts.stop()

    def note(self, invocation: Invocation, *, capture: bool, live: bool) -> None:
        """Consider an answer soon.

        Args:
            invocation: the answered image.
            capture: it may be kept.
            live: the live version gave it.
        """
        loop = asyncio.get_running_loop()
        size = len(invocation.content) + PIXEL * invocation.image.width * invocation.image.height
        if self._waiting >= MOST_WAITING or self._bytes + size > MOST_BYTES:
            self._metrics.lost()
            if invocation.external:  # small, and no correction may go to the wrong image
                loaded, name, id = invocation.loaded, invocation.external, invocation.id
                self._thread.submit(self._asked, loaded, name, id)
            return
        self._count(1, size)
        done = self._thread.submit(self._consider, invocation, capture, live, loop)
        done.add_done_callback(lambda future: self._count(-1, -size))

    def _count(self, answers: int, size: int) -> None:
        with self._counting:
            self._waiting += answers
            self._bytes += size

    async def correct(self, loaded: Loaded, external: str, regions: Regions) -> bool:
        """Note a person's answer to an image that was kept; whether it was."""
        return await self._here(lambda: self._of(loaded).correct(external, regions))

    async def keep(self, invocation: Invocation, regions: Regions) -> None:
        """Keep an image together with a person's answer."""
        await self._here(lambda: self._keep(invocation, regions))

    async def drift(self, loaded: Loaded) -> dict[str, Any]:
        """How far production is from the audit slice of a version; see ``Drift.figures``."""
        figures = await self._here(lambda: self._drift_of(loaded).figures())
        self._metrics.drift(loaded.record.id, figures)
        return figures

    async def _here(self, work: Callable[[], T]) -> T:
        """Everything of the desk is done by its one thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _consider(
        self, invocation: Invocation, capture: bool, live: bool, loop: asyncio.AbstractEventLoop
    ) -> None:
        loaded, said = invocation.loaded, invocation.said
        function = loaded.record.id
        self._asked(loaded, invocation.external, invocation.id, invocation.image)
        try:
            self._metrics.said(function, said)
            if live:
                self._drift_of(loaded).add(said)
            why = self._of(loaded).consider(invocation) if capture and live else ""
            if why:
                self._metrics.captured(function, why)
            version = loaded.card.version
            asked = (invocation.id, invocation.external)
            if self._alerts.consider(function, version, *asked, said):
                loop.call_soon_threadsafe(self._alerts.wake)
        except PrelabelError as error:
            log.error("function %s: %s", function, error)
        except Exception:  # must not end the considering
            log.exception("function %s", function)

    def _asked(
        self, loaded: Loaded, external: str, id: str, image: Image.Image | None = None
    ) -> None:
        try:
            if external:
                self._of(loaded).asked(external, id, image)
        except PrelabelError as error:
            log.error("function %s: %s", loaded.record.id, error)

    def _keep(self, invocation: Invocation, regions: Regions) -> None:
        capturing = self._of(invocation.loaded)
        capturing.keep(invocation, "corrected")
        capturing.correct(invocation.external, regions)
        self._metrics.captured(invocation.loaded.record.id, "corrected")

    def _of(self, loaded: Loaded) -> Capturing:
        id = loaded.record.id
        if id not in self._capturing:
            captures = Captures(self._kept.folder(id))
            self._capturing[id] = Capturing(captures, self._rules, self._random)
        return self._capturing[id]

    def _drift_of(self, loaded: Loaded) -> Drift:
        key = (loaded.record.id, loaded.card.version)
        if key not in self._drift:
            reference = load_reference(loaded.folder / "versions" / key[1])
            mine = [known for known in self._drift if known[0] == key[0]]
            while len(mine) >= WINDOWS:
                del self._drift[mine.pop(0)]
            self._drift[key] = Drift(key[0], reference)
        return self._drift[key]

    def _write(self) -> None:
        self._usage.keep()
        self._keep_files()

    def _forget(self) -> None:
        """Remove what is too old, of every function that ever was asked."""
        before = time.time() - self._rules.days * DAY
        for folder in self._kept.home.glob("projects/*/captures"):
            id = folder.parent.name
            try:
                if id in self._capturing:
                    self._capturing[id].forget()
                else:
                    Captures(folder.parent).forget_before(before)
            except PrelabelError as error:
                log.error("function %s: %s", id, error)

    async def _every(
        self, seconds: float, chore: Callable[[], None], *, at_once: bool = False
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not at_once:
                await asyncio.sleep(seconds)
            at_once = False
            try:
                await loop.run_in_executor(self._thread, chore)
            except Exception as error:  # it is done again anyway
                log.error("%s", str(error) or type(error).__name__)
