"""Tiny real models with random weights: what is tested is how they are read and called."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
YOLO_SIDE = 64
SIZES = ((40, 30), (64, 64), (30, 80), (200, 120), (1, 1), (500, 3), (2, 700))


def picture(size: tuple[int, int], seed: int) -> Image.Image:
    """Soft random colours, so that scaling matters."""
    rng = np.random.default_rng(seed)
    few = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(few).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Usual and odd sizes."""
    return [picture(size, seed) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="session")
def usual(pictures: list[Image.Image]) -> list[Image.Image]:
    """Those that are not too slim for a model's own preprocessing."""
    return pictures[:5]


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The setting of a CLIP that open_clip builds from a small configuration."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("clip")
    for name in ("tiny", "MobileCLIP-tiny"):
        (folder / f"{name}.json").write_text(json.dumps(TINY), encoding="utf-8")
        open_clip.add_model_config(folder / f"{name}.json")
    torch.manual_seed(0)
    made = open_clip.create_model("tiny")
    save_file(made.state_dict(), folder / "weights.safetensors")
    return f"tiny/{folder / 'weights.safetensors'}"


@pytest.fixture(scope="session")
def tiny_yolo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as ultralytics writes it, of a classifier with random weights."""
    import torch

    from backend.vision.ultralytics_models import import_ultralytics

    folder = tmp_path_factory.mktemp("yolo")
    import_ultralytics(folder)
    from ultralytics.nn.tasks import ClassificationModel

    torch.manual_seed(0)
    network = ClassificationModel("yolo11n-cls.yaml", nc=5, verbose=False)
    path = folder / "made-cls.pt"
    torch.save({"model": network.half(), "train_args": {"imgsz": YOLO_SIDE}}, path)
    return path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who connects fails."""

    def refuse(*given: object, **named: object) -> None:
        raise AssertionError(f"a connection to {given[1:]}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
