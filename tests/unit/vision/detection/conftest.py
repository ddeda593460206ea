"""Fixtures: small detection networks, without network access."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backend.vision.detection.fine_tune import fine_tune
from backend.vision.detection.network import (
    SMALL_NETWORK_FILE,
    DetectionNetwork,
    adapt_classes,
    load_base_network,
)
from tests.support.drawings import SHAPE_LABELS, make_drawings
from tests.support.tiny_networks import RTDETR_YAML, make_examples, short_recipe


@pytest.fixture(autouse=True)
def always_offline(offline: None) -> None:
    """Let every connection fail in all tests here."""


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Use one torch thread: two threads on busy cores take up to ten times as long."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="package")
def rtdetr(tmp_path_factory: pytest.TempPathFactory) -> DetectionNetwork:
    """A tiny RT-DETR with random weights, whose output differs by query."""
    import torch

    path: Path = tmp_path_factory.mktemp("rtdetr") / "tiny-rtdetr.yaml"
    path.write_text(RTDETR_YAML, encoding="utf-8")
    network = adapt_classes(load_base_network(path), SHAPE_LABELS)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        for head in network.module.model[-1].dec_score_head:
            head.weight.normal_(0, 0.5)
    return network


@pytest.fixture(scope="package")
def yolo11_like(one_thread: None) -> DetectionNetwork:
    """A network with distance distributions, as YOLOv8 to YOLO13, trained on discs and squares."""
    start = load_base_network(SMALL_NETWORK_FILE)
    described = {name: value for name, value in start.spec.yaml.items() if name != "reg_max"}
    start = DetectionNetwork(start.module, replace(start.spec, yaml=described))
    start = adapt_classes(start, SHAPE_LABELS)
    return fine_tune(
        start,
        make_examples(make_drawings(16, 0, *SHAPE_LABELS), SHAPE_LABELS),
        short_recipe(150),
        lambda done, of: None,
    )


@pytest.fixture(scope="package")
def yolo26_like(one_thread: None) -> DetectionNetwork:
    """A network with plain distances, as YOLO26: the built-in one, trained on 12 images."""
    start = adapt_classes(load_base_network(SMALL_NETWORK_FILE), ("disc",))
    marked = make_examples(make_drawings(12, 0, "disc"), ("disc",))
    return fine_tune(start, marked, short_recipe(150), lambda done, of: None)
