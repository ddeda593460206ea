"""Small networks, drawings to look at, and no way out of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.domain import Region
from backend.learning.detection_metrics import DetectionSample
from backend.vision.detection.detections import DetectionExample, Detections
from backend.vision.detection.fine_tune import TrainingRecipe, fine_tune
from backend.vision.detection.network import (
    SMALL_NETWORK_FILE,
    DetectionNetwork,
    adapt_classes,
    load_base_network,
)
from backend.vision.detection.network_runner import NetworkRunner
from tests.support.drawings import Drawing, make_drawing

SIDE = 160
SIZE = (160, 120)
BOTH = ("disc", "square")
RTDETR = """
nc: 2
backbone:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]  # 2, 1/8
  - [-1, 1, Conv, [48, 3, 2]]  # 3, 1/16
  - [-1, 1, Conv, [64, 3, 2]]  # 4, 1/32
head:
  - [-1, 1, Conv, [32, 1, 1, None, 1, 1, False]]
  - [-1, 1, AIFI, [64, 2]]  # 6
  - [-1, 1, nn.Upsample, [None, 2, "nearest"]]
  - [[-1, 3], 1, Concat, [1]]
  - [-1, 1, Conv, [32, 1, 1]]  # 9
  - [[2, 9, 6], 1, RTDETRDecoder, [nc, 32, 20, 2, 2, 2, 64]]
"""
"""An RT-DETR of 100,000 numbers: 20 queries, 2 decoder layers."""


@pytest.fixture(autouse=True)
def always_offline(offline: None) -> None:
    """No test here connects."""


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Two threads on busy processors wait for each other, up to ten times as long."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def drawings(count: int, start: int, *labels: str, **named: Any) -> list[Drawing]:
    """Some, of one or both labels."""
    return [make_drawing(i, labels=labels, **named) for i in range(start, start + count)]


def examples(drawn: Sequence[Drawing], labels: Sequence[str]) -> list[DetectionExample]:
    """What a person would have marked there."""
    return [_example(one, labels) for one in drawn]


def _example(drawn: Drawing, labels: Sequence[str]) -> DetectionExample:
    boxes = np.array([t.box for t in drawn.objects], dtype=np.float32).reshape(-1, 4)
    marked = np.array([labels.index(t.label) for t in drawn.objects], dtype=np.int64)
    return DetectionExample(lambda: drawn.image, *drawn.image.size, boxes, marked)


def quick(iterations: int, seed: int = 0, seconds: float = 120.0) -> TrainingRecipe:
    """The recipe for networks that start from nothing, but short."""
    return TrainingRecipe(iterations, 4, SIDE, 0.005, 0, seconds, seed)


def on_torch(network: DetectionNetwork, side: int = SIDE) -> NetworkRunner:
    """A detector without OpenVINO, which takes seconds to convert."""
    from backend.vision.detection.raw_network import build_raw_network
    from backend.vision.runtime import TorchRunner

    return NetworkRunner(network, side, TorchRunner(build_raw_network(network), "cpu"))


def judged(
    drawn: Sequence[Drawing], found: Sequence[Detections], labels: Sequence[str]
) -> list[DetectionSample]:
    """Finds beside what was drawn."""
    return [
        DetectionSample(
            tuple(
                Region(labels[int(label)], *map(float, box))
                for box, label in zip(f.boxes, f.labels, strict=True)
            ),
            tuple(f.confidence.tolist()),
            tuple(Region(thing.label, *thing.box) for thing in d.objects),
            d.image.width / d.image.height,
        )
        for d, f in zip(drawn, found, strict=True)
    ]


@pytest.fixture(scope="package")
def rtdetr(tmp_path_factory: pytest.TempPathFactory) -> DetectionNetwork:
    """With random weights, whose answers differ from query to query."""
    import torch

    path: Path = tmp_path_factory.mktemp("rtdetr") / "tiny-rtdetr.yaml"
    path.write_text(RTDETR, encoding="utf-8")
    network = adapt_classes(load_base_network(path), BOTH)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        for head in network.module.model[-1].dec_score_head:
            head.weight.normal_(0, 0.5)
    return network


@pytest.fixture(scope="package")
def yolo11_like(one_thread: None) -> DetectionNetwork:
    """With a distribution over distances, as YOLO8 to YOLO13 have it; knows discs and squares."""
    start = load_base_network(SMALL_NETWORK_FILE)
    described = {name: value for name, value in start.spec.yaml.items() if name != "reg_max"}
    start = adapt_classes(replace(start, spec=replace(start.spec, yaml=described)), BOTH)
    return fine_tune(
        start, examples(drawings(16, 0, *BOTH), BOTH), quick(150), lambda done, of: None
    )


@pytest.fixture(scope="package")
def yolo26_like(one_thread: None) -> DetectionNetwork:
    """With plain distances, as YOLO26 has it: the builtin network, which learned 12 images."""
    start = adapt_classes(load_base_network(SMALL_NETWORK_FILE), ("disc",))
    marked = examples(drawings(12, 0, "disc"), ("disc",))
    return fine_tune(start, marked, quick(150), lambda done, of: None)
