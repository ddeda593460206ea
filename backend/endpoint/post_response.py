"""Background work after a response: captures, alerts, drift and counters."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from backend.endpoint.alerts import AlertSender
from backend.endpoint.capture_recorder import (
    CaptureRecorder,
    CaptureRules,
    Invocation,
    RegionFactory,
)
from backend.endpoint.functions import LoadedVersion
from backend.endpoint.prometheus_metrics import DriftFigures, DriftMonitor, EndpointMetrics
from backend.errors import PrelabelError, error_text
from backend.store.captures import DAY_SECONDS, CaptureStore
from backend.store.drift_reference import load_reference
from backend.store.files import sweep_temporary_files
from backend.store.projects import ProjectStore
from backend.store.usage import UsageCounters

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger("prelabel")
T = TypeVar("T")
MAX_PENDING_RESPONSES = 1000
"""Maximum queue length; further predictions are counted and dropped."""
MAX_PENDING_BYTES = 256_000_000
"""Maximum memory of the images in the queue."""
BYTES_PER_PIXEL = 4
DRIFT_VERSION_LIMIT = 2
"""Drift monitors per function: one for the live version, and one for the previous version, whose
predictions may still be in the queue."""
FLUSH_INTERVAL_SECONDS = 5.0
CLEANUP_INTERVAL_SECONDS = 3600.0


class PostResponseTasks:
    """Run captures, alerts, drift, and counters in one thread after each response.

    Args:
        rules: which images to capture.
        alerts: sends the alerts of all functions.
        metrics: metrics of the endpoint.
        usage: counters, which are saved every few seconds.
        capture_home: folder for captured images.
        commit: called after each flush to persist files on a network volume, such as Modal's; None
            on a local disk.
        seed: random seed for captures.
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
        self._commit = commit
        self._rules = rules
        self._alerts = alerts
        self._metrics = metrics
        self._usage = usage
        self._random = np.random.default_rng(seed)
        self._recorders: dict[str, CaptureRecorder] = {}
        self._drift_monitors: dict[tuple[str, str], DriftMonitor] = {}
        self._executor = ThreadPoolExecutor(1, "post-response")
        self._count_lock = threading.Lock()
        self._pending_count = 0
        self._pending_bytes = 0
        self._periodic_tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start sending alerts, saving counters and removing old captures."""
        self._alerts.start()
        self._periodic_tasks = [
            asyncio.create_task(self._run_periodically(*arguments))
            for arguments in (
                (self._flush, FLUSH_INTERVAL_SECONDS, FLUSH_INTERVAL_SECONDS),
                (self._remove_expired, CLEANUP_INTERVAL_SECONDS, 0.0),
            )
        ]

    async def stop(self) -> None:
        """Process the queued predictions, and save the counters."""
        for task in self._periodic_tasks:
            task.cancel()
        await asyncio.gather(*self._periodic_tasks, return_exceptions=True)
        await asyncio.to_thread(self._executor.shutdown)
        self._flush()
        await self._alerts.stop()

    def submit(self, invocation: Invocation, *, capture: bool, live: bool) -> None:
        """Queue a prediction.

        Args:
            invocation: the image and its prediction.
            capture: whether the image may be stored for labeling.
            live: whether the live version made the prediction.
        """
        image = invocation.image
        size = len(invocation.content) + BYTES_PER_PIXEL * image.width * image.height
        is_full = self._pending_count >= MAX_PENDING_RESPONSES
        if is_full or self._pending_bytes + size > MAX_PENDING_BYTES:
            self._metrics.count_dropped()
            if invocation.external_id:  # otherwise a correction would apply to the previous image
                identity = (invocation.loaded, invocation.external_id, invocation.id)
                self._executor.submit(self._supersede, *identity)
            return
        self._change_pending(1, size)
        loop = asyncio.get_running_loop()
        pending = self._executor.submit(self._process, invocation, capture, live, loop)
        pending.add_done_callback(lambda future: self._change_pending(-1, -size))

    def _change_pending(self, count_change: int, size_change: int) -> None:
        with self._count_lock:
            self._pending_count += count_change
            self._pending_bytes += size_change

    async def correct(
        self, loaded: LoadedVersion, external_id: str, regions: RegionFactory
    ) -> bool:
        """Store the correction of a captured image; return False if it was not captured."""
        return await self._run_in_thread(
            lambda: self._recorder_for(loaded).correct(external_id, regions)
        )

    async def store_corrected(self, invocation: Invocation, regions: RegionFactory) -> None:
        """Store an image together with its correction."""
        await self._run_in_thread(lambda: self._store_corrected(invocation, regions))

    async def drift_figures(self, loaded: LoadedVersion) -> DriftFigures:
        """Return the drift figures of a version, and set the metric."""
        figures = await self._run_in_thread(lambda: self._drift_monitor(loaded).drift_figures())
        self._metrics.set_drift(loaded.record.id, figures)
        return figures

    async def _run_in_thread(self, callback: Callable[[], T]) -> T:
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
            if capture and live:
                reason = self._recorder_for(loaded).capture_if_useful(invocation)
                if reason:
                    self._metrics.count_capture(function, reason)
            version = loaded.card.version
            request_ids = (invocation.id, invocation.external_id)
            if self._alerts.create_alerts(function, version, *request_ids, prediction):
                loop.call_soon_threadsafe(self._alerts.wake)
        except PrelabelError as error:
            log.error("Function %s: %s", function, error)
        except Exception:  # must not end the thread
            log.exception("Function %s: a prediction could not be processed", function)

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
            log.error("Function %s: %s", loaded.record.id, error)

    def _store_corrected(self, invocation: Invocation, regions: RegionFactory) -> None:
        recorder = self._recorder_for(invocation.loaded)
        recorder.store(invocation, "corrected")
        recorder.correct(invocation.external_id, regions)
        self._metrics.count_capture(invocation.loaded.record.id, "corrected")

    def _recorder_for(self, loaded: LoadedVersion) -> CaptureRecorder:
        function = loaded.record.id
        if function not in self._recorders:
            captures = CaptureStore(self._capture_projects.folder(function))
            self._recorders[function] = CaptureRecorder(captures, self._rules, self._random)
        return self._recorders[function]

    def _drift_monitor(self, loaded: LoadedVersion) -> DriftMonitor:
        function, version = key = (loaded.record.id, loaded.card.version)
        if key not in self._drift_monitors:
            reference = load_reference(loaded.folder / "versions" / version)
            older_keys = [older for older in self._drift_monitors if older[0] == function]
            while len(older_keys) >= DRIFT_VERSION_LIMIT:
                del self._drift_monitors[older_keys.pop(0)]
            self._drift_monitors[key] = DriftMonitor(function, reference)
        return self._drift_monitors[key]

    def _flush(self) -> None:
        self._usage.flush()
        if self._commit:
            self._commit()

    def _remove_expired(self) -> None:
        """Remove temporary files, and old captures, including those of functions not invoked."""
        sweep_temporary_files(self._capture_projects.home)
        cutoff = time.time() - self._rules.retention_days * DAY_SECONDS
        for folder in self._capture_projects.home.glob("projects/*/captures"):
            function = folder.parent.name
            try:
                if function in self._recorders:
                    self._recorders[function].remove_before(cutoff)
                else:
                    CaptureStore(folder.parent).delete_before(cutoff)
            except PrelabelError as error:
                log.error("Function %s: %s", function, error)

    async def _run_periodically(
        self, callback: Callable[[], None], interval_seconds: float, initial_delay_seconds: float
    ) -> None:
        await asyncio.sleep(initial_delay_seconds)
        while True:
            try:
                await self._run_in_thread(callback)
            except Exception as error:  # retried in the next period
                log.error("%s", error_text(error))
            await asyncio.sleep(interval_seconds)
