"""A finder that was shown words or a few drawn boxes instead of being trained: YOLOE."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backend.arrays import Floats
from backend.errors import DetectorError
from backend.vision.detection.detections import Found, both
from backend.vision.detection.trained_detector import (
    MEANING,
    Finder,
    Meaning,
    load_finder,
    meant,
    read_meaning,
)

if TYPE_CHECKING:
    from PIL import Image

    from backend.vision.detection.network import Network
    from backend.vision.detection.network_runner import Detector
    from backend.vision.detection.yoloe import OpenVocabulary

EMBEDDINGS = "prompts.npz"
NAMED = "named"


@dataclass
class PromptedFinder:
    """Answers one control without training.

    Attributes:
        embeddings: (K, d) float32, a row per label; zeros for one that nothing describes.
        meaning: of the rows.
        weights: file name of the network.
        load: gives the network of a file name; called at first use.
        named: finds the labels that nothing describes and a pretrained network knows by name.
    """

    embeddings: Floats
    meaning: Meaning
    weights: str
    load: Callable[[str], OpenVocabulary]
    named: Finder | None = None

    def find(self, images: Sequence[Image.Image], least: float) -> list[Found]:
        """See :meth:`backend.vision.detection.trained_detector.Finder.find`."""
        found = self.load(self.weights).detect(images, self.embeddings, least)
        pairs = zip(found, images, strict=True)
        described = [
            meant(Found(one.boxes, one.confidence, one.labels), self.meaning, image)
            for one, image in pairs
        ]
        if self.named is None:
            return described
        known = self.named.find(images, least)
        return [both(*pair) for pair in zip(described, known, strict=True)]

    def save(self, folder: Path) -> None:
        """Write it into an empty folder; the network stays where it is."""
        np.savez(folder / EMBEDDINGS, embeddings=self.embeddings)
        stored = {**asdict(self.meaning), "classes": list(self.meaning.classes.items())}
        text = json.dumps({**stored, "prompted": self.weights})
        (folder / MEANING).write_text(text, encoding="utf-8")
        if self.named is not None:
            (folder / NAMED).mkdir()
            self.named.save(folder / NAMED)


def load_prompted(
    folder: Path,
    load: Callable[[str], OpenVocabulary],
    detector: Callable[[Network, int, str], Detector],
) -> PromptedFinder:
    """Read what :meth:`PromptedFinder.save` wrote.

    Args:
        folder: of the finder.
        load: gives the network that takes prompts, by file name.
        detector: makes detectors.

    Raises:
        DetectorError: a file is missing or damaged.
    """
    try:
        weights = str(json.loads((folder / MEANING).read_text(encoding="utf-8"))["prompted"])
        with np.load(folder / EMBEDDINGS, allow_pickle=False) as file:
            embeddings = np.asarray(file["embeddings"], dtype=np.float32)
    except (OSError, ValueError, KeyError) as error:
        raise DetectorError(f"The detector in {folder} is damaged: train again.") from error
    named = load_finder(folder / NAMED, detector) if (folder / NAMED).is_dir() else None
    return PromptedFinder(embeddings, read_meaning(folder), weights, load, named)


def is_prompted(folder: Path) -> bool:
    """Whether a folder holds prompts instead of a network."""
    return (folder / EMBEDDINGS).is_file()
