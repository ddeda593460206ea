"""What a working process keeps between jobs: encoders, models, connections, the cache."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

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
        self.lock_seconds = lock_seconds
        self.compute = compute or LocalCompute()
        self.settings = settings
        self.projects = ProjectStore(settings.home, settings.endpoint_data_dir)
        self._encoders: dict[str, Encoder] = {}
        self.open_projects: dict[str, OpenProject] = {}
        self._models: dict[tuple[str, str], Model] = {}
        self._prototypes: dict[tuple[str, tuple[object, ...]], npt.NDArray[np.float32]] = {}
        self._runners: dict[tuple[str, int], NetworkRunner] = {}
        self._open_vocabularies: dict[str, OpenVocabulary] = {}
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

    @cached_property
    def base_weights(self) -> BaseWeights:
        """The weights file that fine-tuning of detectors starts from."""
        from backend.vision.detection.base_weights import choose_base_weights

        return choose_base_weights(self.settings.detector, self.weights_folder, log.info)

    @cached_property
    def base_network(self) -> DetectionNetwork:
        """The network that fine-tuning of detectors starts from."""
        from backend.vision.detection.network import load_base_network

        return load_base_network(self.base_weights.path)

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
            ``advice``: with the command that installs what is missing; empty if nothing is.
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

    @property
    def weights_folder(self) -> Path:
        """Where published weights are kept."""
        return self.settings.weights_dir or self.settings.home / "weights"

    @cached_property
    def embedding_cache(self) -> EmbeddingCache:
        """The cache of embeddings and image facts of all projects."""
        from backend.vision.encoders.embedding_cache import EmbeddingCache

        return EmbeddingCache(self.settings.home / "embeddings.sqlite")


@dataclass
class OpenProject:
    """What a process has opened for a project, until its token or record changes.

    Attributes:
        token: the token that the connection was opened with.
        connection: to Label Studio.
        images: the project's images; None until they are needed.
        embedders: by encoder id.
    """

    token: str
    connection: Connection
    images: ProjectImages | None = None
    embedders: dict[str, Embedder] = field(default_factory=dict)

    def is_current(self, record: ProjectRecord, token: str) -> bool:
        """Whether the connection still fits; a new title needs no new connection."""
        return token == self.token and replace(self.connection.record, title=record.title) == record
