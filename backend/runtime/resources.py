"""What a working process keeps between jobs: encoders, models, connections, the cache."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import RoundInProgressError
from backend.inference.embed import Embedder
from backend.inference.images import ProjectImages
from backend.inference.model import Model, load_model
from backend.runtime.compute import Compute, LocalCompute
from backend.runtime.connection import Connection, connect
from backend.settings import Settings
from backend.store.captures import CaptureStore
from backend.store.files import exclusive_lock
from backend.store.image_copies import ImageCopies
from backend.store.projects import ProjectRecord, ProjectStore
from backend.store.versions import VersionStore

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from backend.domain import Control
    from backend.inference.prompts import YoloePrompts
    from backend.vision.detection.base_weights import BaseWeights
    from backend.vision.detection.network import DetectionNetwork
    from backend.vision.detection.network_runner import NetworkRunner
    from backend.vision.detection.yoloe import OpenVocabulary
    from backend.vision.encoders.base import Encoder
    from backend.vision.encoders.embedding_cache import EmbeddingCache

log = logging.getLogger("prelabel")
MODEL_CACHE_SIZE = 8
RUNNER_CACHE_SIZE = 3
PROMPTS_HINT = (
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
        self.compute = compute or LocalCompute()
        self.settings = settings
        self.projects = ProjectStore(settings.home, settings.endpoint_data_dir)
        self._encoders: dict[str, Encoder] = {}
        self._connections: dict[str, tuple[str, Connection]] = {}
        self._embedders: dict[tuple[str, str], Embedder] = {}
        self._models: dict[tuple[str, str], Model] = {}
        self._prototypes: dict[tuple[str, tuple[object, ...]], npt.NDArray[np.float32]] = {}
        self._project_images: dict[str, ProjectImages] = {}
        self._runners: dict[tuple[str, int], NetworkRunner] = {}
        self._open_vocabularies: dict[str, OpenVocabulary] = {}
        self._base_weights: BaseWeights | None = None
        self._base_network: DetectionNetwork | None = None
        self._cache: EmbeddingCache | None = None
        self.image_copies = ImageCopies(settings.home / "pictures")

    def folder(self, record: ProjectRecord) -> Path:
        """Everything of one project."""
        return self.projects.folder(record.id)

    def versions(self, record: ProjectRecord) -> VersionStore:
        """The versions of one project."""
        return VersionStore(self.folder(record))

    def encoder(self, setting: str = "") -> Encoder:
        """The encoder of a setting; the one of the settings when not given."""
        from backend.vision.encoders.load import load_encoder

        setting = setting or self.settings.encoder
        if setting not in self._encoders:
            load = partial(load_encoder, setting, say=log.info, weights_dir=self.weights_folder)
            self._encoders[setting] = self.compute.encoder(setting, load)
        return self._encoders[setting]

    def live_encoder(self, record: ProjectRecord) -> Encoder:
        """What images of a project are compared by: the live version's encoder.

        Where no control has choices nothing is downloaded for it.
        """
        card = self.versions(record).live_card()
        configured = self.settings.encoder
        fallback = "builtin" if configured == "auto" else configured
        return self.encoder((card.encoder.setting if card else "") or fallback)

    def base_weights(self) -> BaseWeights:
        """The file that fine-tuning of detectors starts from."""
        from backend.vision.detection.base_weights import choose_base_weights

        if self._base_weights is None:
            self._base_weights = choose_base_weights(
                self.settings.detector, self.weights_folder, log.info
            )
        return self._base_weights

    def base_network(self) -> DetectionNetwork:
        """The network that fine-tuning of detectors starts from."""
        from backend.vision.detection.network import load_base_network

        if self._base_network is None:
            self._base_network = load_base_network(self.base_weights().path)
        return self._base_network

    def load_network_runner(self, network: DetectionNetwork, size: int, key: str) -> NetworkRunner:
        """A network on the fastest runtime; the last few are kept."""
        from backend.vision.detection.network_runner import load_network_runner

        runner = self._runners.pop((key, size), None)
        if runner is None:
            folder = self.weights_folder / "compiled"
            load = partial(load_network_runner, network, size, f"{key}-{size}", folder, log.info)
            runner = self.compute.network_runner(network, size, key, load)
        self._runners[key, size] = runner
        while len(self._runners) > RUNNER_CACHE_SIZE:
            self._runners.pop(next(iter(self._runners)))
        return runner

    def prompts(self, record: ProjectRecord) -> YoloePrompts | None:
        """Finding by words or drawn boxes; None where its weights are not there."""
        from backend.inference.prompts import YoloePrompts
        from backend.vision.detection.yoloe import find_yoloe_weights, prompt_files

        weights = find_yoloe_weights(self.weights_folder)
        if weights is None:
            return None
        files = prompt_files(self.weights_folder)
        return YoloePrompts(weights.name, self.open_vocabulary, self.folder(record), files)

    def open_vocabulary(self, weights: str) -> OpenVocabulary:
        """The network that takes prompts, by file name; words are split as open_clip does."""
        from backend.vision.detection.yoloe import OpenVocabulary

        if weights not in self._open_vocabularies:
            from backend.vision.encoders.clip import tokenize

            path = self.weights_folder / weights
            self._open_vocabularies[weights] = OpenVocabulary(
                path, self.weights_folder, tokenize=tokenize
            )
        return self._open_vocabularies[weights]

    def prompt_files(self) -> list[list[object]]:
        """Name and size of what finding by words or drawn boxes rests on, as plain JSON."""
        from backend.vision.detection.yoloe import prompt_files

        return [[name, size] for name, size in prompt_files(self.weights_folder)]

    def missing_label_advice(self, labels: Sequence[str]) -> dict[str, str]:
        """What would help to find labels that nothing finds yet, as a card tells it.

        Args:
            labels: their names.

        Returns:
            ``missing_label_advice``: with the command that gets what is missing; nothing where all are found.
        """
        from backend.vision.detection.yoloe import missing_prompt_files

        if not labels:
            return {}
        missing_files = missing_prompt_files(self.weights_folder, tokenizer=True)
        hint = (
            f"{PROMPTS_HINT} {missing_files}"
            if missing_files
            else "Draw some, so that they are learned."
        )
        return {"advice": f"Nothing finds {', '.join(labels)} yet. {hint}"}

    def project_images(self, record: ProjectRecord) -> ProjectImages:
        """The images of a project."""
        connection = self.connection(record)
        if record.id not in self._project_images:
            self._project_images[record.id] = ProjectImages(
                record.server or connection.client.server,
                connection.images,
                self._embedding_cache(),
                self.image_copies,
                self.settings.max_image_pixels,
                batch_size=self.compute.batch_size,
            )
        return self._project_images[record.id]

    def connection(self, record: ProjectRecord) -> Connection:
        """A project within reach; tried anew after a new token or :meth:`forget_connection`."""
        token = self.projects.token(record.id)
        cached = self._connections.get(record.id)
        if cached and cached[0] == token and _same_except_title(cached[1].record, record):
            return cached[1]
        connected = connect(record, token, self.settings)
        self._connections[record.id] = (token, connected)
        self._embedders = {
            key: embedder for key, embedder in self._embedders.items() if key[0] != record.id
        }
        self._project_images.pop(record.id, None)
        return connected

    def forget_connection(self, record: ProjectRecord) -> None:
        """Find the way to a project anew next time."""
        self._connections.pop(record.id, None)

    def embedder(self, record: ProjectRecord, encoder: Encoder) -> Embedder:
        """Embeds a project's images."""
        images = self.project_images(record)
        key = (record.id, encoder.id)
        if key not in self._embedders:
            self._embedders[key] = Embedder(images, encoder, self._embedding_cache())
        return self._embedders[key]

    def model(self, record: ProjectRecord, version: str) -> Model:
        """A version's artifact."""
        key = (record.id, version)
        if key not in self._models:
            while len(self._models) >= MODEL_CACHE_SIZE:
                self._models.pop(next(iter(self._models)))
            folder = self.versions(record).path(version)
            self._models[key] = load_model(folder, self.load_network_runner, self.open_vocabulary)
        return self._models[key]

    def prototypes(self, encoder: Encoder, control: Control) -> npt.NDArray[np.float32] | None:
        """The text prototypes of a control's labels, (K, d); None for an image-only encoder."""
        from backend.vision.encoders.text_prototypes import LabelPrompt, compute_text_prototypes

        if not encoder.has_text:
            return None
        key = (encoder.id, control.labels)
        if key not in self._prototypes:
            texts = [LabelPrompt(label.name, label.words, label.hint) for label in control.labels]
            self._prototypes[key] = compute_text_prototypes(encoder, texts)
        return self._prototypes[key]

    def captures(self, record: ProjectRecord) -> CaptureStore:
        """What the endpoint kept for a project."""
        return self.projects.captures(record.id)

    def round_lock(self, record: ProjectRecord) -> AbstractContextManager[None]:
        """One round at a time per project, across processes.

        Raises:
            RoundInProgressError: another process is at it.
        """
        busy = RoundInProgressError(
            f"Another process runs a round of project {record.id}: try again after it."
        )
        return exclusive_lock(self.folder(record) / "round.lock", busy, self._lock_seconds)

    @property
    def weights_folder(self) -> Path:
        """Where published weights are kept."""
        return self.settings.weights_dir or self.settings.home / "weights"

    def _embedding_cache(self) -> EmbeddingCache:
        from backend.vision.encoders.embedding_cache import EmbeddingCache

        if self._cache is None:
            self._cache = EmbeddingCache(self.settings.home / "embeddings.sqlite")
        return self._cache


def _same_except_title(one: ProjectRecord, other: ProjectRecord) -> bool:
    """Whether two records say the same of a project but for its title."""
    return replace(one, title="") == replace(other, title="")
