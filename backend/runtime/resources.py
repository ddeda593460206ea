"""Resources that a process shares between jobs: encoders, models, connections and caches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from backend.inference.embed import Embedder
from backend.inference.images import ProjectImages
from backend.inference.model import Model, load_model
from backend.runtime.compute import Compute, LocalCompute
from backend.runtime.connection import Connection
from backend.settings import Settings
from backend.store.image_copies import ImageCopies
from backend.store.projects import ProjectRecord, ProjectStore
from backend.store.versions import VersionStore

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from backend.domain import Control
    from backend.vision.detection.base_weights import BaseWeights
    from backend.vision.detection.feature_network import FeatureRunner
    from backend.vision.detection.network import DetectionNetwork
    from backend.vision.detection.network_runner import NetworkRunner
    from backend.vision.detection.yoloe import OpenVocabulary
    from backend.vision.encoders.base import Encoder
    from backend.vision.encoders.embedding_cache import EmbeddingCache

log = logging.getLogger("prelabel")
MODEL_CACHE_SIZE = 8
RUNNER_CACHE_SIZE = 3
K = TypeVar("K")
V = TypeVar("V")


class Resources:
    """Shared resources of a process, loaded on first use.

    Args:
        settings: settings of this backend.
        compute: backend for training and batch inference; local by default.
        lock_seconds: how long to wait while another process runs a round of the same project.
    """

    def __init__(
        self, settings: Settings, compute: Compute | None = None, lock_seconds: float = 0.0
    ) -> None:
        self.lock_seconds = lock_seconds
        self.compute = compute or LocalCompute()
        self.settings = settings
        self.projects = ProjectStore(settings.home, settings.endpoint_data_dir)
        self._encoders: dict[str, Encoder] = {}
        self.open_projects: dict[str, OpenProject] = {}
        self._models: dict[tuple[str, str], Model] = {}
        self._prototypes: dict[tuple[str, tuple[object, ...]], npt.NDArray[np.float32]] = {}
        self._runners: dict[tuple[str, int], NetworkRunner] = {}
        self._feature_runners: dict[tuple[str, int], FeatureRunner] = {}
        self._open_vocabularies: dict[str, OpenVocabulary] = {}
        self.image_copies = ImageCopies(settings.home / "pictures")

    def folder(self, record: ProjectRecord) -> Path:
        """Return the folder that holds all files of a project."""
        return self.projects.folder(record.id)

    def versions(self, record: ProjectRecord) -> VersionStore:
        """Return the version store of a project."""
        return VersionStore(self.folder(record))

    def encoder(self, setting: str = "") -> Encoder:
        """Return the encoder for a setting, by default ``PRELABEL_ENCODER``."""
        from backend.vision.encoders.load import load_encoder

        setting = setting or self.settings.encoder
        if setting not in self._encoders:
            load = partial(load_encoder, setting, log=log.info, weights_dir=self.weights_folder)
            self._encoders[setting] = self.compute.encoder(setting, load)
        return self._encoders[setting]

    @cached_property
    def base_weights(self) -> BaseWeights:
        """The weights file from which detectors are fine-tuned."""
        from backend.vision.detection.base_weights import choose_base_weights

        return choose_base_weights(self.settings.detector, self.weights_folder, log.info)

    @cached_property
    def base_network(self) -> DetectionNetwork:
        """The network from which detectors are fine-tuned."""
        from backend.vision.detection.network import load_base_network

        return load_base_network(self.base_weights.path)

    def load_network_runner(self, network: DetectionNetwork, size: int, key: str) -> NetworkRunner:
        """Return a runner on the fastest runtime; the most recently used runners are cached."""
        from backend.vision.detection.network_runner import load_network_runner

        folder = self.weights_folder / "compiled"
        load = partial(load_network_runner, network, size, f"{key}-{size}", folder, log.info)
        return _reuse_recent(
            self._runners,
            (key, size),
            lambda: self.compute.network_runner(network, size, key, load),
            RUNNER_CACHE_SIZE,
        )

    def load_feature_runner(self, network: DetectionNetwork, size: int, key: str) -> FeatureRunner:
        """Return a runner for the features of a network; the most recently used are cached."""
        from backend.vision.detection.feature_network import load_feature_runner

        folder = self.weights_folder / "compiled"
        load = partial(load_feature_runner, network, size, f"{key}-{size}", folder, log.info)
        return _reuse_recent(self._feature_runners, (key, size), load, RUNNER_CACHE_SIZE)

    def open_vocabulary(self, weights: str) -> OpenVocabulary:
        """Load an open-vocabulary network (YOLOE) from a weights file; cached."""
        from backend.vision.detection.yoloe import OpenVocabulary

        if weights not in self._open_vocabularies:
            from backend.vision.encoders.clip import tokenize

            path = self.weights_folder / weights
            self._open_vocabularies[weights] = OpenVocabulary(
                path, self.weights_folder, tokenize=tokenize
            )
        return self._open_vocabularies[weights]

    def prompt_files(self) -> list[list[object]]:
        """Return ``[name, size in bytes]`` of each file used for prompts, as JSON."""
        from backend.vision.detection.yoloe import prompt_files

        return [[name, size] for name, size in prompt_files(self.weights_folder)]

    def missing_label_advice(self, labels: Sequence[str]) -> dict[str, str]:
        """Return ``{"advice": …}`` for labels that no detector covers yet; empty without labels."""
        from backend.vision.detection.yoloe import PROMPTS_HINT, missing_prompt_files

        if not labels:
            return {}
        missing_files = missing_prompt_files(self.weights_folder, tokenizer=True)
        hint = (
            f"{PROMPTS_HINT} {missing_files}"
            if missing_files
            else "Draw a few, so that a detector is trained."
        )
        return {"advice": f"No detector finds {', '.join(labels)} yet. {hint}"}

    def model(self, record: ProjectRecord, version: str) -> Model:
        """Load the model of a version; the most recently used models are cached."""
        load = partial(
            load_model,
            self.versions(record).path(version),
            self.load_network_runner,
            self.load_feature_runner,
            self.open_vocabulary,
        )
        return _reuse_recent(self._models, (record.id, version), load, MODEL_CACHE_SIZE)

    def prototypes(self, encoder: Encoder, control: Control) -> npt.NDArray[np.float32] | None:
        """Return the (K, d) text embeddings of a control's labels; None without a text encoder."""
        from backend.vision.encoders.text_prototypes import LabelPrompt, compute_text_prototypes

        if not encoder.has_text:
            return None
        key = (encoder.id, control.labels)
        if key not in self._prototypes:
            texts = [LabelPrompt(label.name, label.words, label.hint) for label in control.labels]
            self._prototypes[key] = compute_text_prototypes(encoder, texts)
        return self._prototypes[key]

    @property
    def weights_folder(self) -> Path:
        """The folder of downloaded weights."""
        return self.settings.weights_dir or self.settings.home / "weights"

    @cached_property
    def embedding_cache(self) -> EmbeddingCache:
        """The cache of embeddings and image sizes, shared by all projects."""
        from backend.vision.encoders.embedding_cache import EmbeddingCache

        return EmbeddingCache(self.settings.home / "embeddings.sqlite")


def _reuse_recent(cache: dict[K, V], key: K, load: Callable[[], V], max_size: int) -> V:
    """Return the cached value of a key, or load it; the most recently used are kept."""
    value = cache.pop(key, None)
    if value is None:
        value = load()
    cache[key] = value
    while len(cache) > max_size:
        cache.pop(next(iter(cache)))
    return value


@dataclass
class OpenProject:
    """Cached connection, images and embedders of a project, until its token or record changes.

    Attributes:
        token: token of the connection.
        connection: connection to Label Studio.
        images: images of the project; None until first used.
        embedders: embedders by encoder id.
    """

    token: str
    connection: Connection
    images: ProjectImages | None = None
    embedders: dict[str, Embedder] = field(default_factory=dict)

    def is_current(self, record: ProjectRecord, token: str) -> bool:
        """Return whether token and record are unchanged, ignoring the project title."""
        return token == self.token and replace(self.connection.record, title=record.title) == record
