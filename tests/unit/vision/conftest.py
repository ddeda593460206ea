"""Fixtures: tiny real models with random weights, and images."""

from __future__ import annotations

import json
import socket

import pytest
from PIL import Image

from tests.support.tiny_networks import TINY_CLIP_CONFIG, make_noise_image

SIZES = ((40, 30), (64, 64), (30, 80), (200, 120), (1, 1), (500, 3), (2, 700))


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Images of usual and of extreme sizes."""
    return [make_noise_image(size, seed) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="session")
def usual(pictures: list[Image.Image]) -> list[Image.Image]:
    """Images that the preprocessing of every model accepts."""
    return pictures[:5]


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The setting of a CLIP that open_clip builds from a small configuration."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("clip")
    for name in ("tiny", "MobileCLIP-tiny"):
        (folder / f"{name}.json").write_text(json.dumps(TINY_CLIP_CONFIG), encoding="utf-8")
        open_clip.add_model_config(folder / f"{name}.json")
    torch.manual_seed(0)
    made = open_clip.create_model("tiny")
    save_file(made.state_dict(), folder / "weights.safetensors")
    return f"tiny/{folder / 'weights.safetensors'}"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every connection fail."""

    def refuse(*given: object, **named: object) -> None:
        raise AssertionError(f"a connection to {given[1:]}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
