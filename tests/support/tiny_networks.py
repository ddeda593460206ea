"""Tiny real networks, and helpers to train and run them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backend.domain import Region
from backend.learning.detection_metrics import DetectionSample
from backend.vision.detection.detections import DetectionExample, Detections
from backend.vision.detection.fine_tune import TrainingRecipe
from backend.vision.detection.network import SMALL_NETWORK_FILE, DetectionNetwork, load_base_network
from backend.vision.detection.network_runner import NetworkRunner
from backend.vision.detection.raw_network import build_raw_network
from tests.support.drawings import Drawing

DETECTOR_SIDE = 160


DRAWING_SIZE = (160, 120)


RTDETR_YAML = """
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


def make_examples(drawn: Sequence[Drawing], labels: Sequence[str]) -> list[DetectionExample]:
    """Return training examples with the drawn objects as boxes."""
    return [_make_example(one, labels) for one in drawn]


def _make_example(drawn: Drawing, labels: Sequence[str]) -> DetectionExample:
    boxes = np.array([t.box for t in drawn.objects], dtype=np.float32).reshape(-1, 4)
    marked = np.array([labels.index(t.label) for t in drawn.objects], dtype=np.int64)
    return DetectionExample(lambda: drawn.image, *drawn.image.size, boxes, marked)


def short_recipe(iterations: int, seed: int = 0, seconds: float = 3600.0) -> TrainingRecipe:
    """Return a short recipe for training from scratch; a slow machine takes all iterations."""
    return TrainingRecipe(iterations, 4, DETECTOR_SIDE, 0.005, 0, seconds, seed)


def make_torch_runner(network: DetectionNetwork, side: int = DETECTOR_SIDE) -> NetworkRunner:
    """Return a runner without OpenVINO, whose conversion takes seconds."""
    from backend.vision.detection.raw_network import build_raw_network
    from backend.vision.runtime import TorchRunner

    return NetworkRunner(network, side, TorchRunner(build_raw_network(network), "cpu"))


def make_detection_samples(
    drawn: Sequence[Drawing], found: Sequence[Detections], labels: Sequence[str]
) -> list[DetectionSample]:
    """Pair detections with the drawn objects."""
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


def raw_outputs(network: DetectionNetwork, side: int = 96) -> list[Any]:
    import torch

    image = np.random.default_rng(5).random((1, 3, side, side), dtype=np.float32)
    with torch.no_grad():
        return [output.numpy() for output in build_raw_network(network)(torch.from_numpy(image))]


def save_pretrained_network(classes: tuple[str, ...], path: Path) -> DetectionNetwork:
    """Save a checkpoint as ultralytics does, of a small network with these classes."""
    import torch

    from backend.vision.ultralytics_models import detection_model_class, read_network_yaml

    torch.manual_seed(1)
    made = detection_model_class(is_rtdetr=False)(
        read_network_yaml(SMALL_NETWORK_FILE), nc=len(classes), verbose=False
    )
    made.names = dict(enumerate(classes))
    for parameter in made.model[-1].cv3.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)  # so that classes differ
    torch.save({"model": made.half(), "train_args": {"imgsz": 96}}, path)
    return load_base_network(path)


TINY_CLIP_CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


YOLO_CLS_SIDE = 64


def make_noise_image(size: tuple[int, int], seed: int) -> Image.Image:
    """Draw smooth random colours, so that resizing matters."""
    rng = np.random.default_rng(seed)
    few = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(few).resize(size, Image.Resampling.BICUBIC)
