"""Finding before anything is learned: by words, or by the first boxes that somebody drew."""

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
from backend.inference.detections import Sample, boxes_of, sides_of
from backend.store.files import write_bytes
from backend.vision.detection.prompted_detector import PromptedFinder
from backend.vision.detection.trained_detector import Meaning
from backend.vision.encoders.text_prototypes import readable

if TYPE_CHECKING:
    from backend.vision.detection.yoloe import OpenVocabulary

log = logging.getLogger("prelabel")
MOST_SHOWN = 24
"""Marked images that are shown to the network."""
ROUNDED = 1e-3
"""How far the length of a kept row may be from 1."""


class YoloePrompts:
    """Prompts of one project; see :class:`backend.training.detector.Prompts`.

    Args:
        weights: file name of the network.
        load: gives it.
        folder: of the project, where embeddings of words are kept.
        files: names and sizes of the network and its text encoder: with other ones, words are
            embedded anew.
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
        self._files = [f"{name} {size}" for name, size in files] or [weights]

    def finder(
        self, control: Control, samples: Sequence[Sample], meaning: Meaning
    ) -> PromptedFinder | None:
        """Drawn boxes describe a label, and words where there are none."""
        try:
            network = self._load(self._weights)
        except PrelabelError as error:
            log.warning("Nothing is found by words or drawn boxes: %s", error)
            return None
        shown = [sample for sample in samples if sample.places][:MOST_SHOWN]
        sides = sides_of(control, shown, meaning.size) if shown else {}
        rows = _drawn(network, control, shown, sides)
        without = [i for i, row in enumerate(rows) if not row.any()]
        for i, row in self._words(network, control, without).items():
            rows[i] = row
        classes = {i: i for i, row in enumerate(rows) if row.any()}
        if not classes:
            return None
        return PromptedFinder(
            rows, replace(meaning, classes=classes, sides=sides), self._weights, self._load
        )

    def _words(
        self, network: OpenVocabulary, control: Control, labels: Sequence[int]
    ) -> dict[int, Floats]:
        """Embeddings of labels' words, from the project's folder where they were made before."""
        found = {i: self._kept(control.labels[i], network.dim) for i in labels}
        try:
            for i in labels:
                if found[i] is None:
                    found[i] = self._embedded(network, control.labels[i])
        except PrelabelError as error:
            log.info("%s", error)
        return {i: row for i, row in found.items() if row is not None}

    def file(self, label: Label) -> Path:
        """Where the embedding of a label's words is kept."""
        key = hashlib.sha256("/".join([*self._files, *_words(label)]).encode()).hexdigest()
        return self._folder / "prompts" / f"{key[:24]}.f32"

    def _kept(self, label: Label, dim: int) -> Floats | None:
        """(dim,) of unit length; None where it was never made, or the file is damaged."""
        try:
            row = np.frombuffer(self.file(label).read_bytes(), dtype=np.float32)
        except (OSError, ValueError):
            return None
        whole = row.shape == (dim,) and abs(float(np.linalg.norm(row)) - 1) < ROUNDED
        return row if whole else None

    def _embedded(self, network: OpenVocabulary, label: Label) -> Floats:
        rows = network.text_embeddings(_words(label))
        row = np.asarray(rows.mean(axis=0), dtype=np.float32)
        row /= max(float(np.linalg.norm(row)), 1e-12)
        write_bytes(self.file(label), row.tobytes(), lasting=False)
        return row


def _drawn(
    network: OpenVocabulary, control: Control, samples: Sequence[Sample], sides: dict[str, float]
) -> Floats:
    """What drawn boxes say of the labels: (K, dim), zeros where there are none."""
    rows = np.zeros((len(control.labels), network.dim), dtype=np.float32)
    if samples:
        marked = [boxes_of(sample, control, sides) for sample in samples]
        images, boxes = [m.read() for m in marked], [m.boxes for m in marked]
        found = network.visual_embeddings(images, boxes, [m.labels.tolist() for m in marked])
        rows[: len(found)] = found
    return rows


def _words(label: Label) -> list[str]:
    return [readable(word) for word in label.words or (label.name,)]
