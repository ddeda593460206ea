"""Open-vocabulary detectors: YOLOE with text or visual prompts, without training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from backend.arrays import Floats
from backend.vision.detection.detections import Detections, merge_detections
from backend.vision.detection.network import damaged_detector_error
from backend.vision.detection.trained_detector import (
    ClassMapping,
    RunnerLoader,
    TrainedDetector,
    load_trained_detector,
    map_to_labels,
    read_class_mapping,
    write_class_mapping,
)

if TYPE_CHECKING:
    from PIL import Image

    from backend.vision.detection.yoloe import OpenVocabulary

PROMPT_EMBEDDINGS_FILE = "prompts.npz"
PRETRAINED_DETECTOR_DIR = "named"


@dataclass
class PromptedDetector:
    """An open-vocabulary detector of one control.

    Attributes:
        embeddings: (K, d) float32 prompt embeddings; zeros for labels without a prompt.
        class_mapping: maps rows of ``embeddings`` to labels.
        weights_name: file name of the YOLOE weights.
        load_open_vocabulary: loads the YOLOE network by file name; called at first use.
        pretrained_detector: closed-set detector for labels without a prompt, or None.
    """

    embeddings: Floats
    class_mapping: ClassMapping
    weights_name: str
    load_open_vocabulary: Callable[[str], OpenVocabulary]
    pretrained_detector: TrainedDetector | None = None

    def detect(self, images: Sequence[Image.Image], min_confidence: float) -> list[Detections]:
        """See :meth:`TrainedDetector.detect`."""
        raw_detections = self.load_open_vocabulary(self.weights_name).detect(
            images, self.embeddings, min_confidence
        )
        prompted = [
            map_to_labels(raw, self.class_mapping, image.width / image.height)
            for raw, image in zip(raw_detections, images, strict=True)
        ]
        if self.pretrained_detector is None:
            return prompted
        pretrained = self.pretrained_detector.detect(images, min_confidence)
        return [merge_detections(*pair) for pair in zip(prompted, pretrained, strict=True)]

    def save(self, folder: Path) -> None:
        """Save the detector to an empty folder, without the YOLOE weights."""
        np.savez(folder / PROMPT_EMBEDDINGS_FILE, embeddings=self.embeddings)
        write_class_mapping(self.class_mapping, folder, prompted=self.weights_name)
        if self.pretrained_detector is not None:
            (folder / PRETRAINED_DETECTOR_DIR).mkdir()
            self.pretrained_detector.save(folder / PRETRAINED_DETECTOR_DIR)


def load_prompted_detector(
    folder: Path,
    load_open_vocabulary: Callable[[str], OpenVocabulary],
    load_runner: RunnerLoader,
) -> PromptedDetector:
    """Load a detector saved by :meth:`PromptedDetector.save`.

    Args:
        folder: folder of the detector.
        load_open_vocabulary: loads the YOLOE network by file name.
        load_runner: returns a runner of the pretrained network.

    Raises:
        DetectorError: a file is missing or damaged.
    """
    mapping, extra = read_class_mapping(folder)
    try:
        weights_name = extra["prompted"]
        with np.load(folder / PROMPT_EMBEDDINGS_FILE, allow_pickle=False) as file:
            embeddings = np.asarray(file["embeddings"], dtype=np.float32)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise damaged_detector_error(folder, error) from error
    named = folder / PRETRAINED_DETECTOR_DIR
    pretrained_detector = load_trained_detector(named, load_runner) if named.is_dir() else None
    return PromptedDetector(
        embeddings, mapping, weights_name, load_open_vocabulary, pretrained_detector
    )


def is_prompted(folder: Path) -> bool:
    """Return whether a folder contains a :class:`PromptedDetector`."""
    return (folder / PROMPT_EMBEDDINGS_FILE).is_file()
