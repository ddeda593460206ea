"""Three kinds of encoder: real code on tiny networks with random weights."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.errors import EncoderError
from backend.vision.encoder import Encoder, load_encoder
from backend.vision.prompts import LabelText, prototypes, readable

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def nothing(line: str) -> None:
    raise AssertionError(f"nothing to say: {line}")


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    random = np.random.default_rng(0)
    sizes = [(40, 30), (1, 1), (500, 20), (33, 600), (224, 224)]
    return [Image.fromarray(random.integers(0, 255, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A CLIP of one layer, its weights in a file; the setting that leads to it."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny-prelabel.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-prelabel")
    save_file(model.state_dict(), folder / "weights.safetensors")
    return f"tiny-prelabel/{folder / 'weights.safetensors'}"


@pytest.fixture(scope="module")
def tiny_yolo(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A classifier of ultralytics' smallest kind with random weights, saved as it saves them."""
    from backend.vision.ultralytics_models import quiet_ultralytics

    path = tmp_path_factory.mktemp("yolo") / "own-cls.pt"
    model = quiet_ultralytics().YOLO("yolo11n-cls.yaml")
    model.save(path)
    return str(path)


@pytest.fixture(params=["builtin", "tiny_clip", "tiny_yolo"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    """Each kind in turn: what all of them promise."""
    setting = request.param
    if setting != "builtin":
        setting = request.getfixturevalue(setting)
    return load_encoder(setting, say=nothing)


def test_every_kind_gives_finite_unit_vectors_for_any_size(
    encoder: Encoder, images: list[Image.Image]
) -> None:
    vectors = encoder.encode_images(images)
    assert vectors.shape == (len(images), encoder.dim)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(images)), abs=1e-4)
    assert encoder.encode_images([]).shape == (0, encoder.dim)


def test_every_kind_gives_the_same_vector_alone_and_in_a_batch(
    encoder: Encoder, images: list[Image.Image]
) -> None:
    together = encoder.encode_images(images)
    alone = np.concatenate([encoder.encode_images([image]) for image in images])
    assert np.allclose(together, alone, atol=1e-4)


def test_every_kind_has_the_same_id_after_a_restart_and_its_name_leads_back(
    encoder: Encoder,
) -> None:
    again = load_encoder(encoder.name, say=nothing)
    assert (again.id, again.name, again.dim) == (encoder.id, encoder.name, encoder.dim)


def test_clip_is_what_open_clip_computes_by_hand(tiny_clip: str, images: list[Image.Image]) -> None:
    import open_clip
    import torch

    weights = tiny_clip.partition("/")[2]
    model, _, preprocess = open_clip.create_model_and_transforms("tiny-prelabel", weights)
    model.eval()
    texts = ["a photo of a cat", "rust"]
    with torch.inference_mode():
        stacked = torch.stack([preprocess(image) for image in images])
        wanted = model.encode_image(stacked, normalize=True).numpy()
        tokens = open_clip.get_tokenizer("tiny-prelabel")(texts)
        words = model.encode_text(tokens, normalize=True).numpy()
    encoder = load_encoder(tiny_clip, say=nothing)
    assert np.allclose(encoder.encode_images(images), wanted, atol=1e-5)
    assert np.allclose(encoder.encode_texts(texts), words, atol=1e-5)
    assert encoder.has_text
    assert encoder.logit_scale == pytest.approx(model.logit_scale.exp().item())
    assert encoder.logit_bias == 0.0


def test_yolo_vectors_are_the_numbers_before_the_last_layer(
    tiny_yolo: str, images: list[Image.Image]
) -> None:
    """The network's layers called by hand, up to the pooling of its last block."""
    import torch
    from ultralytics.data.augment import classify_transforms

    from backend.vision.ultralytics_models import load_checkpoint

    *body, head = load_checkpoint(Path(tiny_yolo)).model
    encoder = load_encoder(tiny_yolo, say=nothing)
    assert encoder.dim == 1280
    with torch.inference_mode():
        maps = torch.stack([classify_transforms(224)(image) for image in images])
        for layer in body:
            maps = layer(maps)
        wanted = torch.nn.functional.normalize(head.pool(head.conv(maps)).flatten(1), dim=1)
    assert np.allclose(encoder.encode_images(images), wanted.numpy(), atol=1e-5)


def test_a_hint_and_other_words_move_the_prototype(tiny_clip: str) -> None:
    encoder = load_encoder(tiny_clip, say=nothing)
    labels = [
        LabelText("wilting"),
        LabelText("wilting", ("dry plant",)),
        LabelText("wilting", (), "x"),
    ]
    rows = prototypes(encoder, labels)
    assert rows.shape == (3, encoder.dim)
    assert np.linalg.norm(rows, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert not np.allclose(rows[0], rows[1], atol=1e-3)
    assert not np.allclose(rows[0], rows[2], atol=1e-3)


@pytest.mark.parametrize(
    ("name", "text"),
    [("RedApple", "red apple"), ("over_ripe-fruit", "over ripe fruit"), ("  a  b ", "a b")],
)
def test_label_names_become_words(name: str, text: str) -> None:
    assert readable(name) == text


@pytest.mark.parametrize("setting", ["builtin", "tiny_yolo"])
def test_an_image_only_encoder_says_so(setting: str, request: pytest.FixtureRequest) -> None:
    named = setting if setting == "builtin" else request.getfixturevalue(setting)
    encoder = load_encoder(named, say=nothing)
    assert not encoder.has_text
    with pytest.raises(EncoderError, match="images only"):
        encoder.encode_texts(["a"])


class Trap:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return (exec, (f"open({self.path!r}, 'w').close()",))


def test_a_checkpoint_with_code_in_it_is_refused_and_its_code_does_not_run(tmp_path: Path) -> None:
    import torch

    sprung = tmp_path / "sprung"
    torch.save({"model": Trap(sprung)}, tmp_path / "trap-cls.pt")
    with pytest.raises(EncoderError, match="read safely"):
        load_encoder(str(tmp_path / "trap-cls.pt"), say=nothing)
    (tmp_path / "clip.pt").write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(EncoderError):
        load_encoder(f"ViT-B-32/{tmp_path / 'clip.pt'}", say=nothing)
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("resnet", "There is no encoder 'resnet'"),
        ("no-such-model/weights", "open_clip has no model"),
        ("ViT-B-32/no-such-tag", "neither a file nor a published tag"),
        ("/nowhere/x-cls.pt", "There is no file"),
    ],
)
def test_a_wrong_setting_is_one_sentence_with_the_way_out(setting: str, sentence: str) -> None:
    with pytest.raises(EncoderError, match=sentence) as caught:
        load_encoder(setting, say=nothing)
    assert "PRELABEL_ENCODER" in str(caught.value)


def test_auto_takes_what_can_be_had_and_says_why(
    tmp_path: Path, tiny_yolo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    assert load_encoder("auto", say=said.append, weights_dir=tmp_path).name == "builtin"
    (line,) = said
    assert "HF_HUB_OFFLINE" in line
    (tmp_path / "yolo11n-cls.pt").write_bytes(Path(tiny_yolo).read_bytes())
    found = load_encoder("auto", say=said.append, weights_dir=tmp_path)
    assert found.id.startswith("yolo-cls:sha256:")
    assert "yolo11n-cls.pt" in said[1]
