"""What answers one control of boxes or points: a network, and what its classes mean there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from backend.errors import DetectorError
from backend.vision.detection.detections import NO_DETECTIONS, Detections, suppress_per_label
from backend.vision.detection.network import DetectionNetwork, load_network, save_network
from backend.vision.detection.network_runner import NetworkRunner
from backend.vision.detection.pseudo_boxes import to_centre_points

if TYPE_CHECKING:
    from PIL import Image

CLASS_MAPPING_FILE = "finder.json"
CROSS_CLASS_IOU_THRESHOLD = 0.7
"""IoU above which finds of two classes that mean one label are the same object."""
DEFAULT_CONFIDENCE_THRESHOLD = 0.25
"""Confidence from which finds are shown where nothing better is known (as ultralytics does)."""


@dataclass(frozen=True)
class ClassMapping:
    """What a network's finds mean for a control.

    Attributes:
        points: places are centre points, not boxes.
        labels: the control's label names.
        classes: class of the network → index in ``labels``; others are ignored.
        sides: by label, the object's size in units of the longer edge; of points only.
        size: pixels of the network's input.
        shown: confidence from which a find is shown, 0 to 1.
        learned: from the project's own labels; else from the classes it knew before.
        difficulty: by label, how much an uncertain find of it counts, 1 to 2; 1 without.
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
    """Answers one control of boxes or points."""

    class_mapping: ClassMapping

    def detect(self, images: Sequence[Image.Image], min_confidence: float) -> list[Detections]:
        """See :meth:`Finder.detect`."""
        ...

    def save(self, folder: Path) -> None:
        """Write it into an empty folder."""
        ...


@dataclass
class TrainedDetector:
    """Answers one control.

    Attributes:
        network: what was learned.
        class_mapping: of its classes.
        key: hash of the weights; equal keys share one detector.
        load_runner: gives the detector, and keeps it for the next call if it likes.
    """

    network: DetectionNetwork
    class_mapping: ClassMapping
    key: str
    load_runner: Callable[[DetectionNetwork, int, str], NetworkRunner]

    def detect(self, images: Sequence[Image.Image], min_confidence: float) -> list[Detections]:
        """Find objects.

        Args:
            images: RGB, upright.
            min_confidence: confidence below which nothing is reported, 0 to 1.

        Returns:
            one entry an image, labels as index into ``meaning.labels``. Boxes end at the image's
            edge; points are boxes without extent.
        """
        detector = self.load_runner(self.network, self.class_mapping.size, self.key)
        detections = detector.detect(images, min_confidence)
        return [
            map_to_labels(f, self.class_mapping, image)
            for f, image in zip(detections, images, strict=True)
        ]

    def save(self, folder: Path) -> None:
        """Write it into an empty folder."""
        save_network(self.network, folder)
        stored_mapping = {
            **asdict(self.class_mapping),
            "classes": list(self.class_mapping.classes.items()),
        }
        text = json.dumps({**stored_mapping, "key": self.key})
        (folder / CLASS_MAPPING_FILE).write_text(text, encoding="utf-8")


def map_to_labels(detections: Detections, mapping: ClassMapping, image: Image.Image) -> Detections:
    """What a network found, as the control's labels.

    Args:
        detections: labels as the network's classes; boxes may reach beyond the image.
        mapping: of the classes.
        image: that was looked at.

    Returns:
        labels as index into ``meaning.labels``; boxes end at the image's edge, and points are
        boxes without extent.
    """
    detections = detections.select(
        np.array([int(c) in mapping.classes for c in detections.labels], dtype=bool)
    )
    if not len(detections):
        return NO_DETECTIONS
    labels = np.array([mapping.classes[int(c)] for c in detections.labels], dtype=np.int64)
    detections = Detections(detections.boxes, detections.confidence, labels)
    if mapping.points:
        aspect_ratio = image.width / image.height
        return to_centre_points(
            detections, _label_sides(detections, mapping, aspect_ratio), aspect_ratio
        )
    boxes = np.clip(detections.boxes, 0, 1)
    keep = suppress_per_label(
        boxes, detections.confidence, detections.labels, CROSS_CLASS_IOU_THRESHOLD
    )
    keep = keep[(boxes[keep, 2:] > boxes[keep, :2]).all(axis=1)]
    return Detections(boxes[keep], detections.confidence[keep], detections.labels[keep])


def _label_sides(
    detections: Detections, mapping: ClassMapping, aspect_ratio: float
) -> dict[int, float]:
    """By label; of classes that were never learned as points, from the boxes found."""
    width_scale, height_scale = min(aspect_ratio, 1.0), min(1 / aspect_ratio, 1.0)
    sides = (detections.boxes[:, 2:] - detections.boxes[:, :2]) * np.array(
        [width_scale, height_scale]
    )
    median_side = float(np.median(sides.min(axis=1)))
    return {
        i: mapping.sides.get(mapping.labels[i], median_side)
        for i in set(detections.labels.tolist())
    }


def load_trained_detector(
    folder: Path, load_runner: Callable[[DetectionNetwork, int, str], NetworkRunner]
) -> TrainedDetector:
    """Read a finder.

    Raises:
        DetectorError: a file is missing or damaged.
    """
    mapping = read_class_mapping(folder)
    key = str(
        json.loads((folder / CLASS_MAPPING_FILE).read_text(encoding="utf-8")).get("key") or ""
    )
    network = load_network(folder)
    return TrainedDetector(network, mapping, key or hash_network(network), load_runner)


def read_class_mapping(folder: Path) -> ClassMapping:
    """Read the meaning of a finder's classes.

    Raises:
        DetectorError: the file is missing or damaged.
    """
    field_names = {one.name for one in fields(ClassMapping)}
    try:
        stored = json.loads((folder / CLASS_MAPPING_FILE).read_text(encoding="utf-8"))
        known_fields = {name: value for name, value in stored.items() if name in field_names}
        labels, classes = tuple(stored["labels"]), dict(map(tuple, stored["classes"]))
        return ClassMapping(**{**known_fields, "labels": labels, "classes": classes})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DetectorError(
            f"The detector in {folder} is damaged ({type(error).__name__}): roll back to another "
            "version, or train again."
        ) from error


def hash_network(network: DetectionNetwork) -> str:
    """Hash of a network: of its layers and weights."""
    digest = hashlib.sha256(json.dumps(asdict(network.spec), sort_keys=True).encode())
    for name, value in sorted(network.module.state_dict().items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]
