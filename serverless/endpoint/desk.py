"""What is done with an answer after it was given: nobody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from backend.errors import PrelabelError
from backend.store.captures import Captures
from backend.store.projects import Projects
from backend.store.references import load_reference
from backend.store.usage import Usage
from serverless.endpoint.alerts import Alerts
from serverless.endpoint.capturing import Capturing, Invocation, Regions, Rules
from serverless.endpoint.functions import Loaded
from serverless.endpoint.metrics import Drift, Metrics

log = logging.getLogger("prelabel")
T = TypeVar("T")
MOST_WAITING = 1000
"""Answers that may wait to be considered; more are counted and let go."""
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
        self._waiting = 0
        self._chores: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin with the chores."""
        self._alerts.start()
        self._chores = [
            asyncio.create_task(self._every(KEEP_SECONDS, self._write)),
            asyncio.create_task(self._every(FORGET_SECONDS, self._forget)),
        ]

    async def stop(self) -> None:
        """Consider what waits, and write what was counted."""
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await asyncio.to_thread(self._thread.shutdown)
        self._write()
        await self._alerts.stop()

    def note(self, invocation: Invocation, *, capture: bool) -> None:
        """Consider an answer soon.

        Args:
            invocation: the answered image.
            capture: it may be kept.
        """
        if self._waiting >= MOST_WAITING:
            self._metrics.lost()
            return
        self._waiting += 1
        loop = asyncio.get_running_loop()
        self._thread.submit(self._consider, invocation, capture, loop)

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
        self, invocation: Invocation, capture: bool, loop: asyncio.AbstractEventLoop
    ) -> None:
        loaded, said = invocation.loaded, invocation.said
        function = loaded.record.id
        try:
            self._metrics.said(function, said)
            self._drift_of(loaded).add(said)
            why = self._of(loaded).consider(invocation) if capture else ""
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
        finally:
            self._waiting -= 1

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
        id, version = loaded.record.id, loaded.card.version
        if (id, version) not in self._drift:
            reference = load_reference(loaded.folder / "versions" / version)
            self._drift = {k: d for k, d in self._drift.items() if k[0] != id}
            self._drift[id, version] = Drift(id, reference)
        return self._drift[id, version]

    def _write(self) -> None:
        self._usage.keep()
        self._keep_files()

    def _forget(self) -> None:
        for capturing in self._capturing.values():
            capturing.forget()

    async def _every(self, seconds: float, chore: Any) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(seconds)
            with contextlib.suppress(PrelabelError):
                await loop.run_in_executor(self._thread, chore)
