"""The three labeling jobs of the demo: their images, annotations, and metrics."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from PIL import Image

from backend.label_studio import Json
from backend.learning.matching import match_boxes, match_points
from demo.scenes.fruit_scene import Fruit, FruitScene

LABEL_CONFIG_FOLDER = Path(__file__).parents[1] / "label_config"
Truth = TypeVar("Truth")


@dataclass(frozen=True)
class DemoImage(Generic[Truth]):
    """A drawn image: file name stem, RGB image, and ground truth."""

    name: str
    image: Image.Image
    truth: Truth


class DemoScenario(ABC, Generic[Truth]):
    """A labeling job of the demo.

    Attributes:
        task: value of ``--task``.
        title: title of the project.
        config_file: file in ``label_config/``.
        metric: name of the metric that :meth:`compute_metric` returns.
        pool_size: number of images in the project.
        held_out_size: number of images in no project, to measure the model.
        label_budget: default number of tasks to label.
        settings: environment variables of the backend.
        compare_random: whether to label the images in random order, too, by default.
    """

    task: ClassVar[str]
    title: ClassVar[str]
    config_file: ClassVar[str]
    metric: ClassVar[str]
    pool_size: ClassVar[int]
    held_out_size: ClassVar[int]
    label_budget: ClassVar[int]
    settings: ClassVar[Mapping[str, str]]
    compare_random: ClassVar[bool]

    @abstractmethod
    def draw_images(self, count: int, seed: int) -> Iterator[DemoImage[Truth]]:
        """Draw the first images of a seed."""

    @abstractmethod
    def make_annotation(self, truth: Truth) -> list[Json]:
        """Return the result of a correct annotation."""

    @abstractmethod
    def compute_metric(self, predicted: Sequence[Sequence[Json]], truths: Sequence[Truth]) -> float:
        """Compute the metric of predicted results, 0 to 1."""

    @abstractmethod
    def is_correct(self, predicted: Sequence[Json], truth: Truth) -> bool:
        """Return whether a predicted result needs no correction."""


class PlantScenario(DemoScenario[str]):
    """Classify plants as healthy or wilting, with one label per image."""

    task = "classification"
    title = "Greenhouse: healthy or wilting?"
    config_file = "plants.xml"
    metric = "accuracy"
    pool_size, held_out_size, label_budget = 600, 200, 40
    settings: ClassVar[Mapping[str, str]] = {"PRELABEL_ENCODER": "efficientnet-lite0"}
    compare_random = True

    def draw_images(self, count: int, seed: int) -> Iterator[DemoImage[str]]:
        """Draw greenhouse plants."""
        from demo.scenes.plant_scenes import plant_scenes

        for scene in plant_scenes(count, seed):
            yield DemoImage(scene.name, scene.image, scene.label)

    def make_annotation(self, truth: str) -> list[Json]:
        """Return the annotation with the true choice."""
        value = {"choices": [truth]}
        return [{"from_name": "plant", "to_name": "image", "type": "choices", "value": value}]

    def compute_metric(self, predicted: Sequence[Sequence[Json]], truths: Sequence[str]) -> float:
        """Compute the accuracy."""
        pairs = zip(predicted, truths, strict=True)
        return sum(self.is_correct(regions, truth) for regions, truth in pairs) / len(truths)

    def is_correct(self, predicted: Sequence[Json], truth: str) -> bool:
        """Return whether only the true choice is predicted."""
        return [region["value"]["choices"] for region in predicted] == [[truth]]


@dataclass(frozen=True)
class FruitTruth:
    """The fruits of an image, and the aspect ratio (width divided by height)."""

    fruits: tuple[Fruit, ...]
    aspect_ratio: float


class _FruitScenario(DemoScenario[FruitTruth]):
    """Detect fruits as boxes or points; F1 = 2 · correct / (predicted + true)."""

    pool_size, held_out_size, label_budget = 240, 80, 40
    settings: ClassVar[Mapping[str, str]] = {
        "PRELABEL_ENCODER": "efficientnet-lite0",
        "PRELABEL_DETECTOR": "builtin",
        "PRELABEL_TRAIN_SECONDS": "35",
    }
    metric = "F1"
    compare_random = False

    def draw_images(self, count: int, seed: int) -> Iterator[DemoImage[FruitTruth]]:
        """Draw plants with fruits."""
        for scene in self._draw_scenes(count, seed):
            ratio = scene.image.width / scene.image.height
            yield DemoImage(scene.name, scene.image, FruitTruth(scene.objects, ratio))

    def compute_metric(
        self, predicted: Sequence[Sequence[Json]], truths: Sequence[FruitTruth]
    ) -> float:
        """Compute F1 over all images."""
        pairs = list(zip(predicted, truths, strict=True))
        correct = sum(self._count_correct(regions, truth) for regions, truth in pairs)
        total = sum(len(regions) + len(truth.fruits) for regions, truth in pairs)
        return 2 * correct / total if total else 1.0

    def is_correct(self, predicted: Sequence[Json], truth: FruitTruth) -> bool:
        """Return whether every fruit has a region and there is no other region."""
        return len(predicted) == len(truth.fruits) == self._count_correct(predicted, truth)

    @abstractmethod
    def _draw_scenes(self, count: int, seed: int) -> Iterator[FruitScene]: ...

    @abstractmethod
    def _count_correct(self, predicted: Sequence[Json], truth: FruitTruth) -> int: ...


class StrawberryScenario(_FruitScenario):
    """Detect ripe strawberries among leaves with boxes."""

    task = "boxes"
    title = "Strawberries: where are the ripe ones?"
    config_file = "strawberries.xml"

    def make_annotation(self, truth: FruitTruth) -> list[Json]:
        """Return a box around each berry."""
        return [
            _make_region("rectanglelabels", f.label, f.x0, f.y0, f.x1 - f.x0, f.y1 - f.y0)
            for f in truth.fruits
        ]

    def _draw_scenes(self, count: int, seed: int) -> Iterator[FruitScene]:
        from demo.scenes.strawberry_scenes import strawberry_scenes

        return strawberry_scenes(count, seed)

    def _count_correct(self, predicted: Sequence[Json], truth: FruitTruth) -> int:
        """Count boxes with an IoU of at least 0.5."""
        boxes = [_box_corners(region["value"]) for region in predicted]
        return len(match_boxes(boxes, [(f.x0, f.y0, f.x1, f.y1) for f in truth.fruits], 0.5))


class AppleScenario(_FruitScenario):
    """Count apples with a point on the center of each."""

    task = "points"
    title = "Apples: how many are there?"
    config_file = "apples.xml"

    def make_annotation(self, truth: FruitTruth) -> list[Json]:
        """Return a point on each apple."""
        return [_make_region("keypointlabels", f.label, *f.center) for f in truth.fruits]

    def _draw_scenes(self, count: int, seed: int) -> Iterator[FruitScene]:
        from demo.scenes.apple_scenes import apple_scenes

        return apple_scenes(count, seed)

    def _count_correct(self, predicted: Sequence[Json], truth: FruitTruth) -> int:
        """Count points within half the size of an apple."""
        ratio = truth.aspect_ratio
        points = [(r["value"]["x"] / 100 * ratio, r["value"]["y"] / 100) for r in predicted]
        centers = [(f.center[0] * ratio, f.center[1]) for f in truth.fruits]
        sizes = [math.sqrt((f.x1 - f.x0) * ratio * (f.y1 - f.y0)) for f in truth.fruits]
        pairs = match_points(points, centers, max(sizes, default=0.0) / 2)
        return sum(math.dist(points[i], centers[j]) <= sizes[j] / 2 for i, j in pairs)


SCENARIOS: Mapping[str, type[DemoScenario[str]] | type[DemoScenario[FruitTruth]]] = {
    "classification": PlantScenario,
    "boxes": StrawberryScenario,
    "points": AppleScenario,
}


def _make_region(region_type: str, label: str, x: float, y: float, *extent: float) -> Json:
    value: Json = {"x": 100 * x, "y": 100 * y, region_type: [label]}
    if extent:
        value |= {"width": 100 * extent[0], "height": 100 * extent[1], "rotation": 0}
    else:
        value["width"] = 0.5
    return {"from_name": "fruit", "to_name": "image", "type": region_type, "value": value}


def _box_corners(value: Json) -> tuple[float, float, float, float]:
    x, y = value["x"] / 100, value["y"] / 100
    return x, y, x + value["width"] / 100, y + value["height"] / 100
