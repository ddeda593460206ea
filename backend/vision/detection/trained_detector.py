"""The detector of a control: a network and the mapping from its classes to labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from backend.json_records import from_json
from backend.vision.detection.detections import NO_DETECTIONS, Detections, suppress_per_label
from backend.vision.detection.network import (
    DetectionNetwork,
    damaged_detector_error,
    load_network,
    save_network,
)
from backend.vision.detection.network_runner import NetworkRunner
from backend.vision.detection.pseudo_boxes import edge_lengths, to_centre_points

if TYPE_CHECKING:
    from PIL import Image

RunnerLoader = Callable[[DetectionNetwork, int, str], NetworkRunner]
"""(network, input size in pixels, hash of the weights) → a runner, which may be shared."""
CLASS_MAPPING_FILE = "finder.json"
CROSS_CLASS_IOU_THRESHOLD = 0.7
"""IoU above which the less confident of two boxes is dropped if their classes map to one label."""
DEFAULT_CONFIDENCE_THRESHOLD = 0.25
"""Default confidence threshold for predictions, as in ultralytics."""


@dataclass(frozen=True)
class ClassMapping:
    """How to convert detections of a network to regions of a control.

    Attributes:
        points: regions are centre points instead of boxes.
        labels: label names of the control.
        classes: class index → label index; other classes are ignored.
        sides: label name → object size in units of the longer edge; for points only.
        size: longer edge of the network's input in pixels.
        shown: confidence threshold for predictions, 0 to 1.
        learned: the network was trained on the project's labels, not only pretrained.
        difficulty: label name → weight of an uncertain detection, 1 to 2; default 1.
    """

    points: bool
    labels: tuple[str, ...]
    classes: Mapping[int, int]
    sides: Mapping[str, float]
    size: int
    shown: float = DEFAULT_CONFIDENCE_THRESHOLD
    learned: bool = True
    difficulty: Mapping[str, float] = field(default_factory=dict)


class Detector(Protocol):
    """Interface of detectors of one control."""

    class_mapping: ClassMapping

    def detect(self, images: Sequence[Image.Image], min_confidence: float) -> list[Detections]:
        """See :meth:`TrainedDetector.detect`."""
        ...

    def save(self, folder: Path) -> None:
        """Save the detector to an empty folder."""
        ...


@dataclass
class TrainedDetector:
    """A detector with its own network, fine-tuned or pretrained.

    Attributes:
        network: the network.
        class_mapping: maps its classes to labels.
        key: hash of the weights; detectors with equal keys share a runner.
        load_runner: returns the runner.
    """

    network: DetectionNetwork
    class_mapping: ClassMapping
    key: str
    load_runner: RunnerLoader

    def detect(self, images: Sequence[Image.Image], min_confidence: float) -> list[Detections]:
        """Detect objects; labels are indices into ``class_mapping.labels``.

        Args:
            images: RGB, upright.
            min_confidence: confidence threshold, 0 to 1.

        Returns:
            for each image the result of :func:`map_to_labels`.
        """
        runner = self.load_runner(self.network, self.class_mapping.size, self.key)
        pairs = zip(runner.detect(images, min_confidence), images, strict=True)
        return [
            map_to_labels(raw, self.class_mapping, image.width / image.height)
            for raw, image in pairs
        ]

    def save(self, folder: Path) -> None:
        """Save the detector to an empty folder."""
        save_network(self.network, folder)
        write_class_mapping(self.class_mapping, folder, key=self.key)


def map_to_labels(detections: Detections, mapping: ClassMapping, aspect_ratio: float) -> Detections:
    """Convert class indices to label indices, and pseudo-boxes to points.

    Args:
        detections: detections of a network; boxes may exceed the image.
        mapping: the class mapping.
        aspect_ratio: width / height of the image.

    Returns:
        detections whose labels are indices into ``mapping.labels``. Boxes are clipped to the image;
        points are zero-size boxes.
    """
    detections = detections.select(np.isin(detections.labels, list(mapping.classes)))
    if not len(detections):
        return NO_DETECTIONS
    labels = np.array([mapping.classes[int(c)] for c in detections.labels], dtype=np.int64)
    detections = Detections(detections.boxes, detections.confidence, labels)
    if mapping.points:
        sides = _label_sides(detections, mapping, aspect_ratio)
        return to_centre_points(detections, sides, aspect_ratio)
    boxes, confidence = np.clip(detections.boxes, 0, 1), detections.confidence
    keep = suppress_per_label(boxes, confidence, labels, CROSS_CLASS_IOU_THRESHOLD)
    keep = keep[(boxes[keep, 2:] > boxes[keep, :2]).all(axis=1)]
    return Detections(boxes[keep], confidence[keep], labels[keep])


def _label_sides(
    detections: Detections, mapping: ClassMapping, aspect_ratio: float
) -> dict[int, float]:
    """Return label index → side, by default the median side of the detected boxes."""
    sides = (detections.boxes[:, 2:] - detections.boxes[:, :2]) * edge_lengths(aspect_ratio)
    median_side = float(np.median(sides.min(axis=1)))
    labels = set(detections.labels.tolist())
    return {i: mapping.sides.get(mapping.labels[i], median_side) for i in labels}


def load_trained_detector(folder: Path, load_runner: RunnerLoader) -> TrainedDetector:
    """Load a detector saved by :meth:`TrainedDetector.save`.

    Raises:
        DetectorError: a file is missing or damaged.
    """
    mapping, extra = read_class_mapping(folder)
    network = load_network(folder)
    return TrainedDetector(network, mapping, extra.get("key") or hash_network(network), load_runner)


def write_class_mapping(mapping: ClassMapping, folder: Path, **extra: str) -> None:
    """Save a class mapping and additional entries to ``finder.json``."""
    stored = {**asdict(mapping), "classes": list(mapping.classes.items()), **extra}
    (folder / CLASS_MAPPING_FILE).write_text(json.dumps(stored), encoding="utf-8")


def read_class_mapping(folder: Path) -> tuple[ClassMapping, dict[str, str]]:
    """Load a class mapping and the additional entries saved by :func:`write_class_mapping`.

    Raises:
        DetectorError: the file is missing or damaged.
    """
    try:
        stored = json.loads((folder / CLASS_MAPPING_FILE).read_text(encoding="utf-8"))
        stored["classes"] = dict(stored["classes"])
        mapping = from_json(ClassMapping, stored)
        names = {f.name for f in fields(ClassMapping)}
        return mapping, {k: str(v) for k, v in stored.items() if v and k not in names}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged_detector_error(folder, error) from error


def hash_network(network: DetectionNetwork) -> str:
    """Return a hash of a network's specification and weights."""
    digest = hashlib.sha256(json.dumps(asdict(network.spec), sort_keys=True).encode())
    for name, value in sorted(network.module.state_dict().items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]
