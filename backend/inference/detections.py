"""Detections as regions: run a detector on samples and convert both ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from backend.arrays import Floats
from backend.domain import Control, ImageSize, Place, Places
from backend.learning.detection_metrics import Judged
from backend.vision.detection.detections import Found
from backend.vision.detection.pseudo_boxes import boxes_around, side_of
from backend.vision.detection.trained_detector import Finds
from backend.vision.detection.training_example import Example

if TYPE_CHECKING:
    from PIL import Image


LEAST = 0.02
"""Confidence below which a find is of no use to anything."""


PART = 32


@dataclass(frozen=True)
class Sample:
    """An image that a person looked through.

    Attributes:
        task: the task's number.
        read: gives the upright RGB image.
        size: of the original, pixels.
        places: all objects of the control.
        boxes: real boxes of the same labels, of other controls; for the size of points.
        audit: belongs to the audit slice: judged on, never trained on.
        digest: hash of the image's bytes, by which its copy is kept; empty where there is none.
    """

    task: int
    read: Callable[[], Image.Image]
    size: ImageSize
    places: Places
    boxes: Places = ()
    audit: bool = False
    digest: str = ""

    @property
    def ratio(self) -> float:
        """Width divided by height."""
        return self.size.width / self.size.height


def found_in(
    finder: Finds, control: Control, images: Sequence[Image.Image], least: float = LEAST
) -> list[tuple[Places, tuple[float, ...]]]:
    """Places and confidence by image, most certain first.

    Args:
        finder: of the control.
        control: as it stands in the config now; labels it no longer has are never found.
        images: RGB, upright.
        least: confidence below which nothing is reported.
    """
    known = frozenset(control.label_names)
    names = finder.meaning.labels
    return [_places(found, names, known) for found in finder.find(images, least)]


def shown(finder: Finds, control: Control) -> float:
    """The confidence from which a find is shown: the config's, else the finder's own."""
    return control.threshold or finder.meaning.shown


def judged_on(finder: Finds | None, control: Control, samples: Sequence[Sample]) -> list[Judged]:
    """What a finder finds in images whose truth is known."""
    judged: list[Judged] = []
    for start in range(0, len(samples), PART):
        part = samples[start : start + PART]
        images = [sample.read() for sample in part] if finder else []
        found = found_in(finder, control, images) if finder else [((), ())] * len(part)
        judged += [
            Judged(places, confidence, sample.places, sample.ratio)
            for sample, (places, confidence) in zip(part, found, strict=True)
        ]
    return judged


def as_boxes(one: Judged, sides: Mapping[str, float]) -> Judged:
    """Points as squares of their label's size, in units of the longer edge."""
    return replace(
        one, found=_squares(one.found, sides, one), truth=_squares(one.truth, sides, one)
    )


def _squares(places: Places, sides: Mapping[str, float], image: Judged) -> Places:
    found = []
    for place in places:
        half = sides[place.label] / 2
        w, h = half / min(image.ratio, 1.0), half / min(1 / image.ratio, 1.0)
        x, y = place.centre
        found.append(Place(place.label, x - w, y - h, x + w, y + h))
    return tuple(found)


def boxes_of(sample: Sample, control: Control, sides: Mapping[str, float]) -> Example:
    """A sample as boxes: its own, or pseudo-boxes around its points."""
    return _example(sample, control, sides)


def sides_of(control: Control, samples: Sequence[Sample], size: int) -> dict[str, float]:
    """By label of a control of points, the side of its pseudo-boxes; see ``side_of``."""
    return _sides(control, samples, size) if control.kind == "points" else {}


def _sides(control: Control, samples: Sequence[Sample], size: int) -> dict[str, float]:
    return {
        label.name: side_of(
            [_units(s, s.places, label.name)[:, :2] for s in samples],
            [_extents(s, label.name) for s in samples],
            label.extent,
            size,
        )
        for label in control.labels
    }


def _units(sample: Sample, places: Places, label: str) -> Floats:
    """(n, 4) of one label, in units of the longer edge."""
    wide, high = min(sample.ratio, 1.0), min(1 / sample.ratio, 1.0)
    rows = [
        (p.x0 * wide, p.y0 * high, p.x1 * wide, p.y1 * high) for p in places if p.label == label
    ]
    return np.array(rows, dtype=np.float32).reshape(-1, 4)


def _extents(sample: Sample, label: str) -> Floats:
    boxes = _units(sample, sample.boxes, label)
    return boxes[:, 2:] - boxes[:, :2]


def _example(sample: Sample, control: Control, sides: Mapping[str, float]) -> Example:
    names = control.label_names
    labels = np.array([names.index(p.label) for p in sample.places], dtype=np.int64)
    corners = [(p.x0, p.y0, p.x1, p.y1) for p in sample.places]
    boxes = np.array(corners, dtype=np.float32).reshape(-1, 4)
    if control.kind == "points":
        widths = np.array([sides[p.label] for p in sample.places], dtype=np.float32)
        boxes = boxes_around(boxes[:, :2], widths, sample.ratio)
    return Example(sample.read, sample.size.width, sample.size.height, boxes, labels)


def _places(
    found: Found, names: Sequence[str], known: frozenset[str]
) -> tuple[Places, tuple[float, ...]]:
    rows = [
        (Place(names[label], *map(float, box)), float(confidence))
        for box, confidence, label in zip(found.boxes, found.confidence, found.labels, strict=True)
        if names[label] in known
    ]
    rows.sort(key=lambda row: -row[1])
    return tuple(place for place, _ in rows), tuple(belief for _, belief in rows)
