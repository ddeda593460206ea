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
from backend.vision.detection.detections import NOTHING, Found, suppress
from backend.vision.detection.network import Network, load_network, save_network
from backend.vision.detection.network_runner import Detector
from backend.vision.detection.pseudo_boxes import only_centres

if TYPE_CHECKING:
    from PIL import Image

MEANING = "finder.json"
TWO_CLASSES = 0.7
"""IoU above which finds of two classes that mean one label are the same object."""
SHOWN = 0.25
"""Confidence from which finds are shown where nothing better is known (as ultralytics does)."""


@dataclass(frozen=True)
class Meaning:
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
    shown: float = SHOWN
    learned: bool = True
    difficulty: Mapping[str, float] = field(default_factory=dict)


class Finds(Protocol):
    """Answers one control of boxes or points."""

    meaning: Meaning

    def find(self, images: Sequence[Image.Image], least: float) -> list[Found]:
        """See :meth:`Finder.find`."""
        ...

    def save(self, folder: Path) -> None:
        """Write it into an empty folder."""
        ...


@dataclass
class Finder:
    """Answers one control.

    Attributes:
        network: what was learned.
        meaning: of its classes.
        key: hash of the weights; equal keys share one detector.
        load: gives the detector, and keeps it for the next call if it likes.
    """

    network: Network
    meaning: Meaning
    key: str
    load: Callable[[Network, int, str], Detector]

    def find(self, images: Sequence[Image.Image], least: float) -> list[Found]:
        """Find objects.

        Args:
            images: RGB, upright.
            least: confidence below which nothing is reported, 0 to 1.

        Returns:
            one entry an image, labels as index into ``meaning.labels``. Boxes end at the image's
            edge; points are boxes without extent.
        """
        detector = self.load(self.network, self.meaning.size, self.key)
        found = detector.detect(images, least)
        return [meant(f, self.meaning, image) for f, image in zip(found, images, strict=True)]

    def save(self, folder: Path) -> None:
        """Write it into an empty folder."""
        save_network(self.network, folder)
        meaning = {**asdict(self.meaning), "classes": list(self.meaning.classes.items())}
        text = json.dumps({**meaning, "key": self.key})
        (folder / MEANING).write_text(text, encoding="utf-8")


def meant(found: Found, meaning: Meaning, image: Image.Image) -> Found:
    """What a network found, as the control's labels.

    Args:
        found: labels as the network's classes; boxes may reach beyond the image.
        meaning: of the classes.
        image: that was looked at.

    Returns:
        labels as index into ``meaning.labels``; boxes end at the image's edge, and points are
        boxes without extent.
    """
    found = found.only(np.array([int(c) in meaning.classes for c in found.labels], dtype=bool))
    if not len(found):
        return NOTHING
    labels = np.array([meaning.classes[int(c)] for c in found.labels], dtype=np.int64)
    found = Found(found.boxes, found.confidence, labels)
    if meaning.points:
        ratio = image.width / image.height
        return only_centres(found, _sides(found, meaning, ratio), ratio)
    boxes = np.clip(found.boxes, 0, 1)
    kept = suppress(boxes, found.confidence, found.labels, TWO_CLASSES)
    kept = kept[(boxes[kept, 2:] > boxes[kept, :2]).all(axis=1)]
    return Found(boxes[kept], found.confidence[kept], found.labels[kept])


def _sides(found: Found, meaning: Meaning, ratio: float) -> dict[int, float]:
    """By label; of classes that were never learned as points, from the boxes found."""
    wide, high = min(ratio, 1.0), min(1 / ratio, 1.0)
    sides = (found.boxes[:, 2:] - found.boxes[:, :2]) * np.array([wide, high])
    usual = float(np.median(sides.min(axis=1)))
    return {i: meaning.sides.get(meaning.labels[i], usual) for i in set(found.labels.tolist())}


def load_finder(folder: Path, load: Callable[[Network, int, str], Detector]) -> Finder:
    """Read a finder.

    Raises:
        DetectorError: a file is missing or damaged.
    """
    meaning = read_meaning(folder)
    key = str(json.loads((folder / MEANING).read_text(encoding="utf-8")).get("key") or "")
    network = load_network(folder)
    return Finder(network, meaning, key or key_of_network(network), load)


def read_meaning(folder: Path) -> Meaning:
    """Read the meaning of a finder's classes.

    Raises:
        DetectorError: the file is missing or damaged.
    """
    names = {one.name for one in fields(Meaning)}
    try:
        stored = json.loads((folder / MEANING).read_text(encoding="utf-8"))
        known = {name: value for name, value in stored.items() if name in names}
        labels, classes = tuple(stored["labels"]), dict(map(tuple, stored["classes"]))
        return Meaning(**{**known, "labels": labels, "classes": classes})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DetectorError(
            f"The detector in {folder} is damaged ({type(error).__name__}): roll back to another "
            "version, or train again."
        ) from error


def key_of_network(network: Network) -> str:
    """Hash of a network: of its layers and weights."""
    digest = hashlib.sha256(json.dumps(asdict(network.plan), sort_keys=True).encode())
    for name, value in sorted(network.module.state_dict().items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]
