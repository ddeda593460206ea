"""Smart tools: somebody drew one object, and gets the similar ones of the same image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.domain import Control, Finding, ImageSize, Place, Places, Task
from backend.inference.detections import found_in, shown
from backend.inference.images import Pictures, Source
from backend.inference.model import Model
from backend.label_studio.region_results import drawn_by, place_regions

if TYPE_CHECKING:
    from PIL import Image

MOST = 100
"""Suggestions at most."""
SURE = 0.5
"""Confidence from which something merely similar is suggested."""
SAME = 0.3
"""Overlap from which a find is the drawn object itself."""


def drawn_in(context: Mapping[str, Any], controls: Sequence[Control]) -> dict[str, Places]:
    """What somebody has just drawn, by control of boxes or points."""
    result = context.get("result") or []
    found = {c.name: drawn_by(result, c) for c in controls if c.kind != "choices"}
    return {name: places for name, places in found.items() if places}


def suggest(
    model: Model | None,
    controls: Sequence[Control],
    task: Task,
    drawn: Mapping[str, Places],
    pictures: Pictures,
) -> list[dict[str, Any]]:
    """The regions of objects like the drawn ones, without those.

    Args:
        model: the live version's, where there is one.
        controls: of the project.
        task: whose image is shown.
        drawn: by control.
        pictures: of the project.

    Raises:
        ImageError: the image cannot be read.
    """
    regions: list[dict[str, Any]] = []
    for control in controls:
        address = task.images.get(control.image_key, "")
        if control.name not in drawn or not address:
            continue
        batch = next(pictures.batches([Source(address, task.id)]))
        if address in batch.failed:
            raise batch.failed[address]
        image, size = batch.images[address], batch.sizes[address]
        found = _like(model, control, image, drawn[control.name], size)
        regions += place_regions(task.id, found, control, salt="suggestion")
    return regions


def warm(model: Model | None) -> None:
    """Load all that the first suggestion needs, so that it comes as quickly as the others.

    Args:
        model: the live version's, where there is one.
    """
    from PIL import Image

    from backend.vision.similar_objects import similar_boxes

    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (640, 640, 3), dtype=np.uint8))
    for finder in model.finders.values() if model else ():
        finder.find([image], SURE)
    similar_boxes(image, np.array([[0.4, 0.4, 0.5, 0.5]], dtype=np.float32), limit=MOST)


def _like(
    model: Model | None, control: Control, image: Image.Image, drawn: Places, size: ImageSize
) -> Finding:
    """What the model finds, if it finds a drawn object too; else what looks like it."""
    rows: list[tuple[Place, float]] = []
    for label in dict.fromkeys(place.label for place in drawn):
        examples = tuple(place for place in drawn if place.label == label)
        own = Drawn(control, image, examples, _side(model, control, image, examples))
        learned = _learned(model, own)
        found = learned if learned is not None else _similar(own)
        rows += [row for row in found if not own.has(row[0])]
    rows.sort(key=lambda row: -row[1])
    places, confidence = (
        (tuple(part) for part in zip(*rows[:MOST], strict=True)) if rows else ((), ())
    )
    return Finding(control.name, places, confidence, size)


@dataclass(frozen=True)
class Drawn:
    """Objects of one label that somebody drew.

    Attributes:
        control: that they were drawn with.
        image: in which.
        examples: at least one.
        side: of the objects, 0 to 1 of the image's longer edge; of points only.
    """

    control: Control
    image: Image.Image
    examples: Places
    side: float

    @property
    def label(self) -> str:
        """Of all of them."""
        return self.examples[0].label

    def has(self, place: Place) -> bool:
        """Whether a place is one of the drawn objects."""
        near = self._on if self.control.kind == "points" else _overlap
        return any(near(place, example) for example in self.examples)

    def _on(self, point: Place, example: Place) -> bool:
        """Whether a point lies within half an object's side: the same object has no other."""
        longest = max(self.image.size)
        across, down = (
            (a - b) * edge / longest
            for a, b, edge in zip(point.centre, example.centre, self.image.size, strict=True)
        )
        return bool(np.hypot(across, down) < self.side / 2)


def _side(
    model: Model | None, control: Control, image: Image.Image, examples: Sequence[Place]
) -> float:
    """The side of objects that were drawn as points: learned, told, or seen around them."""
    from backend.vision.similar_objects import side_around

    if control.kind != "points":
        return 0.0
    finder = model.finders.get(control.name) if model else None
    label = examples[0].label
    learned = finder.meaning.sides.get(label, 0.0) if finder else 0.0
    told = next((x.extent for x in control.labels if x.name == label), 0.0)
    points = np.array([place.centre for place in examples], dtype=np.float32)
    return learned or told or side_around(image, points)


def _learned(model: Model | None, drawn: Drawn) -> list[tuple[Place, float]] | None:
    """What the model finds of the label; None where it does not know the drawn objects."""
    finder = model.finders.get(drawn.control.name) if model else None
    if finder is None:
        return None
    ((places, confidence),) = found_in(finder, drawn.control, [drawn.image])
    least = shown(finder, drawn.control)
    known = [
        (place, belief)
        for place, belief in zip(places, confidence, strict=True)
        if place.label == drawn.label and belief >= least
    ]
    return known if any(drawn.has(place) for place, _ in known) else None


def _similar(drawn: Drawn) -> list[tuple[Place, float]]:
    """What looks like the drawn objects."""
    from backend.vision.similar_objects import similar_boxes, similar_points

    corners = np.array([(p.x0, p.y0, p.x1, p.y1) for p in drawn.examples], dtype=np.float32)
    points = drawn.control.kind == "points"
    found = (
        similar_points(drawn.image, corners[:, :2], drawn.side, limit=MOST)
        if points
        else similar_boxes(drawn.image, corners, limit=MOST)
    )
    rows = []
    for (x0, y0, x1, y1), belief in zip(
        found.boxes.tolist(), found.confidence.tolist(), strict=True
    ):
        if points:
            x0 = x1 = (x0 + x1) / 2
            y0 = y1 = (y0 + y1) / 2
        if belief >= SURE:
            rows.append((Place(drawn.label, x0, y0, x1, y1), belief))
    return rows


def _overlap(one: Place, other: Place) -> bool:
    wide = min(one.x1, other.x1) - max(one.x0, other.x0)
    high = min(one.y1, other.y1) - max(one.y0, other.y0)
    shared = max(wide, 0) * max(high, 0)
    areas = sum((p.x1 - p.x0) * (p.y1 - p.y0) for p in (one, other))
    return shared / max(areas - shared, 1e-12) >= SAME
