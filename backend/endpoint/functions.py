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
from backend.endpoint.alert_rules import Rule, check_functions, check_labels
from backend.endpoint.batching import Batcher
from backend.endpoint.problems import Problem
from backend.errors import NotThere, PrelabelError
from backend.inference.model import load_model
from backend.inference.predict_image import Said, at_least, say
from backend.runtime.resources import Resources
from backend.store.projects import ProjectRecord
from backend.store.versions import Card
from backend.vision.images.decode import Picture

if TYPE_CHECKING:
    from backend.vision.detection.network import Network
    from backend.vision.detection.network_runner import Detector

log = logging.getLogger("prelabel")
AT_ONCE = 16
"""Images in one look of a model."""
LOOK_SECONDS = 1.0
AGAIN_SECONDS = 30.0
"""Until a version that could not be loaded is tried again: a disk or a network may have had a bad
moment."""
OLD_KEPT = 4
"""Versions that are not live and stay loaded, because somebody asked for them by name."""


@dataclass(frozen=True)
class Loaded:
    """A version in memory.

    Attributes:
        record: its project.
        card: what is told of it.
        controls: what it answers.
        folder: of the project.
        say: what it says of images; here for one thread at a time.
    """

    record: ProjectRecord
    card: Card
    controls: tuple[Control, ...]
    folder: Path
    say: Callable[[list[Picture]], Sequence[Said]]

    @property
    def at_least(self) -> int:
        """Pixels that images must keep."""
        return at_least(self.controls)


Load = Callable[[Resources, ProjectRecord, str], Loaded]


@dataclass(frozen=True)
class Ready:
    """A version that takes questions."""

    loaded: Loaded
    batcher: Batcher[Picture, Said]


@dataclass(frozen=True)
class Failure:
    """Why a version cannot answer.

    Attributes:
        version: its name.
        error: what it says.
        again: when it is tried again, on the monotonic clock.
    """

    version: str
    error: PrelabelError
    again: float


class Functions:
    """All functions of one home folder.

    Args:
        resources: of this process.
        rules: of alerts; those that wait for what no function gives are told of in the log.
        load: reads a version; the one of this module when not given.
        lanes: looks at the same time.
        refresh: brings the home folder up to date before each look at it.
    """

    def __init__(
        self,
        resources: Resources,
        rules: Sequence[Rule] = (),
        load: Load | None = None,
        lanes: int = 1,
        refresh: Callable[[], None] = lambda: None,
    ) -> None:
        self._resources = resources
        self._load_version = load or load_here
        self._lanes = lanes
        self._refresh = refresh
        self._rules = list(rules)
        self._loading = ThreadPoolExecutor(1, "loading")
        self._looking = ThreadPoolExecutor(lanes, "looking")
        self._live: dict[str, Ready] = {}
        self._old: dict[tuple[str, str], Ready] = {}
        self._failed: dict[str, Failure] = {}
        self._damaged: set[str] = set()
        self._lock = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load what is live, and watch for what becomes live."""
        await self._look()
        self._check(check_functions, self._live.keys() | self._failed.keys() | self._damaged)
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Stop watching."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        self._loading.shutdown(wait=False, cancel_futures=True)
        self._looking.shutdown(wait=False, cancel_futures=True)

    def all(self) -> list[Loaded]:
        """The live version of every function."""
        return [ready.loaded for ready in self._live.values()]

    def live(self, function: str) -> Loaded:
        """The live version of a function.

        Raises:
            Problem: there is no such function, or it has no version that can be served.
        """
        return self._ready(function).loaded

    def versions(self, loaded: Loaded) -> list[str]:
        """All versions of a function, newest first."""
        return self._resources.versions(loaded.record).names()

    async def get(self, function: str, version: str = "") -> Ready:
        """A version that takes questions.

        Args:
            function: its id.
            version: by name; the live one when not given.

        Raises:
            Problem: there is no such function or version.
        """
        ready = self._ready(function)
        if version in ("", "live", ready.loaded.card.version):
            return ready
        key = (function, version)
        async with self._lock:
            old = self._old.pop(key, None) or await self._by_name(ready.loaded.record, version)
            self._old[key] = old
            while len(self._old) > OLD_KEPT:
                self._old.pop(next(iter(self._old)))
        return old

    def _ready(self, function: str) -> Ready:
        ready = self._live.get(function)
        if ready is not None:
            return ready
        if function in self._failed:
            told, again = str(self._failed[function].error), str(math.ceil(AGAIN_SECONDS))
            raise Problem(503, "not-ready", told, {"retry-after": again})
        raise Problem(
            404, "no-function", f"There is no function {function[:80]!r}: GET /v1/functions."
        )

    async def _by_name(self, record: ProjectRecord, version: str) -> Ready:
        try:
            return await self._load(record, version)
        except NotThere as error:
            raise Problem(404, "no-version", str(error)) from error
        except PrelabelError as error:
            raise Problem(422, "old-version", str(error)) from error

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look()
            except Exception:  # a damaged file must not end the watching
                log.exception("the endpoint cannot look for new versions")

    async def _look(self) -> None:
        """Load what became live since the last look; again what could not be loaded a while ago."""
        loop = asyncio.get_running_loop()
        for record, version in await loop.run_in_executor(self._loading, self._pointers):
            ready, failed = self._live.get(record.id), self._failed.get(record.id)
            if ready and ready.loaded.card.version == version:
                self._failed.pop(record.id, None)
                continue
            if failed and failed.version == version and time.monotonic() < failed.again:
                continue
            try:
                self._live[record.id] = await self._load(record, version)
                self._failed.pop(record.id, None)
                log.info("function %s answers with version %s", record.id, version)
                self._check_labels(self._live[record.id].loaded)
            except PrelabelError as error:
                self._failed[record.id] = Failure(version, error, time.monotonic() + AGAIN_SECONDS)
                if not failed or str(failed.error) != str(error):
                    text = "function %s: version %s cannot answer: %s"
                    log.error(text, record.id, version, error)

    def _check_labels(self, loaded: Loaded) -> None:
        labels = frozenset(name for control in loaded.controls for name in control.label_names)
        self._check(check_labels, loaded.record.id, labels)

    def _check(self, check: Callable[..., None], *given: Any) -> None:
        """Tell in the log of rules that wait for what never comes."""
        try:
            check(self._rules, *given)
        except PrelabelError as error:
            log.error("%s", error)

    def _pointers(self) -> list[tuple[ProjectRecord, str]]:
        """What is live; a project with a damaged file costs no other."""
        self._refresh()
        found, damaged = [], set()
        projects = self._resources.projects
        for file in sorted(projects.home.glob("projects/*/project.json")):
            try:
                record = projects.get(file.parent.name)
                version = self._resources.versions(record).live()
                if version:
                    found.append((record, version))
            except Exception as error:  # whatever a damaged file makes of itself
                damaged.add(file.parent.name)
                if file.parent.name not in self._damaged:
                    log.error("function %s is not looked at: %s", file.parent.name, error)
        self._damaged = damaged
        return found

    async def _load(self, record: ProjectRecord, version: str) -> Ready:
        loop = asyncio.get_running_loop()
        work = partial(self._load_version, self._resources, record, version)
        try:
            loaded = await loop.run_in_executor(self._loading, work)
        except (PrelabelError, asyncio.CancelledError):
            raise
        except Exception as error:  # of a damaged file, or of a library
            told = f"Version {version} cannot be loaded: {str(error) or type(error).__name__}"
            raise PrelabelError(told) from error
        return Ready(loaded, Batcher(loaded.say, AT_ONCE, self._looking, lanes=self._lanes))


def load_here(resources: Resources, record: ProjectRecord, version: str) -> Loaded:
    """Read a version and try it, so that the first question is answered as quickly as others.

    Raises:
        PrelabelError: it is not there, damaged, or was made by a Prelabel of old.
    """
    card = resources.versions(record).card(version)
    folder = resources.versions(record).path(version)
    kept = _Detectors(resources)
    model = load_model(folder, kept.load, resources.open_vocabulary)
    check_controls(version, model.controls)
    setting = card.encoder.get("setting", "")
    encoder = resources.encoder(setting) if setting and model.heads else None
    look = partial(say, model, encoder)
    look([noise_picture()])
    return Loaded(record, card, model.controls, resources.folder(record), look)


def check_controls(version: str, controls: Sequence[Control]) -> None:
    """Make sure that a version says what it answers.

    Raises:
        PrelabelError: it was made by a Prelabel of old.
    """
    if not controls:
        raise PrelabelError(
            f"Version {version} was made by an older Prelabel and does not say what it answers: "
            "start `prelabel serve` once, or `prelabel train`."
        )


class _Detectors:
    """The detectors of one version: kept as long as it is, whatever else is loaded."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._kept: dict[tuple[str, int], Detector] = {}
        self._lock = threading.Lock()

    def load(self, network: Network, size: int, key: str) -> Detector:
        with self._lock:
            if (key, size) not in self._kept:
                self._kept[key, size] = self._resources.load_detector(network, size, key)
            return self._kept[key, size]


def noise_picture() -> Picture:
    """A small image to try a version on."""
    from backend.vision.encoders.base import noise

    image = noise()
    return Picture(image, image.width, image.height)
