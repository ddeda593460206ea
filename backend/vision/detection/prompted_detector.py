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
from backend.vision.detection.detections import Detections, merge_detections
from backend.vision.detection.trained_detector import (
    CLASS_MAPPING_FILE,
    ClassMapping,
    TrainedDetector,
    load_trained_detector,
    map_to_labels,
    read_class_mapping,
)

if TYPE_CHECKING:
    from PIL import Image

    from backend.vision.detection.network import DetectionNetwork
    from backend.vision.detection.network_runner import NetworkRunner
    from backend.vision.detection.yoloe import OpenVocabulary

PROMPT_EMBEDDINGS_FILE = "prompts.npz"
PRETRAINED_DETECTOR_DIR = "named"


@dataclass
class PromptedDetector:
    """Answers one control without training.

    Attributes:
        embeddings: (K, d) float32, a row per label; zeros for one that nothing describes.
        class_mapping: of the rows.
        weights_name: file name of the network.
        load_open_vocabulary: gives the network of a file name; called at first use.
        pretrained_detector: finds the labels that nothing describes and a pretrained network knows by name.
    """

    embeddings: Floats
    class_mapping: ClassMapping
    weights_name: str
    load_open_vocabulary: Callable[[str], OpenVocabulary]
    pretrained_detector: TrainedDetector | None = None

    def detect(self, images: Sequence[Image.Image], min_confidence: float) -> list[Detections]:
        """See :meth:`backend.vision.detection.trained_detector.Finder.detect`."""
        raw_detections = self.load_open_vocabulary(self.weights_name).detect(
            images, self.embeddings, min_confidence
        )
        pairs = zip(raw_detections, images, strict=True)
        prompted_detections = [
            map_to_labels(
                Detections(one.boxes, one.confidence, one.labels), self.class_mapping, image
            )
            for one, image in pairs
        ]
        if self.pretrained_detector is None:
            return prompted_detections
        pretrained_detections = self.pretrained_detector.detect(images, min_confidence)
        return [
            merge_detections(*pair)
            for pair in zip(prompted_detections, pretrained_detections, strict=True)
        ]

    def save(self, folder: Path) -> None:
        """Write it into an empty folder; the network stays where it is."""
        np.savez(folder / PROMPT_EMBEDDINGS_FILE, embeddings=self.embeddings)
        stored_mapping = {
            **asdict(self.class_mapping),
            "classes": list(self.class_mapping.classes.items()),
        }
        text = json.dumps({**stored_mapping, "prompted": self.weights_name})
        (folder / CLASS_MAPPING_FILE).write_text(text, encoding="utf-8")
        if self.pretrained_detector is not None:
            (folder / PRETRAINED_DETECTOR_DIR).mkdir()
            self.pretrained_detector.save(folder / PRETRAINED_DETECTOR_DIR)


def load_prompted_detector(
    folder: Path,
    load_open_vocabulary: Callable[[str], OpenVocabulary],
    load_runner: Callable[[DetectionNetwork, int, str], NetworkRunner],
) -> PromptedDetector:
    """Read what :meth:`PromptedFinder.save` wrote.

    Args:
        folder: of the finder.
        load_open_vocabulary: gives the network that takes prompts, by file name.
        load_runner: makes detectors.

    Raises:
        DetectorError: a file is missing or damaged.
    """
    try:
        weights_name = str(
            json.loads((folder / CLASS_MAPPING_FILE).read_text(encoding="utf-8"))["prompted"]
        )
        with np.load(folder / PROMPT_EMBEDDINGS_FILE, allow_pickle=False) as file:
            embeddings = np.asarray(file["embeddings"], dtype=np.float32)
    except (OSError, ValueError, KeyError) as error:
        raise DetectorError(f"The detector in {folder} is damaged: train again.") from error
    pretrained_detector = (
        load_trained_detector(folder / PRETRAINED_DETECTOR_DIR, load_runner)
        if (folder / PRETRAINED_DETECTOR_DIR).is_dir()
        else None
    )
    return PromptedDetector(
        embeddings,
        read_class_mapping(folder),
        weights_name,
        load_open_vocabulary,
        pretrained_detector,
    )


def is_prompted(folder: Path) -> bool:
    """Whether a folder holds prompts instead of a network."""
    return (folder / PROMPT_EMBEDDINGS_FILE).is_file()
