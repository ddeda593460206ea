"""What the demo plays: pictures with known truth, what a person answers, and who was right."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from backend.learning.matching import match_boxes, match_points

Json = dict[str, Any]
CONFIGS = Path(__file__).parents[1] / "label_config"


@dataclass(frozen=True)
class Picture:
    """One drawn picture.

    Attributes:
        name: file name stem.
        image: RGB.
        truth: what a person would answer; its script knows its kind.
    """

    name: str
    image: Image.Image
    truth: Any


class Script(Protocol):
    """One job to play.

    Attributes:
        task: as ``--task`` names it.
        title: of the project.
        config: file in ``label_config/``.
        metric: what ``accuracy`` is.
        pool: images in the project.
        held_out: images that are in no project: for the figure against the truth.
        labels: how many tasks are labeled unless told otherwise.
        settings: of the backend.
        compare: the same images are labeled in random order as well, unless told otherwise.
    """

    task: str
    title: str
    config: str
    metric: str
    pool: int
    held_out: int
    labels: int
    settings: Mapping[str, str]
    compare: bool

    def draw(self, count: int, seed: int) -> Iterator[Picture]:
        """The first pictures of a seed."""
        ...

    def answer(self, truth: Any) -> list[Json]:
        """The regions that a person submits."""
        ...

    def figure(self, given: Sequence[Sequence[Json]], truths: Sequence[Any]) -> float:
        """How good predicted regions are, 0 to 1."""
        ...

    def right(self, given: Sequence[Json], truth: Any) -> bool:
        """Whether predicted regions need no correction."""
        ...


class Plants:
    """Healthy or wilting: one label for the whole image."""

    task = "classification"
    title = "Greenhouse: healthy or wilting?"
    config = "plants.xml"
    metric = "accuracy"
    pool, held_out, labels = 600, 200, 60
    settings: Mapping[str, str] = {"PRELABEL_ENCODER": "builtin"}
    compare = True

    def draw(self, count: int, seed: int) -> Iterator[Picture]:
        """See :class:`Script`."""
        from demo.scenes.plant_scenes import plant_scenes

        for scene in plant_scenes(count, seed):
            yield Picture(scene.name, scene.image, scene.label)

    def answer(self, truth: str) -> list[Json]:
        """See :class:`Script`."""
        value = {"choices": [truth]}
        return [{"from_name": "plant", "to_name": "image", "type": "choices", "value": value}]

    def figure(self, given: Sequence[Sequence[Json]], truths: Sequence[str]) -> float:
        """The share of right answers."""
        pairs = zip(given, truths, strict=True)
        return sum(self.right(regions, truth) for regions, truth in pairs) / len(truths)

    def right(self, given: Sequence[Json], truth: str) -> bool:
        """The one choice is the true one."""
        return [region["value"]["choices"] for region in given] == [[truth]]


@dataclass(frozen=True)
class Fruits:
    """Truth of a picture with objects.

    Attributes:
        objects: (label, x0, y0, x1, y1), 0 to 1.
        ratio: width divided by height.
    """

    objects: tuple[tuple[str, float, float, float, float], ...]
    ratio: float


class _Places(ABC):
    """What boxes and points have in common; F1 = 2 · right / (given + there)."""

    pool, held_out, labels = 240, 80, 40
    settings: Mapping[str, str] = {
        "PRELABEL_ENCODER": "builtin",
        "PRELABEL_DETECTOR": "builtin",
        "PRELABEL_TRAIN_SECONDS": "35",
    }
    metric = "F1"
    compare = False

    def draw(self, count: int, seed: int) -> Iterator[Picture]:
        """See :class:`Script`."""
        for scene in self._scenes(count, seed):
            objects = tuple((o.label, o.x0, o.y0, o.x1, o.y1) for o in scene.objects)
            ratio = scene.image.width / scene.image.height
            yield Picture(scene.name, scene.image, Fruits(objects, ratio))

    def figure(self, given: Sequence[Sequence[Json]], truths: Sequence[Fruits]) -> float:
        """F1 over all pictures."""
        pairs = list(zip(given, truths, strict=True))
        hits = sum(self._hits(regions, truth) for regions, truth in pairs)
        whole = sum(len(regions) + len(truth.objects) for regions, truth in pairs)
        return 2 * hits / whole if whole else 1.0

    def right(self, given: Sequence[Json], truth: Fruits) -> bool:
        """Everything is found, and nothing else."""
        return len(given) == len(truth.objects) == self._hits(given, truth)

    @abstractmethod
    def _scenes(self, count: int, seed: int) -> Iterator[Any]:
        """Drawn scenes with their objects."""

    @abstractmethod
    def _hits(self, given: Sequence[Json], truth: Fruits) -> int:
        """How many of the given regions are right."""


class Strawberries(_Places):
    """Ripe strawberries among leaves: a box around each."""

    task = "boxes"
    title = "Strawberries: where are the ripe ones?"
    config = "strawberries.xml"

    def answer(self, truth: Fruits) -> list[Json]:
        """See :class:`Script`."""
        return [
            _region("fruit", "rectanglelabels", label, x0, y0, x1 - x0, y1 - y0)
            for label, x0, y0, x1, y1 in truth.objects
        ]

    def _scenes(self, count: int, seed: int) -> Iterator[Any]:
        from demo.scenes.strawberry_scenes import strawberry_scenes

        return iter(strawberry_scenes(count, seed))

    def _hits(self, given: Sequence[Json], truth: Fruits) -> int:
        """Right from half an overlap on (IoU 0.5)."""
        boxes = [_corners(region["value"]) for region in given]
        return len(match_boxes(boxes, [corners for _, *corners in truth.objects], 0.5))


class Apples(_Places):
    """Apples to count: a click on the middle of each."""

    task = "points"
    title = "Apples: how many are there?"
    config = "apples.xml"

    def answer(self, truth: Fruits) -> list[Json]:
        """See :class:`Script`."""
        return [
            _region("fruit", "keypointlabels", label, (x0 + x1) / 2, (y0 + y1) / 2)
            for label, x0, y0, x1, y1 in truth.objects
        ]

    def _scenes(self, count: int, seed: int) -> Iterator[Any]:
        from demo.scenes.apple_scenes import apple_scenes

        return iter(apple_scenes(count, seed))

    def _hits(self, given: Sequence[Json], truth: Fruits) -> int:
        """Right within half the object's size."""
        found = [(r["value"]["x"] / 100 * truth.ratio, r["value"]["y"] / 100) for r in given]
        there = [
            ((x0 + x1) / 2 * truth.ratio, (y0 + y1) / 2) for _, x0, y0, x1, y1 in truth.objects
        ]
        sizes = [
            math.sqrt((x1 - x0) * truth.ratio * (y1 - y0)) for _, x0, y0, x1, y1 in truth.objects
        ]
        pairs = match_points(found, there, max(sizes, default=0.0) / 2)
        return sum(math.dist(found[i], there[j]) <= sizes[j] / 2 for i, j in pairs)


SCRIPTS: Mapping[str, type[Script]] = {
    "classification": Plants,
    "boxes": Strawberries,
    "points": Apples,
}


def _region(control: str, kind: str, label: str, x: float, y: float, *extent: float) -> Json:
    value: Json = {"x": 100 * x, "y": 100 * y, kind: [label]}
    if extent:
        value |= {"width": 100 * extent[0], "height": 100 * extent[1], "rotation": 0}
    else:
        value["width"] = 0.5
    return {"from_name": control, "to_name": "image", "type": kind, "value": value}


def _corners(value: Json) -> tuple[float, float, float, float]:
    x, y = value["x"] / 100, value["y"] / 100
    return x, y, x + value["width"] / 100, y + value["height"] / 100
