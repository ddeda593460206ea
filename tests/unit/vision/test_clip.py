"""The CLIP encoder gives what open_clip gives, and reads no code."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.errors import EncoderError
from backend.vision.encoders.base import DEFAULT_CLIP, Encoder
from backend.vision.encoders.load import DEFAULT_REPOSITORY, load_encoder
from backend.vision.encoders.text_prototypes import LabelPrompt, compute_text_prototypes
from backend.vision.hub import CLIP_FILES

TEXTS = ["a photo of a cat.", "a photo of a wilting plant.", ""]


@pytest.fixture(scope="module")
def encoder(tiny_clip: str) -> Encoder:
    return load_encoder(tiny_clip, log=pytest.fail)


def test_images_are_embedded_as_open_clip_does(
    encoder: Encoder, tiny_clip: str, usual: list[Image.Image]
) -> None:
    import open_clip
    import torch

    path = tiny_clip.partition("/")[2]
    model, preprocess = open_clip.create_model_from_pretrained("tiny", pretrained=path)
    with torch.no_grad():
        by_hand = model.encode_image(torch.stack([preprocess(i) for i in usual])).numpy()
    by_hand /= np.linalg.norm(by_hand, axis=1, keepdims=True)
    ours = encoder.encode_images(usual)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, by_hand, atol=1e-5)


def test_texts_are_embedded_as_open_clip_does(encoder: Encoder, tiny_clip: str) -> None:
    import open_clip
    import torch

    model = open_clip.create_model("tiny", pretrained=tiny_clip.partition("/")[2]).eval()
    with torch.no_grad():
        by_hand = model.encode_text(open_clip.get_tokenizer("tiny")(TEXTS)).numpy()
    by_hand /= np.linalg.norm(by_hand, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), by_hand, atol=1e-5)
    assert encoder.has_text
    assert encoder.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))
    assert encoder.logit_bias == 0.0


def test_zero_shot_equals_open_clip(
    encoder: Encoder, tiny_clip: str, usual: list[Image.Image]
) -> None:
    import open_clip
    import torch

    model, preprocess = open_clip.create_model_from_pretrained(
        "tiny", pretrained=tiny_clip.partition("/")[2]
    )
    with torch.no_grad():
        images = torch.stack([preprocess(i) for i in usual])
        tokens = open_clip.get_tokenizer("tiny")(TEXTS[:2])
        by_hand = model.get_logits(images, tokens)[0].softmax(dim=1).numpy()
    cosines = encoder.encode_images(usual) @ encoder.encode_texts(TEXTS[:2]).T
    odds = np.exp(encoder.logit_scale * cosines + encoder.logit_bias)
    np.testing.assert_allclose(odds / odds.sum(axis=1, keepdims=True), by_hand, atol=1e-4)


def test_the_id_depends_on_the_weights_not_the_path(
    encoder: Encoder, tiny_clip: str, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    original = Path(tiny_clip.partition("/")[2])
    copy = tmp_path / "elsewhere.safetensors"
    copy.write_bytes(original.read_bytes())
    assert load_encoder(f"tiny/{copy}", log=pytest.fail).id == encoder.id
    weights = load_file(original)
    weights["visual.proj"] += 0.01
    save_file(weights, copy)
    assert load_encoder(f"tiny/{copy}", log=pytest.fail).id != encoder.id


def test_weights_that_carry_code_are_refused_and_do_not_run(tiny_clip: str, tmp_path: Path) -> None:
    trace = tmp_path / "ran"

    class Code:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (trace,))

    evil = tmp_path / "weights.pt"
    evil.write_bytes(pickle.dumps({"state_dict": Code()}))
    with pytest.raises(EncoderError, match=r"cannot be read as weights of tiny"):
        load_encoder(f"tiny/{evil}", log=pytest.fail)
    assert not trace.exists()
    pickle.loads(evil.read_bytes())  # noqa: S301 - the file does what it says when trusted
    assert trace.exists()


@pytest.mark.parametrize(
    ("setting", "advice"),
    [
        ("ViT-B-32-265/datacomp_s34b_b86k", "no model 'ViT-B-32-265'.*ViT-B-32-256"),
        ("ViT-B-32-256/openai", "'openai' is neither a file nor published.*datacomp_s34b_b86k"),
        ("tiny/nowhere.safetensors", "neither a file nor published"),
        ("tiny/", "neither a file nor published"),
    ],
)
def test_a_wrong_name_raises_an_error_with_similar_ones(
    tiny_clip: str, setting: str, advice: str
) -> None:
    with pytest.raises(EncoderError, match=advice):
        load_encoder(setting, log=pytest.fail)


def test_weights_of_another_model_are_refused(tiny_clip: str) -> None:
    with pytest.raises(EncoderError, match="cannot be read as weights of ViT-B-32-256"):
        load_encoder(f"ViT-B-32-256/{tiny_clip.partition('/')[2]}", log=pytest.fail)


def test_research_only_weights_are_logged(tiny_clip: str) -> None:
    said: list[str] = []
    load_encoder(tiny_clip.replace("tiny", "MobileCLIP-tiny", 1), log=said.append)
    assert len(said) == 1
    assert "research" in said[0]


def test_a_weights_file_uses_the_preprocessing_of_the_published_weights(tiny_clip: str) -> None:
    from backend.vision.encoders.clip import _preprocessing_options

    assert _preprocessing_options("ViT-B-16-SigLIP2-256", "my.safetensors")["image_mean"] == (
        0.5,
        0.5,
        0.5,
    )
    assert (
        _preprocessing_options("ViT-L-14", "my.safetensors") == {}
    )  # its published weights differ
    assert _preprocessing_options("ViT-L-14", "openai")["image_mean"][0] == pytest.approx(
        0.48145466
    )
    assert _preprocessing_options("tiny", "my.safetensors") == {}


def test_weights_of_another_activation_are_refused(tiny_clip: str) -> None:
    with pytest.raises(EncoderError, match=r"set PRELABEL_ENCODER=ViT-B-32-quickgelu/openai"):
        load_encoder("ViT-B-32/openai", log=pytest.fail)


def test_a_missing_package_is_named(tiny_clip: str) -> None:
    if importlib.util.find_spec("transformers"):
        pytest.skip("transformers is installed here")
    with pytest.raises(EncoderError, match=r"is not installed .*transformers"):
        load_encoder("ViT-B-16-SigLIP2-256/webli", log=pytest.fail)


def test_the_default_clip_is_published_in_the_default_repository(tiny_clip: str) -> None:
    import open_clip

    published = open_clip.get_pretrained_cfg(*DEFAULT_CLIP.split("/"))
    assert published["hf_hub"].rstrip("/") == DEFAULT_REPOSITORY
    assert open_clip.constants.HF_SAFE_WEIGHTS_NAME in CLIP_FILES
    assert open_clip.constants.HF_WEIGHTS_NAME in CLIP_FILES


def test_prototypes_of_a_real_text_tower_have_unit_length(encoder: Encoder) -> None:
    found = compute_text_prototypes(
        encoder, [LabelPrompt("cat"), LabelPrompt("dog", hint="It barks.")]
    )
    assert found.shape == (2, encoder.dim)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
