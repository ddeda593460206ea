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

from backend.endpoint.alerts import AlertSender
from backend.endpoint.capture_recorder import (
    CaptureRecorder,
    CaptureRules,
    Invocation,
    RegionFactory,
)
from backend.endpoint.functions import LoadedVersion
from backend.endpoint.metrics import DriftMonitor, EndpointMetrics
from backend.errors import PrelabelError
from backend.store.captures import DAY_SECONDS, CaptureStore
from backend.store.drift_reference import load_reference
from backend.store.projects import ProjectStore
from backend.store.usage import UsageCounters

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger("prelabel")
T = TypeVar("T")
MAX_PENDING_RESPONSES = 1000
"""Answers that may wait to be considered; more are counted and let go."""
MAX_PENDING_BYTES = 256_000_000
"""Of the images of answers that wait."""
BYTES_PER_PIXEL = 4
"""Bytes of a pixel in memory."""
DRIFT_VERSION_LIMIT = 2
"""Versions of a function whose drift is known: the live one, and the one before, to which answers
may still belong that wait."""
FLUSH_INTERVAL_SECONDS = 5.0
CLEANUP_INTERVAL_SECONDS = 3600.0


class PostResponseTasks:
    """Considers every answer: is it worth labeling, does somebody want to know, does it drift.

    Args:
        rules: of capturing.
        alerts: of all functions.
        metrics: of the endpoint.
        usage: counters to write now and then.
        capture_home: the folder of what is kept.
        commit: makes it last, now and then; nothing has to be done for that on one's own disk.
        seed: of the random share.
    """

    def __init__(
        self,
        rules: CaptureRules,
        alerts: AlertSender,
        metrics: EndpointMetrics,
        usage: UsageCounters,
        capture_home: Path,
        commit: Callable[[], None] | None = None,
        seed: int | None = None,
    ) -> None:
        self._capture_projects = ProjectStore(capture_home)
        self._commit = commit or (lambda: None)
        self._rules = rules
        self._alerts = alerts
        self._metrics = metrics
        self._usage = usage
        self._random = np.random.default_rng(seed)
        self._recorders: dict[str, CaptureRecorder] = {}
        self._drift_monitors: dict[tuple[str, str], DriftMonitor] = {}
        self._executor = ThreadPoolExecutor(1, "desk")
        self._count_lock = threading.Lock()
        self._pending_count = 0
        self._pending_bytes = 0
        self._periodic_tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin with the chores."""
        self._alerts.start()
        self._periodic_tasks = [
            asyncio.create_task(self._run_every(FLUSH_INTERVAL_SECONDS, self._flush)),
            asyncio.create_task(
                self._run_every(
                    CLEANUP_INTERVAL_SECONDS, self._remove_expired, run_immediately=True
                )
            ),
        ]

    async def stop(self) -> None:
        """Consider what waits, and write what was counted."""
        for task in self._periodic_tasks:
            task.cancel()
        await asyncio.gather(*self._periodic_tasks, return_exceptions=True)
        await asyncio.to_thread(self._executor.shutdown)
        self._flush()
        await self._alerts.stop()

    def submit(self, invocation: Invocation, *, capture: bool, live: bool) -> None:
        """Consider an answer soon.

        Args:
            invocation: the answered image.
            capture: it may be kept.
            live: the live version gave it.
        """
        loop = asyncio.get_running_loop()
        size = (
            len(invocation.content)
            + BYTES_PER_PIXEL * invocation.image.width * invocation.image.height
        )
        if (
            self._pending_count >= MAX_PENDING_RESPONSES
            or self._pending_bytes + size > MAX_PENDING_BYTES
        ):
            self._metrics.count_dropped()
            if invocation.external_id:  # small, and no correction may go to the wrong image
                loaded, external_id, request_id = (
                    invocation.loaded,
                    invocation.external_id,
                    invocation.id,
                )
                self._executor.submit(self._supersede, loaded, external_id, request_id)
            return
        self._change_pending(1, size)
        pending = self._executor.submit(self._process, invocation, capture, live, loop)
        pending.add_done_callback(lambda future: self._change_pending(-1, -size))

    def _change_pending(self, count_change: int, size_change: int) -> None:
        with self._count_lock:
            self._pending_count += count_change
            self._pending_bytes += size_change

    async def correct(
        self, loaded: LoadedVersion, external_id: str, regions: RegionFactory
    ) -> bool:
        """Note a person's answer to an image that was kept; whether it was."""
        return await self._run_in_thread(
            lambda: self._recorder_for(loaded).correct(external_id, regions)
        )

    async def store_corrected(self, invocation: Invocation, regions: RegionFactory) -> None:
        """Keep an image together with a person's answer."""
        await self._run_in_thread(lambda: self._store_corrected(invocation, regions))

    async def drift_figures(self, loaded: LoadedVersion) -> dict[str, Any]:
        """How far production is from the audit slice of a version; see ``Drift.figures``."""
        figures = await self._run_in_thread(lambda: self._drift_monitor(loaded).drift_figures())
        self._metrics.set_drift(loaded.record.id, figures)
        return figures

    async def _run_in_thread(self, callback: Callable[[], T]) -> T:
        """Everything of the desk is done by its one thread."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, callback)

    def _process(
        self, invocation: Invocation, capture: bool, live: bool, loop: asyncio.AbstractEventLoop
    ) -> None:
        loaded, prediction = invocation.loaded, invocation.prediction
        function = loaded.record.id
        self._supersede(loaded, invocation.external_id, invocation.id, invocation.image)
        try:
            self._metrics.count_prediction(function, prediction)
            if live:
                self._drift_monitor(loaded).add_prediction(prediction)
            reason = self._recorder_for(loaded).consider(invocation) if capture and live else ""
            if reason:
                self._metrics.count_capture(function, reason)
            version = loaded.card.version
            request_ids = (invocation.id, invocation.external_id)
            if self._alerts.consider(function, version, *request_ids, prediction):
                loop.call_soon_threadsafe(self._alerts.wake)
        except PrelabelError as error:
            log.error("function %s: %s", function, error)
        except Exception:  # must not end the considering
            log.exception("function %s", function)

    def _supersede(
        self,
        loaded: LoadedVersion,
        external_id: str,
        request_id: str,
        image: Image.Image | None = None,
    ) -> None:
        try:
            if external_id:
                self._recorder_for(loaded).supersede(external_id, request_id, image)
        except PrelabelError as error:
            log.error("function %s: %s", loaded.record.id, error)

    def _store_corrected(self, invocation: Invocation, regions: RegionFactory) -> None:
        recorder = self._recorder_for(invocation.loaded)
        recorder.store(invocation, "corrected")
        recorder.correct(invocation.external_id, regions)
        self._metrics.count_capture(invocation.loaded.record.id, "corrected")

    def _recorder_for(self, loaded: LoadedVersion) -> CaptureRecorder:
        function_id = loaded.record.id
        if function_id not in self._recorders:
            captures = CaptureStore(self._capture_projects.folder(function_id))
            self._recorders[function_id] = CaptureRecorder(captures, self._rules, self._random)
        return self._recorders[function_id]

    def _drift_monitor(self, loaded: LoadedVersion) -> DriftMonitor:
        key = (loaded.record.id, loaded.card.version)
        if key not in self._drift_monitors:
            reference = load_reference(loaded.folder / "versions" / key[1])
            function_keys = [
                window_key for window_key in self._drift_monitors if window_key[0] == key[0]
            ]
            while len(function_keys) >= DRIFT_VERSION_LIMIT:
                del self._drift_monitors[function_keys.pop(0)]
            self._drift_monitors[key] = DriftMonitor(key[0], reference)
        return self._drift_monitors[key]

    def _flush(self) -> None:
        self._usage.flush()
        self._commit()

    def _remove_expired(self) -> None:
        """Remove what is too old, of every function that ever was asked."""
        cutoff = time.time() - self._rules.retention_days * DAY_SECONDS
        for folder in self._capture_projects.home.glob("projects/*/captures"):
            function_id = folder.parent.name
            try:
                if function_id in self._recorders:
                    self._recorders[function_id].remove_expired()
                else:
                    CaptureStore(folder.parent).delete_before(cutoff)
            except PrelabelError as error:
                log.error("function %s: %s", function_id, error)

    async def _run_every(
        self, seconds: float, callback: Callable[[], None], *, run_immediately: bool = False
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not run_immediately:
                await asyncio.sleep(seconds)
            run_immediately = False
            try:
                await loop.run_in_executor(self._executor, callback)
            except Exception as error:  # it is done again anyway
                log.error("%s", str(error) or type(error).__name__)
