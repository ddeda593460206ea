"""What can be invoked: the live version of every project, and older ones by name.

A function is a project as the endpoint names it. Versions are loaded beside the answering, and a
newly promoted one takes over between two looks: no request fails, and none mixes two versions.
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
from typing import TYPE_CHECKING, Any

from backend.domain import Control
from backend.endpoint.alert_rules import AlertRule, check_rule_functions, check_rule_labels
from backend.endpoint.batching import Batcher
from backend.endpoint.problems import ProblemError
from backend.errors import NotFoundError, PrelabelError
from backend.inference.model import load_model
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
"""Images in one look of a model."""
VERSION_POLL_SECONDS = 1.0
RELOAD_DELAY_SECONDS = 30.0
"""Until a version that could not be loaded is tried again: a disk or a network may have had a bad
moment."""
OLD_VERSION_LIMIT = 4
"""Versions that are not live and stay loaded, because somebody asked for them by name."""


@dataclass(frozen=True)
class LoadedVersion:
    """A version in memory.

    Attributes:
        record: its project.
        card: what is told of it.
        controls: what it answers.
        folder: of the project.
        predict: what it says of images; here for one thread at a time.
    """

    record: ProjectRecord
    card: VersionCard
    controls: tuple[Control, ...]
    folder: Path
    predict: Callable[[list[DecodedImage]], Sequence[ImagePrediction]]

    @property
    def min_pixels(self) -> int:
        """Pixels that images must keep."""
        return min_decode_size(self.controls)


VersionLoader = Callable[[Resources, ProjectRecord, str], LoadedVersion]


@dataclass(frozen=True)
class ReadyVersion:
    """A version that takes questions."""

    loaded: LoadedVersion
    batcher: Batcher[DecodedImage, ImagePrediction]


@dataclass(frozen=True)
class LoadFailure:
    """Why a version cannot answer.

    Attributes:
        version: its name.
        error: what it says.
        retry_at: when it is tried again, on the monotonic clock.
    """

    version: str
    error: PrelabelError
    retry_at: float


class FunctionRegistry:
    """All functions of one home folder.

    Args:
        resources: of this process.
        rules: of alerts; those that wait for what no function gives are told of in the log.
        load: reads a version; the one of this module when not given.
        concurrency: looks at the same time.
        refresh: brings the home folder up to date before each look at it.
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
        self._rules = list(rules)
        self._load_executor = ThreadPoolExecutor(1, "loading")
        self._inference_executor = ThreadPoolExecutor(concurrency, "looking")
        self._live_versions: dict[str, ReadyVersion] = {}
        self._old_versions: dict[tuple[str, str], ReadyVersion] = {}
        self._failures: dict[str, LoadFailure] = {}
        self._damaged_ids: set[str] = set()
        self._lock = asyncio.Lock()
        self._watch_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load what is live, and watch for what becomes live."""
        await self._refresh_versions()
        self._log_rule_errors(
            check_rule_functions,
            self._live_versions.keys() | self._failures.keys() | self._damaged_ids,
        )
        self._watch_task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Stop watching."""
        if self._watch_task is not None:
            self._watch_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch_task
        self._load_executor.shutdown(wait=False, cancel_futures=True)
        self._inference_executor.shutdown(wait=False, cancel_futures=True)

    def live_versions(self) -> list[LoadedVersion]:
        """The live version of every function."""
        return [ready.loaded for ready in self._live_versions.values()]

    def live_version(self, function: str) -> LoadedVersion:
        """The live version of a function.

        Raises:
            ProblemError: there is no such function, or it has no version that can be served.
        """
        return self._live_ready(function).loaded

    def version_names(self, loaded: LoadedVersion) -> list[str]:
        """All versions of a function, newest first."""
        return self._resources.versions(loaded.record).names()

    async def find_version(self, function: str, version: str = "") -> ReadyVersion:
        """A version that takes questions.

        Args:
            function: its id.
            version: by name; the live one when not given.

        Raises:
            ProblemError: there is no such function or version.
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
        ready = self._live_versions.get(function)
        if ready is not None:
            return ready
        if function in self._failures:
            message, retry_after = (
                str(self._failures[function].error),
                str(math.ceil(RELOAD_DELAY_SECONDS)),
            )
            raise ProblemError(503, "not-ready", message, {"retry-after": retry_after})
        raise ProblemError(
            404, "no-function", f"There is no function {function[:80]!r}: GET /v1/functions."
        )

    async def _load_named(self, record: ProjectRecord, version: str) -> ReadyVersion:
        try:
            return await self._load_ready(record, version)
        except NotFoundError as error:
            raise ProblemError(404, "no-version", str(error)) from error
        except PrelabelError as error:
            raise ProblemError(422, "old-version", str(error)) from error

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(VERSION_POLL_SECONDS)
            try:
                await self._refresh_versions()
            except Exception:  # a damaged file must not end the watching
                log.exception("the endpoint cannot look for new versions")

    async def _refresh_versions(self) -> None:
        """Load what became live since the last look; again what could not be loaded a while ago."""
        loop = asyncio.get_running_loop()
        for record, version in await loop.run_in_executor(self._load_executor, self._live_pointers):
            ready, failure = self._live_versions.get(record.id), self._failures.get(record.id)
            if ready and ready.loaded.card.version == version:
                self._failures.pop(record.id, None)
                continue
            if failure and failure.version == version and time.monotonic() < failure.retry_at:
                continue
            try:
                self._live_versions[record.id] = await self._load_ready(record, version)
                self._failures.pop(record.id, None)
                log.info("function %s answers with version %s", record.id, version)
                self._check_rule_labels(self._live_versions[record.id].loaded)
            except PrelabelError as error:
                self._failures[record.id] = LoadFailure(
                    version, error, time.monotonic() + RELOAD_DELAY_SECONDS
                )
                if not failure or str(failure.error) != str(error):
                    log_message = "function %s: version %s cannot answer: %s"
                    log.error(log_message, record.id, version, error)

    def _check_rule_labels(self, loaded: LoadedVersion) -> None:
        labels = frozenset(name for control in loaded.controls for name in control.label_names)
        self._log_rule_errors(check_rule_labels, loaded.record.id, labels)

    def _log_rule_errors(self, rule_check: Callable[..., None], *args: Any) -> None:
        """Tell in the log of rules that wait for what never comes."""
        try:
            rule_check(self._rules, *args)
        except PrelabelError as error:
            log.error("%s", error)

    def _live_pointers(self) -> list[tuple[ProjectRecord, str]]:
        """What is live; a project with a damaged file costs no other."""
        self._refresh()
        pointers, damaged_ids = [], set()
        projects = self._resources.projects
        for file in sorted(projects.home.glob("projects/*/project.json")):
            try:
                record = projects.get(file.parent.name)
                version = self._resources.versions(record).live()
                if version:
                    pointers.append((record, version))
            except Exception as error:  # whatever a damaged file makes of itself
                damaged_ids.add(file.parent.name)
                if file.parent.name not in self._damaged_ids:
                    log.error("function %s is not looked at: %s", file.parent.name, error)
        self._damaged_ids = damaged_ids
        return pointers

    async def _load_ready(self, record: ProjectRecord, version: str) -> ReadyVersion:
        loop = asyncio.get_running_loop()
        load_version = partial(self._load_callback, self._resources, record, version)
        try:
            loaded = await loop.run_in_executor(self._load_executor, load_version)
        except (PrelabelError, asyncio.CancelledError):
            raise
        except Exception as error:  # of a damaged file, or of a library
            message = f"Version {version} cannot be loaded: {str(error) or type(error).__name__}"
            raise PrelabelError(message) from error
        return ReadyVersion(
            loaded,
            Batcher(
                loaded.predict,
                MAX_BATCH_SIZE,
                self._inference_executor,
                concurrency=self._concurrency,
            ),
        )


def load_local_version(resources: Resources, record: ProjectRecord, version: str) -> LoadedVersion:
    """Read a version and try it, so that the first question is answered as quickly as others.

    Raises:
        PrelabelError: it is not there, damaged, or was made by a Prelabel of old.
    """
    card = resources.versions(record).card(version)
    folder = resources.versions(record).path(version)
    detector_cache = _DetectorCache(resources)
    model = load_model(folder, detector_cache.load, resources.open_vocabulary)
    check_version_controls(version, model.controls)
    encoder_setting = card.encoder.setting
    encoder = resources.encoder(encoder_setting) if encoder_setting and model.heads else None
    predict = partial(predict_images, model, encoder)
    predict([noise_image()])
    return LoadedVersion(record, card, model.controls, resources.folder(record), predict)


def check_version_controls(version: str, controls: Sequence[Control]) -> None:
    """Make sure that a version says what it answers.

    Raises:
        PrelabelError: it was made by a Prelabel of old.
    """
    if not controls:
        raise PrelabelError(
            f"Version {version} was made by an older Prelabel and does not say what it answers: "
            "start `prelabel serve` once, or `prelabel train`."
        )


class _DetectorCache:
    """The detectors of one version: kept as long as it is, whatever else is loaded."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._detectors: dict[tuple[str, int], NetworkRunner] = {}
        self._lock = threading.Lock()

    def load(self, network: DetectionNetwork, size: int, key: str) -> NetworkRunner:
        with self._lock:
            if (key, size) not in self._detectors:
                self._detectors[key, size] = self._resources.load_network_runner(network, size, key)
            return self._detectors[key, size]


def noise_image() -> DecodedImage:
    """A small image to try a version on."""
    from backend.vision.encoders.base import make_noise_image

    image = make_noise_image()
    return DecodedImage(image, image.width, image.height)
