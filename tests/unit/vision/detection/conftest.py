"""Small networks, drawings to look at, and no way out of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.domain import Place
from backend.learning.detection_metrics import Judged
from backend.vision.detection.detections import Found
from backend.vision.detection.fine_tune import Recipe, learn
from backend.vision.detection.network import SMALL, Network, adapted, load_base
from backend.vision.detection.network_runner import Detector
from backend.vision.detection.training_example import Example
from tests.support.drawings import Drawing, drawing

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
    return [drawing(i, labels=labels, **named) for i in range(start, start + count)]


def examples(drawn: Sequence[Drawing], labels: Sequence[str]) -> list[Example]:
    """What a person would have marked there."""
    return [_example(one, labels) for one in drawn]


def _example(drawn: Drawing, labels: Sequence[str]) -> Example:
    boxes = np.array([t.box for t in drawn.things], dtype=np.float32).reshape(-1, 4)
    marked = np.array([labels.index(t.label) for t in drawn.things], dtype=np.int64)
    return Example(lambda: drawn.image, *drawn.image.size, boxes, marked)


def quick(iterations: int, seed: int = 0, seconds: float = 120.0) -> Recipe:
    """The recipe for networks that start from nothing, but short."""
    return Recipe(iterations, 4, SIDE, 0.005, 0, seconds, seed)


def on_torch(network: Network, side: int = SIDE) -> Detector:
    """A detector without OpenVINO, which takes seconds to convert."""
    from backend.vision.detection.raw_network import raw_outputs
    from backend.vision.runtime import TorchRunner

    return Detector(network, side, TorchRunner(raw_outputs(network), "cpu"))


def judged(drawn: Sequence[Drawing], found: Sequence[Found], labels: Sequence[str]) -> list[Judged]:
    """Finds beside what was drawn."""
    return [
        Judged(
            tuple(
                Place(labels[int(label)], *map(float, box))
                for box, label in zip(f.boxes, f.labels, strict=True)
            ),
            tuple(f.confidence.tolist()),
            tuple(Place(thing.label, *thing.box) for thing in d.things),
            d.image.width / d.image.height,
        )
        for d, f in zip(drawn, found, strict=True)
    ]


@pytest.fixture(scope="package")
def rtdetr(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """With random weights, whose answers differ from query to query."""
    import torch

    path: Path = tmp_path_factory.mktemp("rtdetr") / "tiny-rtdetr.yaml"
    path.write_text(RTDETR, encoding="utf-8")
    network = adapted(load_base(path), BOTH)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        for head in network.module.model[-1].dec_score_head:
            head.weight.normal_(0, 0.5)
    return network


@pytest.fixture(scope="package")
def yolo11_like(one_thread: None) -> Network:
    """With a distribution over distances, as YOLO8 to YOLO13 have it; knows discs and squares."""
    start = load_base(SMALL)
    described = {name: value for name, value in start.plan.yaml.items() if name != "reg_max"}
    start = adapted(replace(start, plan=replace(start.plan, yaml=described)), BOTH)
    return learn(start, examples(drawings(16, 0, *BOTH), BOTH), quick(150), lambda done, of: None)


@pytest.fixture(scope="package")
def yolo26_like(one_thread: None) -> Network:
    """With plain distances, as YOLO26 has it: the builtin network, which learned 12 images."""
    start = adapted(load_base(SMALL), ("disc",))
    marked = examples(drawings(12, 0, "disc"), ("disc",))
    return learn(start, marked, quick(150), lambda done, of: None)
