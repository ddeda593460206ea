"""What a working process keeps between jobs: encoders, models, connections, the cache."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import Busy
from backend.inference.embed import Embedder
from backend.inference.images import Pictures
from backend.inference.model import Model, load_model
from backend.runtime.compute import Compute, ThisProcess
from backend.runtime.connection import Connection, connect
from backend.settings import Settings
from backend.store.captures import Captures
from backend.store.files import explained
from backend.store.image_copies import PictureFiles
from backend.store.projects import ProjectRecord, Projects
from backend.store.versions import Versions

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from backend.domain import Control
    from backend.inference.prompts import YoloePrompts
    from backend.vision.detection.base_weights import Base
    from backend.vision.detection.network import Network
    from backend.vision.detection.network_runner import Detector
    from backend.vision.detection.yoloe import OpenVocabulary
    from backend.vision.encoders.base import Encoder
    from backend.vision.encoders.embedding_cache import EmbeddingCache

log = logging.getLogger("prelabel")
MODELS_KEPT = 8
DETECTORS_KEPT = 3
OPTIONAL = (
    "Optional: with a network that knows words, things are suggested by your label names before "
    "the first label."
)


class Resources:
    """Made once per process; everything in it is made at first use.

    Args:
        settings: of this backend.
        compute: where training and batch inference run; this process when not given.
        lock_seconds: how long to wait for another process's round of a project.
    """

    def __init__(
        self, settings: Settings, compute: Compute | None = None, lock_seconds: float = 0.0
    ) -> None:
        self._lock_seconds = lock_seconds
        self.compute = compute or ThisProcess()
        self.settings = settings
        self.projects = Projects(settings.home, settings.kept)
        self._encoders: dict[str, Encoder] = {}
        self._connections: dict[str, tuple[str, Connection]] = {}
        self._embedders: dict[tuple[str, str], Embedder] = {}
        self._models: dict[tuple[str, str], Model] = {}
        self._prototypes: dict[tuple[str, tuple[object, ...]], npt.NDArray[np.float32]] = {}
        self._pictures: dict[str, Pictures] = {}
        self._detectors: dict[tuple[str, int], Detector] = {}
        self._open: dict[str, OpenVocabulary] = {}
        self._base: Base | None = None
        self._base_network: Network | None = None
        self._cache: EmbeddingCache | None = None
        self.picture_files = PictureFiles(settings.home / "pictures")

    def folder(self, record: ProjectRecord) -> Path:
        """Everything of one project."""
        return self.projects.folder(record.id)

    def versions(self, record: ProjectRecord) -> Versions:
        """The versions of one project."""
        return Versions(self.folder(record))

    def encoder(self, setting: str = "") -> Encoder:
        """The encoder of a setting; the one of the settings when not given."""
        from backend.vision.encoders.load import load_encoder

        setting = setting or self.settings.encoder
        if setting not in self._encoders:
            load = partial(load_encoder, setting, say=log.info, weights_dir=self.weights)
            self._encoders[setting] = self.compute.encoder(setting, load)
        return self._encoders[setting]

    def viewer(self, record: ProjectRecord) -> Encoder:
        """What images of a project are compared by: the live version's encoder.

        Where no control has choices nothing is downloaded for it.
        """
        card = self.versions(record).live_card()
        own = self.settings.encoder
        plain = "builtin" if own == "auto" else own
        return self.encoder((card.encoder.get("setting") if card else "") or plain)

    def base(self) -> Base:
        """The file that fine-tuning of detectors starts from."""
        from backend.vision.detection.base_weights import choose_base

        if self._base is None:
            self._base = choose_base(self.settings.detector, self.weights, log.info)
        return self._base

    def base_network(self) -> Network:
        """The network that fine-tuning of detectors starts from."""
        from backend.vision.detection.network import load_base

        if self._base_network is None:
            self._base_network = load_base(self.base().path)
        return self._base_network

    def load_detector(self, network: Network, size: int, key: str) -> Detector:
        """A network on the fastest runtime; the last few are kept."""
        from backend.vision.detection.network_runner import load_detector

        known = self._detectors.pop((key, size), None)
        if known is None:
            folder = self.weights / "compiled"
            load = partial(load_detector, network, size, f"{key}-{size}", folder, log.info)
            known = self.compute.detector(network, size, key, load)
        self._detectors[key, size] = known
        while len(self._detectors) > DETECTORS_KEPT:
            self._detectors.pop(next(iter(self._detectors)))
        return known

    def prompts(self, record: ProjectRecord) -> YoloePrompts | None:
        """Finding by words or drawn boxes; None where its weights are not there."""
        from backend.inference.prompts import YoloePrompts
        from backend.vision.detection.yoloe import find_weights, prompt_files

        weights = find_weights(self.weights)
        if weights is None:
            return None
        files = prompt_files(self.weights)
        return YoloePrompts(weights.name, self.open_vocabulary, self.folder(record), files)

    def open_vocabulary(self, weights: str) -> OpenVocabulary:
        """The network that takes prompts, by file name; words are split as open_clip does."""
        from backend.vision.detection.yoloe import OpenVocabulary

        if weights not in self._open:
            from backend.vision.encoders.clip import tokenize

            path = self.weights / weights
            self._open[weights] = OpenVocabulary(path, self.weights, tokenize=tokenize)
        return self._open[weights]

    def prompt_files(self) -> list[list[object]]:
        """Name and size of what finding by words or drawn boxes rests on, as plain JSON."""
        from backend.vision.detection.yoloe import prompt_files

        return [[name, size] for name, size in prompt_files(self.weights)]

    def advice(self, labels: Sequence[str]) -> dict[str, str]:
        """What would help to find labels that nothing finds yet, as a card tells it.

        Args:
            labels: their names.

        Returns:
            ``advice``: with the command that gets what is missing; nothing where all are found.
        """
        from backend.vision.detection.yoloe import missing

        if not labels:
            return {}
        needed = missing(self.weights, tokenizer=True)
        cure = f"{OPTIONAL} {needed}" if needed else "Draw some, so that they are learned."
        return {"advice": f"Nothing finds {', '.join(labels)} yet. {cure}"}

    def pictures(self, record: ProjectRecord) -> Pictures:
        """The images of a project."""
        connection = self.connection(record)
        if record.id not in self._pictures:
            self._pictures[record.id] = Pictures(
                record.server or connection.client.server,
                connection.images,
                self._embedding_cache(),
                self.picture_files,
                self.settings.max_image_pixels,
                at_once=self.compute.at_once,
            )
        return self._pictures[record.id]

    def connection(self, record: ProjectRecord) -> Connection:
        """A project within reach; tried anew after a new token or :meth:`forget`."""
        token = self.projects.token(record.id)
        known = self._connections.get(record.id)
        if known and known[0] == token and _same(known[1].record, record):
            return known[1]
        made = connect(record, token, self.settings)
        self._connections[record.id] = (token, made)
        self._embedders = {k: e for k, e in self._embedders.items() if k[0] != record.id}
        self._pictures.pop(record.id, None)
        return made

    def forget(self, record: ProjectRecord) -> None:
        """Find the way to a project anew next time."""
        self._connections.pop(record.id, None)

    def embedder(self, record: ProjectRecord, encoder: Encoder) -> Embedder:
        """Embeds a project's images."""
        pictures = self.pictures(record)
        key = (record.id, encoder.id)
        if key not in self._embedders:
            self._embedders[key] = Embedder(pictures, encoder, self._embedding_cache())
        return self._embedders[key]

    def model(self, record: ProjectRecord, version: str) -> Model:
        """A version's artifact."""
        key = (record.id, version)
        if key not in self._models:
            while len(self._models) >= MODELS_KEPT:
                self._models.pop(next(iter(self._models)))
            folder = self.versions(record).path(version)
            self._models[key] = load_model(folder, self.load_detector, self.open_vocabulary)
        return self._models[key]

    def prototypes(self, encoder: Encoder, control: Control) -> npt.NDArray[np.float32] | None:
        """The text prototypes of a control's labels, (K, d); None for an image-only encoder."""
        from backend.vision.encoders.text_prototypes import LabelText, prototypes

        if not encoder.has_text:
            return None
        key = (encoder.id, control.labels)
        if key not in self._prototypes:
            texts = [LabelText(label.name, label.words, label.hint) for label in control.labels]
            self._prototypes[key] = prototypes(encoder, texts)
        return self._prototypes[key]

    def captures(self, record: ProjectRecord) -> Captures:
        """What the endpoint kept for a project."""
        return self.projects.captures(record.id)

    @contextmanager
    def alone(self, record: ProjectRecord) -> Iterator[None]:
        """One round at a time per project, across processes.

        Raises:
            Busy: another process is at it.
        """
        from filelock import FileLock, Timeout

        folder = self.folder(record)
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / "round.lock", timeout=self._lock_seconds)
            try:
                lock.acquire()
            except Timeout as error:
                raise Busy(
                    f"Another process runs a round of project {record.id}: try again after it."
                ) from error
        try:
            yield
        finally:
            lock.release()

    @property
    def weights(self) -> Path:
        """Where published weights are kept."""
        return self.settings.weights or self.settings.home / "weights"

    def _embedding_cache(self) -> EmbeddingCache:
        from backend.vision.encoders.embedding_cache import EmbeddingCache

        if self._cache is None:
            self._cache = EmbeddingCache(self.settings.home / "embeddings.sqlite")
        return self._cache


def _same(one: ProjectRecord, other: ProjectRecord) -> bool:
    """Whether two records say the same of a project but for its title."""
    return replace(one, title="") == replace(other, title="")
