"""Load the functions of the endpoint: each project's live version, and older versions on request.

The endpoint calls a project a function. Versions are loaded in the background. A newly promoted
version replaces the old one between two batches, so that no request fails or mixes versions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from backend.domain import Control
from backend.endpoint.alert_rules import AlertRule, log_unknown_functions, log_unknown_labels
from backend.endpoint.batching import Batcher
from backend.endpoint.problems import ProblemError
from backend.errors import NotFoundError, PrelabelError, error_text
from backend.inference.model import Model, load_model
from backend.inference.predict_image import ImagePrediction, min_decode_size, predict_images
from backend.runtime.resources import Resources
from backend.store.projects import ProjectRecord
from backend.store.versions import VersionCard
from backend.vision.images.decode import DecodedImage

if TYPE_CHECKING:
    from backend.vision.detection.network import DetectionNetwork
    from backend.vision.detection.network_runner import NetworkRunner

log = logging.getLogger("prelabel")
MAX_BATCH_SIZE = 16
"""Maximum number of images per batch of a model."""
VERSION_POLL_SECONDS = 1.0
RELOAD_DELAY_SECONDS = 30.0
"""Delay before loading a failed version again, since the disk or network may have been at fault."""
OLD_VERSION_LIMIT = 4
"""Maximum number of versions to keep loaded for requests that name an older version."""


@dataclass(frozen=True)
class LoadedVersion:
    """A version in memory.

    Attributes:
        record: the project.
        card: the version's card.
        controls: the controls that the version predicts.
        folder: folder of the project.
        predict: returns one prediction per image.
    """

    record: ProjectRecord
    card: VersionCard
    controls: tuple[Control, ...]
    folder: Path
    predict: Callable[[list[DecodedImage]], Sequence[ImagePrediction]]

    @property
    def min_pixels(self) -> int:
        """Minimum side length in pixels of a JPEG that is decoded at reduced size."""
        return min_decode_size(self.controls)


VersionLoader = Callable[[Resources, ProjectRecord, str], LoadedVersion]


@dataclass(frozen=True)
class ReadyVersion:
    """A loaded version with the queue of its requests."""

    loaded: LoadedVersion
    batcher: Batcher[DecodedImage, ImagePrediction]


@dataclass(frozen=True)
class LoadFailure:
    """A version that could not be loaded; loading is retried at ``retry_at`` (monotonic clock)."""

    version: str
    error: PrelabelError
    retry_at: float


class FunctionRegistry:
    """The functions of one ``PRELABEL_HOME``.

    Args:
        resources: resources of this process.
        rules: alert rules; those for unknown functions or labels are logged.
        load: loads a version; :func:`load_local_version` by default.
        concurrency: number of concurrent batches.
        refresh: called before each poll, to update the folder.
    """

    def __init__(
        self,
        resources: Resources,
        rules: Sequence[AlertRule] = (),
        load: VersionLoader | None = None,
        concurrency: int = 1,
        refresh: Callable[[], None] = lambda: None,
    ) -> None:
        self._resources = resources
        self._load_callback = load or load_local_version
        self._concurrency = concurrency
        self._refresh = refresh
        self._rules = rules
        self._load_executor = ThreadPoolExecutor(1, "loading")
        self._inference_executor = ThreadPoolExecutor(concurrency, "inference")
        self._live_versions: dict[str, ReadyVersion] = {}
        self._old_versions: dict[tuple[str, str], ReadyVersion] = {}
        self._failures: dict[str, LoadFailure] = {}
        self._damaged_ids: set[str] = set()
        self._lock = asyncio.Lock()
        self._poll_task: asyncio.Task[None] | None = None

    def check_rules(self) -> None:
        """Log the alert rules for unknown functions or labels, after the rules changed."""
        self._log_unknown_functions()
        for ready in list(self._live_versions.values()):
            self._log_unknown_labels(ready.loaded)

    def _log_unknown_functions(self) -> None:
        known_ids = self._live_versions.keys() | self._failures.keys() | self._damaged_ids
        log_unknown_functions(self._rules, known_ids)

    async def start(self) -> None:
        """Load the live versions, and poll for newly promoted ones."""
        await self._refresh_versions()
        self._log_unknown_functions()
        self._poll_task = asyncio.create_task(self._poll())

    async def stop(self) -> None:
        """Stop polling, and discard queued batches."""
        if self._poll_task is not None:
            self._poll_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poll_task
        self._load_executor.shutdown(wait=False, cancel_futures=True)
        self._inference_executor.shutdown(wait=False, cancel_futures=True)

    def live_versions(self) -> list[LoadedVersion]:
        """Return the live version of every function."""
        return [ready.loaded for ready in self._live_versions.values()]

    def live_version(self, function: str) -> LoadedVersion:
        """Return the live version of a function.

        Raises:
            ProblemError: there is no such function, or its version could not be loaded.
        """
        return self._live_ready(function).loaded

    def version_names(self, loaded: LoadedVersion) -> list[str]:
        """Return the names of all versions of a function, newest first."""
        return self._resources.versions(loaded.record).names()

    async def find_version(self, function: str, version: str = "") -> ReadyVersion:
        """Return a loaded version; load it if necessary.

        Args:
            function: id of the function.
            version: name of the version; empty or ``live`` for the live one.

        Raises:
            ProblemError: there is no such function or version, or it could not be loaded.
        """
        ready = self._live_ready(function)
        if version in ("", "live", ready.loaded.card.version):
            return ready
        key = (function, version)
        async with self._lock:
            old_version = self._old_versions.pop(key, None) or await self._load_named(
                ready.loaded.record, version
            )
            self._old_versions[key] = old_version
            while len(self._old_versions) > OLD_VERSION_LIMIT:
                self._old_versions.pop(next(iter(self._old_versions)))
        return old_version

    def _live_ready(self, function: str) -> ReadyVersion:
        if function in self._live_versions:
            return self._live_versions[function]
        if function in self._failures:
            retry_after = {"retry-after": str(math.ceil(RELOAD_DELAY_SECONDS))}
            raise ProblemError(503, "not-ready", str(self._failures[function].error), retry_after)
        raise ProblemError(
            404,
            "no-function",
            f"There is no function {function[:80]!r}: list the functions with GET /v1/functions.",
        )

    async def _load_named(self, record: ProjectRecord, version: str) -> ReadyVersion:
        try:
            return await self._load_ready(record, version)
        except NotFoundError as error:
            raise ProblemError(404, "no-version", str(error)) from error
        except PrelabelError as error:
            raise ProblemError(422, "old-version", str(error)) from error

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(VERSION_POLL_SECONDS)
            try:
                await self._refresh_versions()
            except Exception:  # a damaged file must not stop polling
                log.exception("The endpoint could not check for new versions")

    async def _refresh_versions(self) -> None:
        """Load newly promoted versions, and retry failed ones after a delay."""
        loop = asyncio.get_running_loop()
        for record, version in await loop.run_in_executor(self._load_executor, self._live_pointers):
            ready, failure = self._live_versions.get(record.id), self._failures.get(record.id)
            if ready and ready.loaded.card.version == version:
                self._failures.pop(record.id, None)
                continue
            if failure and failure.version == version and time.monotonic() < failure.retry_at:
                continue
            try:
                ready = await self._load_ready(record, version)
            except PrelabelError as error:
                retry_at = time.monotonic() + RELOAD_DELAY_SECONDS
                self._failures[record.id] = LoadFailure(version, error, retry_at)
                if not failure or str(failure.error) != str(error):
                    message = "Function %s: version %s could not be loaded: %s"
                    log.error(message, record.id, version, error)
                continue
            self._live_versions[record.id] = ready
            self._failures.pop(record.id, None)
            log.info("Function %s: version %s is live", record.id, version)
            self._log_unknown_labels(ready.loaded)

    def _log_unknown_labels(self, loaded: LoadedVersion) -> None:
        labels = {label for control in loaded.controls for label in control.label_names}
        log_unknown_labels(self._rules, loaded.record.id, labels)

    def _live_pointers(self) -> list[tuple[ProjectRecord, str]]:
        """Return each project with the name of its live version; damaged projects are logged."""
        self._refresh()
        pointers, damaged_ids = [], set()
        projects = self._resources.projects
        for id in projects.ids():
            try:
                record = projects.get(id)
                versions = self._resources.versions(record)
                # loading a damaged version fails with the reason, and is tried again
                version = versions.live() or next(reversed(versions.damaged()), "")
                if version:
                    pointers.append((record, version))
            except Exception as error:  # a damaged file may raise anything
                damaged_ids.add(id)
                if id not in self._damaged_ids:
                    log.error("Function %s is skipped: %s", id, error)
        self._damaged_ids = damaged_ids
        return pointers

    async def _load_ready(self, record: ProjectRecord, version: str) -> ReadyVersion:
        loop = asyncio.get_running_loop()
        load = partial(self._load_callback, self._resources, record, version)
        try:
            loaded = await loop.run_in_executor(self._load_executor, load)
        except (PrelabelError, asyncio.CancelledError):
            raise
        except Exception as error:  # from a damaged file, or from a library
            message = f"Version {version} could not be loaded: {error_text(error)}"
            raise PrelabelError(message) from error
        batcher = Batcher(
            loaded.predict, MAX_BATCH_SIZE, self._inference_executor, concurrency=self._concurrency
        )
        return ReadyVersion(loaded, batcher)


def load_local_version(resources: Resources, record: ProjectRecord, version: str) -> LoadedVersion:
    """Load a version into this process, and warm it up with a test prediction.

    Raises:
        PrelabelError: the version is missing, damaged or too old.
    """
    resources.versions(record).card(version)  # the clearest error for a missing version
    folder = resources.versions(record).path(version)
    model = load_model(
        folder,
        _RunnerCache(resources).load,
        resources.load_feature_runner,
        resources.open_vocabulary,
    )
    loaded = load_with_model(resources, record, version, model)
    loaded.predict([noise_image()])
    return loaded


def load_with_model(
    resources: Resources, record: ProjectRecord, version: str, model: Model
) -> LoadedVersion:
    """Return a version whose model is in memory, with its encoder.

    Raises:
        PrelabelError: the version is missing or too old, or its encoder cannot be loaded.
    """
    card = resources.versions(record).card(version)
    check_version_controls(version, model.controls)
    encoder_setting = card.encoder.setting
    encoder = resources.encoder(encoder_setting) if encoder_setting and model.heads else None
    predict = partial(predict_images, model, encoder)
    return LoadedVersion(record, card, model.controls, resources.folder(record), predict)


def check_version_controls(version: str, controls: Sequence[Control]) -> None:
    """Check that a version lists its controls.

    Raises:
        PrelabelError: an older Prelabel made the version and did not save its controls.
    """
    if not controls:
        raise PrelabelError(
            f"Version {version} was made by an older Prelabel and does not list its controls: run "
            "`prelabel serve` once, or `prelabel train`."
        )


class _RunnerCache:
    """Cache of a version's network runners; they stay loaded as long as the version."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._runners: dict[tuple[str, int], NetworkRunner] = {}
        self._lock = threading.Lock()

    def load(self, network: DetectionNetwork, size: int, key: str) -> NetworkRunner:
        with self._lock:
            if (key, size) not in self._runners:
                self._runners[key, size] = self._resources.load_network_runner(network, size, key)
            return self._runners[key, size]


def noise_image() -> DecodedImage:
    """Return a small image of noise for a test prediction."""
    from backend.vision.encoders.base import make_noise_image

    image = make_noise_image()
    return DecodedImage(image, image.width, image.height)
