"""Finding before anything is learned: by words, or by the first boxes that somebody drew."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from backend.domain import Control, Label
from backend.errors import PrelabelError
from backend.loop.finding import Sample, boxes_of, sides_of
from backend.store.files import write_bytes
from backend.vision.detection.finder import Meaning
from backend.vision.detection.prompted import PromptedFinder
from backend.vision.prompts import readable

if TYPE_CHECKING:
    from backend.vision.yoloe import OpenVocabulary

log = logging.getLogger("prelabel")
Array = npt.NDArray[np.float32]
MOST_SHOWN = 24
"""Marked images that are shown to the network."""


class YoloePrompts:
    """Prompts of one project; see :class:`backend.loop.finding.Prompts`.

    Args:
        weights: file name of the network.
        load: gives it.
        folder: of the project, where embeddings of words are kept.
    """

    def __init__(self, weights: str, load: Callable[[str], OpenVocabulary], folder: Path) -> None:
        self._weights = weights
        self._load = load
        self._folder = folder

    def finder(
        self, control: Control, samples: Sequence[Sample], meaning: Meaning
    ) -> PromptedFinder | None:
        """Drawn boxes describe a label, and words where there are none."""
        shown = [sample for sample in samples if sample.places][:MOST_SHOWN]
        sides = sides_of(control, shown, meaning.size) if shown else {}
        rows = self._drawn(control, shown, sides)
        without = [i for i, row in enumerate(rows) if not row.any()]
        for i, row in self._words(control, without).items():
            rows[i] = row
        if not rows.any():
            return None
        classes = {i: i for i in range(len(control.labels))}
        return PromptedFinder(
            rows, replace(meaning, classes=classes, sides=sides), self._weights, self._load
        )

    def _drawn(self, control: Control, samples: Sequence[Sample], sides: dict[str, float]) -> Array:
        network = self._load(self._weights)
        rows = np.zeros((len(control.labels), network.dim), dtype=np.float32)
        if samples:
            marked = [boxes_of(sample, control, sides) for sample in samples]
            images, boxes = [m.read() for m in marked], [m.boxes for m in marked]
            found = network.visual_embeddings(images, boxes, [m.labels.tolist() for m in marked])
            rows[: len(found)] = found
        return rows

    def _words(self, control: Control, labels: Sequence[int]) -> dict[int, Array]:
        """Embeddings of labels' words, from the project's folder where they were made before."""
        found: dict[int, Array] = {}
        for i in labels:
            row = self._kept(control.labels[i])
            if row is None:
                return {}
            found[i] = row
        return found

    def file(self, label: Label) -> Path:
        """Where the embedding of a label's words is kept."""
        key = hashlib.sha256("/".join([self._weights, *_words(label)]).encode()).hexdigest()
        return self._folder / "prompts" / f"{key[:24]}.f32"

    def _kept(self, label: Label) -> Array | None:
        file = self.file(label)
        if file.is_file():
            return np.fromfile(file, dtype=np.float32)
        try:
            rows = self._load(self._weights).text_embeddings(_words(label))
        except PrelabelError as error:
            log.info("%s", error)
            return None
        row = np.asarray(rows.mean(axis=0), dtype=np.float32)
        row /= max(float(np.linalg.norm(row)), 1e-12)
        write_bytes(file, row.tobytes(), lasting=False)
        return row


def _words(label: Label) -> list[str]:
    return [readable(word) for word in label.words or (label.name,)]
