"""Smart tools: somebody drew one object, and gets the similar ones of the same image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.domain import Control, Finding, ImageSize, Place, Places, Task
from backend.label_studio.places import marked_by, place_regions
from backend.loop.finding import found_in, shown
from backend.loop.model import Model
from backend.loop.pictures import Pictures, Source

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
    found = {c.name: marked_by(result, c, Counter()) for c in controls if c.kind != "choices"}
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

    from backend.vision.similar import similar_boxes

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
        examples = [place for place in drawn if place.label == label]
        learned = _learned(model, control, image, examples)
        rows += learned if learned is not None else _similar(control, image, examples)
    rows = [row for row in rows if not _near_any(row[0], drawn, control)]
    rows.sort(key=lambda row: -row[1])
    places, confidence = (
        (tuple(part) for part in zip(*rows[:MOST], strict=True)) if rows else ((), ())
    )
    return Finding(control.name, places, confidence, size)


def _learned(
    model: Model | None, control: Control, image: Image.Image, examples: Sequence[Place]
) -> list[tuple[Place, float]] | None:
    finder = model.finders.get(control.name) if model else None
    if finder is None:
        return None
    ((places, confidence),) = found_in(finder, control, [image])
    rows = list(zip(places, confidence, strict=True))
    own = [row for row in rows if row[0].label == examples[0].label]
    least = shown(finder, control)
    known = [row for row in own if row[1] >= least]
    recognised = any(_near_any(place, examples, control) for place, _ in known)
    return known if recognised else None


def _similar(
    control: Control, image: Image.Image, examples: Sequence[Place]
) -> list[tuple[Place, float]]:
    from backend.vision.similar import similar_boxes, similar_points

    corners = np.array([(p.x0, p.y0, p.x1, p.y1) for p in examples], dtype=np.float32)
    if control.kind == "points":
        side = next((x.extent for x in control.labels if x.name == examples[0].label), 0.0)
        found = similar_points(image, corners[:, :2], side or None, limit=MOST)
    else:
        corners = corners[(corners[:, 2:] > corners[:, :2]).all(axis=1)]
        if not len(corners):
            return []
        found = similar_boxes(image, corners, limit=MOST)
    rows = []
    for (x0, y0, x1, y1), belief in zip(
        found.boxes.tolist(), found.confidence.tolist(), strict=True
    ):
        if control.kind == "points":
            x0 = x1 = (x0 + x1) / 2
            y0 = y1 = (y0 + y1) / 2
        if belief >= SURE:
            rows.append((Place(examples[0].label, x0, y0, x1, y1), belief))
    return rows


def _near_any(place: Place, drawn: Sequence[Place], control: Control) -> bool:
    """Whether a place is one of the drawn objects."""
    return any(_near(place, other, control) for other in drawn if other.label == place.label)


def _near(one: Place, other: Place, control: Control) -> bool:
    if control.kind == "points":
        return max(abs(a - b) for a, b in zip(one.centre, other.centre, strict=True)) < 0.02
    wide = min(one.x1, other.x1) - max(one.x0, other.x0)
    high = min(one.y1, other.y1) - max(one.y0, other.y0)
    shared = max(wide, 0) * max(high, 0)
    areas = sum((p.x1 - p.x0) * (p.y1 - p.y0) for p in (one, other))
    return shared / max(areas - shared, 1e-12) >= SAME
