"""The compute seam's far side: orders are spawned on Modal, watched, verified and brought home.

What is spawned goes on when this process ends; the same order, asked for again, finds the call
that is under way, or its result.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.arrays import Floats
from backend.errors import PrelabelError, RoundError, UsageError
from backend.runtime.compute import Spent, ThisProcess
from backend.runtime.periodic import at_most_every, undisturbed
from backend.settings import MODAL, Settings
from serverless import serialization
from serverless.container_image import TRAIN_SECONDS
from serverless.modal_client import Cloud
from serverless.monthly_budget import Spending, dollars
from serverless.training_calls import Calls
from serverless.volume_sync import Sharing

if TYPE_CHECKING:
    from PIL import Image

    from backend.training.detector import FindingJob
    from backend.training.head import TrainingJob
    from backend.vision.detection.detections import Found
    from backend.vision.detection.network import Network
    from backend.vision.detection.network_runner import Detector
    from backend.vision.detection.trained_detector import Finds
    from backend.vision.encoders.base import Encoder
    from backend.vision.heads.head import Head

log = logging.getLogger("prelabel")
AT_ONCE = 128
"""Images that are read together, to be looked at by several containers."""
PART = 16
"""Images a container looks at in one call."""
MANY = 64
"""Images from which on another machine is worth waking."""
HEAVY = 5000
"""Labeled images from which on fitting a head is worth sending away: fewer take longer to send."""
COLLECT_SECONDS, FORGET_SECONDS = 60.0, 3600.0
AROUND = 300
"""Seconds of a training there that are not spent on training: starting, reading, writing."""


def check_seconds(settings: Settings) -> None:
    """Make sure that trainings are through before Modal ends them.

    Raises:
        UsageError: they would not be.
    """
    most = TRAIN_SECONDS - AROUND
    if settings.train_seconds > most:
        raise UsageError(
            f"PRELABEL_TRAIN_SECONDS is {settings.train_seconds:g}, and a training on Modal may "
            f"take {most} seconds at the most: set it lower."
        )


class ModalCompute:
    """Trains on Modal, and looks at many images there.

    Args:
        settings: of this backend.
        cloud: the deployed app; made from the settings when not given.

    Raises:
        UsageError: Modal would end trainings before they are through.
    """

    at_once = AT_ONCE

    def __init__(self, settings: Settings, cloud: Cloud | None = None) -> None:
        check_seconds(settings)
        self._settings = settings
        self._cloud = cloud or Cloud(settings.app)
        self._spending = Spending(settings.home / "spending.json", settings.monthly_budget)
        self._cloud.count = self._count
        self._calls = Calls(settings.home, self._cloud, self._count)
        self._here = ThisProcess()
        fetch = undisturbed(self._fetch_kept, "what the endpoint kept cannot be fetched")
        self._collect = at_most_every(COLLECT_SECONDS, fetch)
        self._forgotten = 0.0

    def check(self) -> None:
        """See ``Compute.check``."""
        self._spending.check()

    def share(self) -> None:
        """See ``Compute.share``."""
        Sharing(self._settings.home, self._settings.app).publish_if_new()

    def collect(self) -> None:
        """See ``Compute.collect``; asked every second, done every minute."""
        self._collect()

    def train_head(self, job: TrainingJob) -> tuple[Head | None, Spent]:
        """See ``Compute.train_head``."""
        if len(job.examples.tasks) < HEAVY:
            return self._here.train_head(job)
        from backend.vision.heads.head import load_head, save_head

        order, files = serialization.head_order(job)
        previous: serialization.Files = {}
        if job.previous is not None:
            with tempfile.TemporaryDirectory() as folder:
                save_head(job.previous, Path(folder))
                previous = serialization.read_files(Path(folder))
        result, spent = self._train(order, files, previous, _untold, _never)
        if not result:
            return None, spent
        with tempfile.TemporaryDirectory() as folder:
            serialization.write_files(result, Path(folder))
            return load_head(Path(folder)), spent

    def train_finder(self, job: FindingJob) -> tuple[Finds | None, Spent]:
        """See ``Compute.train_finder``."""
        from backend.training.detector import fine_tunes

        if not fine_tunes(job):
            return self._here.train_finder(job)
        from backend.vision.detection.trained_detector import Finder, load_finder

        self._send_pictures(job)
        previous: serialization.Files = {}
        if isinstance(job.previous, Finder) and job.previous.meaning.learned:
            with tempfile.TemporaryDirectory() as folder:
                job.previous.save(Path(folder))
                previous = serialization.read_files(Path(folder))
        order = serialization.finding_order(job, self._send_base(job.base_setting))
        result, spent = self._train(order, {}, previous, job.report, job.cancelled)
        if not result:
            return None, spent
        with tempfile.TemporaryDirectory() as folder:
            serialization.write_files(result, Path(folder))
            return load_finder(Path(folder), job.load), spent

    def encoder(self, setting: str, load: Callable[[], Encoder]) -> Encoder:
        """See ``Compute.encoder``."""
        return RemoteEncoder(setting, self._cloud)

    def detector(
        self, network: Network, size: int, key: str, load: Callable[[], Detector]
    ) -> Detector:
        """See ``Compute.detector``."""
        return remote_detector(network, size, key, load, self._cloud)

    def _fetch_kept(self) -> None:
        sharing = Sharing(self._settings.home, self._settings.app)
        new = sharing.collect()
        self._forget(sharing)
        if new:
            log.info("%s images came back from the endpoint on Modal", new)

    def _forget(self, sharing: Sharing) -> None:
        if time.time() - self._forgotten > FORGET_SECONDS:
            self._forgotten = time.time()
            sharing.forget(self._settings.capture_days)

    # -- orders -----------------------------------------------------------------------------

    def _train(
        self,
        order: dict[str, Any],
        files: serialization.Files,
        previous: serialization.Files,
        report: Callable[[int, int], None],
        cancelled: Callable[[], bool],
    ) -> tuple[serialization.Files, Spent]:
        """Have an order carried out: the verified result's files, and what it took."""
        self._spending.check()
        brought = {**files, **{f"previous/{name}": c for name, c in previous.items()}}
        id = serialization.identity(order, brought)
        try:
            told = self._calls.follow(
                id, lambda: self._spawn(id, order, brought), report, cancelled
            )
            names = told["files"]
            result = {name: self._cloud.read(f"orders/{id}/result/{name}") for name in names}
            serialization.check(result, names)
        except PrelabelError:
            self._cloud.forget_names()  # perhaps it lacked something
            raise
        self._calls.read(id)
        device, seconds = told["device"], told["seconds"]
        return result, Spent(MODAL, device, seconds, dollars(device, seconds))

    def _spawn(self, id: str, order: dict[str, Any], files: serialization.Files) -> str:
        named = {f"orders/{id}/{name}": content for name, content in files.items()}
        self._cloud.write({**named, f"orders/{id}/order.json": json.dumps(order).encode()})
        return self._cloud.spawn_training(id)

    def _count(self, device: str, seconds: float) -> None:
        """Count what Modal does; as the preferred kind of GPU where nobody knows."""
        self._spending.add(device or self._settings.gpus[0], seconds)

    # -- what orders need there -------------------------------------------------------------

    def _send_pictures(self, job: FindingJob) -> None:
        """Copies of the images, those that are not there yet."""
        wanted = {s.digest: s for s in job.samples if not s.audit}
        folder = self._settings.home / "pictures"
        missing = wanted.keys() - self._cloud.names("pictures")
        for part in _parts(sorted(missing), AT_ONCE):
            files: dict[str, bytes | Path] = {}
            for digest in part:
                wanted[digest].read()  # makes the copy where there is none
                files[f"pictures/{digest[:2]}/{digest}"] = folder / digest[:2] / digest
            self._cloud.write(files)

    def _send_base(self, setting: str) -> str:
        """The setting that leads to the network to start from, there."""
        file = Path(setting).expanduser()
        if not file.is_file():
            return setting
        content = file.read_bytes()
        folder = hashlib.sha256(content).hexdigest()[:16]
        if folder not in self._cloud.names("weights"):
            self._cloud.write({f"weights/{folder}/{file.name}": content})
        return f"{folder}/{file.name}"


class RemoteEncoder:
    """An encoder that encodes on Modal; see ``backend.vision.encoders.base.Encoder``.

    Larger images travel as JPEG of quality 95: vectors differ by that.
    """

    def __init__(self, setting: str, cloud: Cloud) -> None:
        self._setting = setting
        self._cloud = cloud
        facts = cloud.facts(setting)
        self.id = str(facts["id"])
        self.name = str(facts["name"])
        self.dim = int(facts["dim"])
        self.has_text = bool(facts["has_text"])
        self.logit_scale = float(facts["logit_scale"])
        self.logit_bias = float(facts["logit_bias"])

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """Several containers at once, where there are many."""
        parts = [[serialization.packed(image) for image in part] for part in _parts(images, PART)]
        rows = [serialization.vectors_of(r) for r in self._cloud.encode(self._setting, parts)]
        return np.concatenate(rows) if rows else np.zeros((0, self.dim), dtype=np.float32)

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """See ``Encoder.encode_texts``."""
        return serialization.vectors_of(self._cloud.encode_texts(self._setting, texts))


def remote_detector(
    network: Network, size: int, key: str, load: Callable[[], Detector], cloud: Cloud
) -> Detector:
    """A detector that looks at many images on Modal, and at a few here."""
    from backend.vision.detection.network import save_network
    from backend.vision.detection.network_runner import Detector

    class Remote(Detector):
        """Few images are answered sooner than another machine wakes."""

        here: Detector | None = None

        def detect(self, images: Sequence[Image.Image], least: float = 0.05) -> list[Found]:
            if len(images) < MANY:
                self.here = self.here or load()
                return self.here.detect(images, least)
            if key not in cloud.names("networks"):
                self._send()
            parts = [
                [serialization.packed(image) for image in part] for part in _parts(images, PART)
            ]
            rows = cloud.detect(key, size, parts, least)
            if None in rows:  # it was removed there, as nobody had used it for long
                cloud.forget_names()
                self._send()
                rows = cloud.detect(key, size, parts, least)
            return [found for row in rows for found in _found(row)]

        def _send(self) -> None:
            with tempfile.TemporaryDirectory() as folder:
                save_network(network, Path(folder))
                files = serialization.read_files(Path(folder))
            named = {f"networks/{key}/{name}": content for name, content in files.items()}
            cloud.write({**named, f"networks/{key}/done.json": b"{}"})

    return Remote(network, size, runner=None)  # type: ignore[arg-type]


def _found(row: bytes | None) -> list[Found]:
    if row is None:
        raise RoundError("The network to look with did not arrive on Modal: try again.")
    return serialization.found_of(row)


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _untold(done: int, of: int) -> None:
    """Nobody wants to know."""


def _never() -> bool:
    return False
