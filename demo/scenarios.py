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
LABEL_CONFIG_FOLDER = Path(__file__).parents[1] / "label_config"


@dataclass(frozen=True)
class DemoImage:
    """One drawn picture.

    Attributes:
        name: file name stem.
        image: RGB.
        truth: what a person would answer; its script knows its kind.
    """

    name: str
    image: Image.Image
    truth: Any


class DemoScenario(Protocol):
    """One job to play.

    Attributes:
        task: as ``--task`` names it.
        title: of the project.
        config_file: file in ``label_config/``.
        metric: what ``accuracy`` is.
        pool_size: images in the project.
        held_out_size: images that are in no project: for the figure against the truth.
        label_budget: how many tasks are labeled unless told otherwise.
        settings: of the backend.
        compare_random: the same images are labeled in random order as well, unless told otherwise.
    """

    task: str
    title: str
    config_file: str
    metric: str
    pool_size: int
    held_out_size: int
    label_budget: int
    settings: Mapping[str, str]
    compare_random: bool

    def draw_images(self, count: int, seed: int) -> Iterator[DemoImage]:
        """The first pictures of a seed."""
        ...

    def make_annotation(self, truth: Any) -> list[Json]:
        """The regions that a person submits."""
        ...

    def compute_metric(self, predicted: Sequence[Sequence[Json]], truths: Sequence[Any]) -> float:
        """How good predicted regions are, 0 to 1."""
        ...

    def is_correct(self, predicted: Sequence[Json], truth: Any) -> bool:
        """Whether predicted regions need no correction."""
        ...


class PlantScenario:
    """Healthy or wilting: one label for the whole image."""

    task = "classification"
    title = "Greenhouse: healthy or wilting?"
    config_file = "plants.xml"
    metric = "accuracy"
    pool_size, held_out_size, label_budget = 600, 200, 60
    settings: Mapping[str, str] = {"PRELABEL_ENCODER": "builtin"}
    compare_random = True

    def draw_images(self, count: int, seed: int) -> Iterator[DemoImage]:
        """See :class:`DemoScenario`."""
        from demo.scenes.plant_scenes import plant_scenes

        for scene in plant_scenes(count, seed):
            yield DemoImage(scene.name, scene.image, scene.label)

    def make_annotation(self, truth: str) -> list[Json]:
        """See :class:`DemoScenario`."""
        value = {"choices": [truth]}
        return [{"from_name": "plant", "to_name": "image", "type": "choices", "value": value}]

    def compute_metric(self, predicted: Sequence[Sequence[Json]], truths: Sequence[str]) -> float:
        """The share of right answers."""
        pairs = zip(predicted, truths, strict=True)
        return sum(self.is_correct(regions, truth) for regions, truth in pairs) / len(truths)

    def is_correct(self, predicted: Sequence[Json], truth: str) -> bool:
        """The one choice is the true one."""
        return [region["value"]["choices"] for region in predicted] == [[truth]]


@dataclass(frozen=True)
class FruitTruth:
    """Truth of a picture with objects.

    Attributes:
        objects: (label, x0, y0, x1, y1), 0 to 1.
        aspect_ratio: width divided by height.
    """

    objects: tuple[tuple[str, float, float, float, float], ...]
    aspect_ratio: float


class _RegionScenario(ABC):
    """What boxes and points have in common; F1 = 2 · right / (given + there)."""

    pool_size, held_out_size, label_budget = 240, 80, 40
    settings: Mapping[str, str] = {
        "PRELABEL_ENCODER": "builtin",
        "PRELABEL_DETECTOR": "builtin",
        "PRELABEL_TRAIN_SECONDS": "35",
    }
    metric = "F1"
    compare_random = False

    def draw_images(self, count: int, seed: int) -> Iterator[DemoImage]:
        """See :class:`DemoScenario`."""
        for scene in self._draw_scenes(count, seed):
            objects = tuple(
                (fruit.label, fruit.x0, fruit.y0, fruit.x1, fruit.y1) for fruit in scene.objects
            )
            ratio = scene.image.width / scene.image.height
            yield DemoImage(scene.name, scene.image, FruitTruth(objects, ratio))

    def compute_metric(
        self, predicted: Sequence[Sequence[Json]], truths: Sequence[FruitTruth]
    ) -> float:
        """F1 over all pictures."""
        pairs = list(zip(predicted, truths, strict=True))
        correct = sum(self._count_correct(regions, truth) for regions, truth in pairs)
        total = sum(len(regions) + len(truth.objects) for regions, truth in pairs)
        return 2 * correct / total if total else 1.0

    def is_correct(self, predicted: Sequence[Json], truth: FruitTruth) -> bool:
        """Everything is found, and nothing else."""
        return len(predicted) == len(truth.objects) == self._count_correct(predicted, truth)

    @abstractmethod
    def _draw_scenes(self, count: int, seed: int) -> Iterator[Any]:
        """Drawn scenes with their objects."""

    @abstractmethod
    def _count_correct(self, predicted: Sequence[Json], truth: FruitTruth) -> int:
        """How many of the given regions are right."""


class StrawberryScenario(_RegionScenario):
    """Ripe strawberries among leaves: a box around each."""

    task = "boxes"
    title = "Strawberries: where are the ripe ones?"
    config_file = "strawberries.xml"

    def make_annotation(self, truth: FruitTruth) -> list[Json]:
        """See :class:`DemoScenario`."""
        return [
            _make_region("fruit", "rectanglelabels", label, x0, y0, x1 - x0, y1 - y0)
            for label, x0, y0, x1, y1 in truth.objects
        ]

    def _draw_scenes(self, count: int, seed: int) -> Iterator[Any]:
        from demo.scenes.strawberry_scenes import strawberry_scenes

        return iter(strawberry_scenes(count, seed))

    def _count_correct(self, predicted: Sequence[Json], truth: FruitTruth) -> int:
        """Right from half an overlap on (IoU 0.5)."""
        boxes = [_box_corners(region["value"]) for region in predicted]
        return len(match_boxes(boxes, [corners for _, *corners in truth.objects], 0.5))


class AppleScenario(_RegionScenario):
    """Apples to count: a click on the middle of each."""

    task = "points"
    title = "Apples: how many are there?"
    config_file = "apples.xml"

    def make_annotation(self, truth: FruitTruth) -> list[Json]:
        """See :class:`DemoScenario`."""
        return [
            _make_region("fruit", "keypointlabels", label, (x0 + x1) / 2, (y0 + y1) / 2)
            for label, x0, y0, x1, y1 in truth.objects
        ]

    def _draw_scenes(self, count: int, seed: int) -> Iterator[Any]:
        from demo.scenes.apple_scenes import apple_scenes

        return iter(apple_scenes(count, seed))

    def _count_correct(self, predicted: Sequence[Json], truth: FruitTruth) -> int:
        """Right within half the object's size."""
        predicted_points = [
            (r["value"]["x"] / 100 * truth.aspect_ratio, r["value"]["y"] / 100) for r in predicted
        ]
        true_points = [
            ((x0 + x1) / 2 * truth.aspect_ratio, (y0 + y1) / 2)
            for _, x0, y0, x1, y1 in truth.objects
        ]
        object_sizes = [
            math.sqrt((x1 - x0) * truth.aspect_ratio * (y1 - y0))
            for _, x0, y0, x1, y1 in truth.objects
        ]
        pairs = match_points(predicted_points, true_points, max(object_sizes, default=0.0) / 2)
        return sum(
            math.dist(predicted_points[i], true_points[j]) <= object_sizes[j] / 2 for i, j in pairs
        )


SCENARIOS: Mapping[str, type[DemoScenario]] = {
    "classification": PlantScenario,
    "boxes": StrawberryScenario,
    "points": AppleScenario,
}


def _make_region(
    control: str, region_type: str, label: str, x: float, y: float, *extent: float
) -> Json:
    value: Json = {"x": 100 * x, "y": 100 * y, region_type: [label]}
    if extent:
        value |= {"width": 100 * extent[0], "height": 100 * extent[1], "rotation": 0}
    else:
        value["width"] = 0.5
    return {"from_name": control, "to_name": "image", "type": region_type, "value": value}


def _box_corners(value: Json) -> tuple[float, float, float, float]:
    x, y = value["x"] / 100, value["y"] / 100
    return x, y, x + value["width"] / 100, y + value["height"] / 100
