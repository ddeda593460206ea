"""The detector of one control: a network and the labels that its classes stand for."""

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
"""(network, input size, key of the weights) → a runner, possibly a shared one."""
CLASS_MAPPING_FILE = "finder.json"
CROSS_CLASS_IOU_THRESHOLD = 0.7
"""IoU above which detections of two classes of one label count as the same object."""
DEFAULT_CONFIDENCE_THRESHOLD = 0.25
"""Default confidence threshold for predictions, as in ultralytics."""


@dataclass(frozen=True)
class ClassMapping:
    """How the detections of a network become regions of a control.

    Attributes:
        points: regions are centre points instead of boxes.
        labels: the control's label names.
        classes: class of the network → index in ``labels``; other classes are ignored.
        sides: by label, the object's size in units of the longer edge; for points only.
        size: pixels of the network's input.
        shown: confidence threshold for predictions, 0 to 1.
        learned: trained on the project's labels; else the network is used as pretrained.
        difficulty: by label, weight of an uncertain detection, 1 to 2; 1 if absent.
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
    """Detects the objects of one control."""

    class_mapping: ClassMapping

    def detect(self, images: Sequence[Image.Image], min_confidence: float) -> list[Detections]:
        """See :meth:`TrainedDetector.detect`."""
        ...

    def save(self, folder: Path) -> None:
        """Write the detector to an empty folder."""
        ...


@dataclass
class TrainedDetector:
    """A detector with a network of its own.

    Attributes:
        network: the network.
        class_mapping: of its classes.
        key: hash of the weights; detectors with equal keys share one runner.
        load_runner: returns the runner.
    """

    network: DetectionNetwork
    class_mapping: ClassMapping
    key: str
    load_runner: RunnerLoader

    def detect(self, images: Sequence[Image.Image], min_confidence: float) -> list[Detections]:
        """Return the detections of each image.

        Args:
            images: RGB, upright.
            min_confidence: lowest reported confidence, 0 to 1.

        Returns:
            one entry per image, as from :func:`map_to_labels`.
        """
        runner = self.load_runner(self.network, self.class_mapping.size, self.key)
        pairs = zip(runner.detect(images, min_confidence), images, strict=True)
        return [map_to_labels(found, self.class_mapping, image) for found, image in pairs]

    def save(self, folder: Path) -> None:
        """Write the detector to an empty folder."""
        save_network(self.network, folder)
        write_class_mapping(self.class_mapping, folder, key=self.key)


def map_to_labels(detections: Detections, mapping: ClassMapping, image: Image.Image) -> Detections:
    """Convert a network's detections to the control's labels.

    Args:
        detections: labels are the network's classes; boxes may reach beyond the image.
        mapping: of the classes.
        image: the image they were detected in.

    Returns:
        labels are indices into ``mapping.labels``. Boxes are clipped to the image; points are boxes
        without extent.
    """
    detections = detections.select(np.isin(detections.labels, list(mapping.classes)))
    if not len(detections):
        return NO_DETECTIONS
    labels = np.array([mapping.classes[int(c)] for c in detections.labels], dtype=np.int64)
    detections = Detections(detections.boxes, detections.confidence, labels)
    if mapping.points:
        aspect_ratio = image.width / image.height
        sides = _label_sides(detections, mapping, aspect_ratio)
        return to_centre_points(detections, sides, aspect_ratio)
    boxes, confidence = np.clip(detections.boxes, 0, 1), detections.confidence
    keep = suppress_per_label(boxes, confidence, labels, CROSS_CLASS_IOU_THRESHOLD)
    keep = keep[(boxes[keep, 2:] > boxes[keep, :2]).all(axis=1)]
    return Detections(boxes[keep], confidence[keep], labels[keep])


def _label_sides(
    detections: Detections, mapping: ClassMapping, aspect_ratio: float
) -> dict[int, float]:
    """Return the side by label; where none is known, the median of the detected boxes."""
    sides = (detections.boxes[:, 2:] - detections.boxes[:, :2]) * edge_lengths(aspect_ratio)
    median_side = float(np.median(sides.min(axis=1)))
    labels = set(detections.labels.tolist())
    return {i: mapping.sides.get(mapping.labels[i], median_side) for i in labels}


def load_trained_detector(folder: Path, load_runner: RunnerLoader) -> TrainedDetector:
    """Read what :meth:`TrainedDetector.save` wrote.

    Raises:
        DetectorError: a file is missing or damaged.
    """
    mapping, extra = read_class_mapping(folder)
    network = load_network(folder)
    return TrainedDetector(network, mapping, extra.get("key") or hash_network(network), load_runner)


def write_class_mapping(mapping: ClassMapping, folder: Path, **extra: str) -> None:
    """Write a class mapping and further entries of the detector to ``finder.json``."""
    stored = {**asdict(mapping), "classes": list(mapping.classes.items()), **extra}
    (folder / CLASS_MAPPING_FILE).write_text(json.dumps(stored), encoding="utf-8")


def read_class_mapping(folder: Path) -> tuple[ClassMapping, dict[str, str]]:
    """Read what :func:`write_class_mapping` wrote.

    Raises:
        DetectorError: the file is missing or damaged.
    """
    try:
        stored = json.loads((folder / CLASS_MAPPING_FILE).read_text(encoding="utf-8"))
        stored["classes"] = dict(stored["classes"])
        mapping = from_json(ClassMapping, stored)
        names = {one.name for one in fields(ClassMapping)}
        return mapping, {k: str(v) for k, v in stored.items() if v and k not in names}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged_detector_error(folder, error) from error


def hash_network(network: DetectionNetwork) -> str:
    """Return a hash of a network's layers and weights."""
    digest = hashlib.sha256(json.dumps(asdict(network.spec), sort_keys=True).encode())
    for name, value in sorted(network.module.state_dict().items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]
