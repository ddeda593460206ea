"""What is written as ONNX gives what this project's own encoders give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from backend.arrays import Floats
from backend.errors import EncoderError
from backend.vision.encoders.base import INSTALLED_ENCODER, Encoder, SupportsExport
from backend.vision.encoders.load import load_encoder
from backend.vision.heads.head import Head
from backend.vision.onnx.export import write_onnx
from backend.vision.onnx.networks import build_head_graph
from backend.vision.onnx.preprocessing import Preprocessing, read_transforms
from tests.support.tiny_networks import make_noise_image

USUAL = [
    make_noise_image(size, seed)
    for seed, size in enumerate(((40, 30), (64, 64), (30, 80), (200, 120)))
]


def prepared(image: Image.Image, how: Preprocessing) -> Floats:
    """By Pillow and numpy alone, as the example that is exported does it."""
    side = how.side
    size = [int(side * e / min(image.size)) for e in image.size] if how.cut else [side, side]
    filter = Image.Resampling[how.filter.upper()]
    square = image.resize((size[0], size[1]), filter, reducing_gap=how.gap)
    left, top = (round((edge - side) / 2) for edge in size)
    pixels = np.asarray(square.crop((left, top, left + side, top + side)), dtype=np.float32)
    return np.asarray(pixels.transpose(2, 0, 1)[None] / 255, dtype=np.float32)


def run(encoder: Encoder, images: list[Image.Image], file: Path) -> Floats:
    """The exported network's embeddings; all images at once, which it takes too."""
    assert isinstance(encoder, SupportsExport)
    portable = encoder.to_portable()
    write_onnx(portable.graph, file)
    batch = np.concatenate([prepared(image, portable.preprocessing) for image in images])
    return np.asarray(onnxruntime.InferenceSession(file).run(None, {"image": batch})[0])


@pytest.mark.parametrize("kind", ["builtin", "efficientnet", "clip", "yolo"])
def test_an_exported_encoder_gives_the_same_embeddings(
    kind: str, tiny_clip: str, tiny_yolo: Path, tmp_path: Path
) -> None:
    """Not to the last digit: Pillow scales in whole numbers, and a pixel may fall otherwise."""
    settings = {"builtin": "builtin", "efficientnet": INSTALLED_ENCODER}
    setting = (settings | {"clip": tiny_clip, "yolo": str(tiny_yolo)})[kind]
    encoder = load_encoder(setting, log=lambda line: None)
    found, ours = run(encoder, USUAL, tmp_path / "encoder.onnx"), encoder.encode_images(USUAL)
    assert found.shape == ours.shape
    assert (found * ours).sum(axis=1).min() > 0.9998
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)


@pytest.mark.parametrize("multiple", [False, True])
def test_an_exported_head_gives_the_same_confidence(multiple: bool, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weight, bias = random.normal(size=(3, 8)), np.array([0.1, -0.2, -1e4])
    head = Head(
        labels=("a", "b", "never given"),
        multiple=multiple,
        weight=weight.astype(np.float32),
        bias=bias.astype(np.float32),
        temperature=1.7,
        ridge=0.1,
        ridge_from="default",
        temperature_from="held-out",
        anchored="class means",
        examples=9,
    )
    write_onnx(build_head_graph(head), tmp_path / "head.onnx")
    rows = random.normal(size=(5, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "head.onnx")
    (found,) = session.run(None, {"embedding": rows})
    np.testing.assert_allclose(found, head.probabilities(rows), atol=1e-6)


def test_preprocessing_that_cannot_be_exported_raises_one_sentence() -> None:
    from torchvision import transforms

    padded = transforms.Compose([transforms.Resize(32), transforms.Pad(3)])
    with pytest.raises(EncoderError, match="The preprocessing of odd cannot be exported"):
        read_transforms("odd", padded)
