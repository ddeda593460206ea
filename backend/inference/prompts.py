"""Build detectors before training, from text prompts or from the first drawn boxes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backend.arrays import Floats
from backend.domain import Control, Label
from backend.errors import PrelabelError
from backend.inference.detections import RegionSample, example_from_sample, point_box_sizes
from backend.store.files import write_bytes
from backend.vision.detection.prompted_detector import PromptedDetector
from backend.vision.detection.trained_detector import ClassMapping
from backend.vision.encoders.text_prototypes import humanize_name

if TYPE_CHECKING:
    from backend.vision.detection.yoloe import OpenVocabulary

log = logging.getLogger("prelabel")
MAX_PROMPT_IMAGES = 24
"""Maximum number of labeled images that are used as visual prompts."""
UNIT_NORM_TOLERANCE = 1e-3
"""Maximum deviation of the length of a cached embedding from 1."""


class YoloePrompts:
    """The prompts of one project, a `PromptedDetectorFactory`.

    Args:
        weights: file name of the open-vocabulary network.
        load: loads the network by its file name.
        folder: folder of the project, where text embeddings are cached.
        files: names and sizes of the network and its text encoder, part of the cache key.
    """

    def __init__(
        self,
        weights: str,
        load: Callable[[str], OpenVocabulary],
        folder: Path,
        files: Sequence[tuple[str, int]] = (),
    ) -> None:
        self._weights = weights
        self._load = load
        self._folder = folder
        self._file_keys = [f"{name} {size}" for name, size in files] or [weights]

    def detector(
        self, control: Control, samples: Sequence[RegionSample], mapping: ClassMapping
    ) -> PromptedDetector | None:
        """Build a detector from drawn boxes, and from text prompts for labels without boxes.

        Returns:
            None if the network is unavailable, or no label has a prompt.
        """
        network = self._load_network()
        if network is None:
            return None
        prompt_samples = [sample for sample in samples if sample.regions][:MAX_PROMPT_IMAGES]
        sides = point_box_sizes(control, prompt_samples, mapping.size) if prompt_samples else {}
        embeddings = _embed_drawn_boxes(network, control, prompt_samples, sides)
        unprompted = [i for i, embedding in enumerate(embeddings) if not embedding.any()]
        for i, embedding in self._text_embeddings(network, control, unprompted).items():
            embeddings[i] = embedding
        classes = {i: i for i, embedding in enumerate(embeddings) if embedding.any()}
        if not classes:
            return None
        return PromptedDetector(
            embeddings, replace(mapping, classes=classes, sides=sides), self._weights, self._load
        )

    def is_available(self) -> bool:
        """Return whether the network can be loaded."""
        return self._load_network() is not None

    def _load_network(self) -> OpenVocabulary | None:
        try:
            return self._load(self._weights)
        except PrelabelError as error:
            log.warning("Text and box prompts are unavailable: %s", error)
            return None

    def _text_embeddings(
        self, network: OpenVocabulary, control: Control, labels: Sequence[int]
    ) -> dict[int, Floats]:
        """Return index of a label → embedding of its words; cache it in the project's folder."""
        embedding_by_label = {
            i: self._load_embedding(control.labels[i], network.dim) for i in labels
        }
        try:
            for i in labels:
                if embedding_by_label[i] is None:
                    embedding_by_label[i] = self._embed_label(network, control.labels[i])
        except PrelabelError as error:
            log.info("%s", error)
        return {
            i: embedding for i, embedding in embedding_by_label.items() if embedding is not None
        }

    def embedding_path(self, label: Label) -> Path:
        """Return the cache file of a label's text embedding."""
        key = hashlib.sha256(
            "/".join([*self._file_keys, *_label_words(label)]).encode()
        ).hexdigest()
        return self._folder / "prompts" / f"{key[:24]}.f32"

    def _load_embedding(self, label: Label, dim: int) -> Floats | None:
        """Load a (dim,) embedding of unit length; None if the file is missing or damaged."""
        try:
            embedding = np.frombuffer(self.embedding_path(label).read_bytes(), dtype=np.float32)
        except (OSError, ValueError):
            return None
        is_valid = (
            embedding.shape == (dim,)
            and abs(float(np.linalg.norm(embedding)) - 1) < UNIT_NORM_TOLERANCE
        )
        return embedding if is_valid else None

    def _embed_label(self, network: OpenVocabulary, label: Label) -> Floats:
        word_embeddings = network.text_embeddings(_label_words(label))
        embedding = np.asarray(word_embeddings.mean(axis=0), dtype=np.float32)
        embedding /= max(float(np.linalg.norm(embedding)), 1e-12)
        write_bytes(self.embedding_path(label), embedding.tobytes(), durable=False)
        return embedding


def _embed_drawn_boxes(
    network: OpenVocabulary,
    control: Control,
    samples: Sequence[RegionSample],
    sides: dict[str, float],
) -> Floats:
    """Return the visual embeddings of labels, (K, dim) float32; zeros for labels without boxes."""
    embeddings = np.zeros((len(control.labels), network.dim), dtype=np.float32)
    if samples:
        examples = [example_from_sample(sample, control, sides) for sample in samples]
        visual_embeddings = network.visual_embeddings(
            [example.read_image() for example in examples],
            [example.boxes for example in examples],
            [example.labels.tolist() for example in examples],
        )
        embeddings[: len(visual_embeddings)] = visual_embeddings
    return embeddings


def _label_words(label: Label) -> list[str]:
    return [humanize_name(word) for word in label.words or (label.name,)]
