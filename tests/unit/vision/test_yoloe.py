"""YOLOE with random weights, through the real path: files, prompts, boxes; no network, no install.

Random weights find nothing that makes sense: shapes, coordinates and refusals are tested here.
That published weights find things is not, and neither is the published text encoder.
"""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.arrays import Floats
from backend.errors import EncoderError
from backend.vision.detection.letterbox import letterbox
from backend.vision.detection.yoloe import (
    OpenVocabulary,
    box_mask,
    find_yoloe_weights,
    missing_prompt_files,
)
from tests.support.tiny_networks import make_noise_image
from tests.support.yoloe_weights import YOLOE_SIDE, save_yoloe


@pytest.fixture(autouse=True)
def closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who connects or starts a program fails."""

    def refuse(*given: object, **named: object) -> None:
        raise AssertionError(f"not allowed: {given}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("Popen", "run", "check_output", "check_call", "call"):
        monkeypatch.setattr(subprocess, name, refuse)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("yoloe")
    save_yoloe("26/yoloe-26-seg.yaml", made / "yoloe-26n-seg.pt")
    return made


@pytest.fixture(scope="module")
def finder(folder: Path) -> OpenVocabulary:
    return OpenVocabulary(folder / "yoloe-26n-seg.pt", side=YOLOE_SIDE)


@pytest.fixture
def encoder_file(folder: Path) -> Iterator[Path]:
    """A TorchScript text encoder: one row of 512 numbers per text, by its tokens."""
    import torch

    class Encoder(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.rows = torch.nn.Embedding(49408, 512)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.normalize(self.rows(tokens).sum(dim=1), dim=-1)

    torch.manual_seed(0)
    path = folder / "mobileclip2_b.ts"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(Encoder().eval(), torch.zeros(1, 77, dtype=torch.long)).save(str(path))
    yield path
    path.unlink()


def prompts(count: int, dim: int, seed: int = 0) -> Floats:
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


BOX = np.array([[0.1, 0.2, 0.5, 0.7]], dtype=np.float32)


def test_visual_prompts_become_one_row_per_label(finder: OpenVocabulary) -> None:
    images = [make_noise_image((120, 80), 1), make_noise_image((60, 90), 2)]
    boxes = [np.array([[0.1, 0.1, 0.4, 0.5], [0.5, 0.5, 0.9, 0.9]], dtype=np.float32), BOX]
    rows = finder.visual_embeddings(images, boxes, [[0, 1], [0]])
    assert rows.shape == (2, finder.dim) == (2, 512)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    parts = [finder.visual_embeddings(images[:1], boxes[:1], [[0, 1]])]
    parts.append(finder.visual_embeddings(images[1:], boxes[1:], [[0]]))
    mean = parts[0][0] + parts[1][0]
    np.testing.assert_allclose(rows[0], mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(rows[1], parts[0][1], atol=1e-5)


def test_visual_prompts_equal_those_of_ultralytics(folder: Path) -> None:
    import torch
    from ultralytics.data.augment import LetterBox, LoadVisualPrompt

    from backend.vision.ultralytics_models import load_checkpoint

    image, (wide, high) = make_noise_image((128, 64), 3), (128, 64)  # scaled by 3 / 4 exactly
    pixels = LetterBox((YOLOE_SIDE, YOLOE_SIDE), auto=True)(
        image=np.asarray(image.resize((96, 48)))
    )
    network = load_checkpoint(folder / "yoloe-26n-seg.pt").network
    inside = BOX * np.array([wide, high] * 2, dtype=np.float32) * 0.75
    inside += np.array([0, 8, 0, 8], dtype=np.float32)  # 48 pixels are padded to 64
    visual = LoadVisualPrompt().get_visuals([0], pixels.shape[:2], inside)
    batch = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        theirs = network(batch, vpe=visual[None], return_vpe=True)[0].numpy()
    finder = OpenVocabulary(folder / "yoloe-26n-seg.pt", side=YOLOE_SIDE)
    frame = letterbox(image, YOLOE_SIDE, 32)[1]
    np.testing.assert_array_equal(box_mask(BOX, frame), visual[0].numpy())
    ours = finder.visual_embeddings([image], [BOX], [[0]])
    assert float((ours * theirs).sum()) > 0.999  # Pillow scales by other weights than OpenCV


def test_a_label_without_a_box_is_zeros_and_never_detected(finder: OpenVocabulary) -> None:
    image = make_noise_image((80, 60), 1)
    rows = finder.visual_embeddings([image], [BOX], [[2]])
    assert rows.shape == (3, finder.dim)
    assert not rows[:2].any()
    assert set(finder.detect([image], rows, 0.0)[0].labels) == {2}
    assert len(finder.detect([image], rows[:2], 0.0)[0].boxes) == 0


def test_boxes_smaller_than_a_cell_or_outside_have_a_nonempty_mask() -> None:
    frame = letterbox(Image.new("RGB", (100, 50)), YOLOE_SIDE, 32)[1]
    for box in ([0.5, 0.5, 0.501, 0.501], [0.999, 0.999, 1, 1], [0, 0, 0.01, 0.01], [2, 2, 3, 3]):
        assert box_mask(np.array([box], dtype=np.float32), frame).sum() >= 1


def test_mismatched_arguments_are_refused(finder: OpenVocabulary) -> None:
    image = make_noise_image((80, 60), 1)
    for labels in ([[0, 1]], [[-1]], [[0], [0]]):
        with pytest.raises(ValueError, match=r"label|argument"):
            finder.visual_embeddings([image], [BOX], labels)
    with pytest.raises(ValueError, match="512"):
        finder.detect([image], np.ones((2, 7), dtype=np.float32))


def test_detections_depend_on_the_prompts(finder: OpenVocabulary) -> None:
    images = [make_noise_image((120, 80), 1), make_noise_image((60, 90), 2)]
    two, five = prompts(2, finder.dim), prompts(5, finder.dim, seed=1)
    for rows in (two, five, two):
        for found in finder.detect(images, rows, 0.0):
            assert found.boxes.shape == (len(found.labels), 4)
            assert found.boxes.dtype == found.confidence.dtype == np.float32
            assert 0 < len(found.labels) <= 300
            assert set(found.labels) <= set(range(len(rows)))
            assert np.all(np.diff(found.confidence) <= 0)
    first, again = (finder.detect(images, two, 0.0)[0] for _ in range(2))
    np.testing.assert_array_equal(first.boxes, again.boxes)
    other = finder.detect(images, five[:2], 0.0)[0]
    assert not np.array_equal(first.confidence[:10], other.confidence[:10])


def test_confidence_is_a_lower_bound(finder: OpenVocabulary) -> None:
    image, rows = make_noise_image((120, 80), 1), prompts(3, finder.dim)
    everything = finder.detect([image], rows, 0.0)[0]
    bound = float(np.median(everything.confidence))
    some = finder.detect([image], rows, bound)[0]
    assert 0 < len(some.confidence) < len(everything.confidence)
    assert some.confidence.min() >= bound
    assert len(finder.detect([image], rows, 1.0)[0].confidence) == 0


@pytest.mark.parametrize("size", [(120, 40), (40, 120), (1, 1), (3, 900), (640, 480)])
def test_prompt_boxes_map_back_to_the_image(finder: OpenVocabulary, size: tuple[int, int]) -> None:
    _, frame = finder._letterbox(Image.new("RGB", size))
    assert all(edge % 32 == 0 for edge in frame.input_size)
    assert max(frame.input_size) == YOLOE_SIDE
    inner = np.array([[0, 0, 1, 1], [0.25, 0.5, 0.75, 0.9]], dtype=np.float32)
    offset = np.array(frame.offset * 2)
    np.testing.assert_allclose(
        frame.to_image_boxes(inner * (frame.resized_size * 2) + offset), inner, atol=1e-6
    )
    found = finder.detect([make_noise_image(size, 4)], prompts(2, finder.dim), 0.0)[0]
    assert np.all((found.boxes >= 0) & (found.boxes <= 1))


@pytest.mark.parametrize("free", [False, True])
def test_prompted_boxes_equal_those_of_ultralytics(tmp_path: Path, free: bool) -> None:
    """Its own predictor, on an image that needs no scaling; with and without suppression."""
    import torch
    from ultralytics import YOLOE

    image = make_noise_image((YOLOE_SIDE, 64), 5)
    path = save_yoloe(
        "26/yoloe-26.yaml", tmp_path / "yoloe-26n.pt"
    )  # without masks, by which it chooses
    finder = OpenVocabulary(path, side=YOLOE_SIDE)
    rows = prompts(3, finder.dim)
    finder._network.end2end = free
    ours = finder.detect([image], rows, 0.001)[0]
    theirs = YOLOE(str(path))
    theirs.set_classes(["a", "b", "c"], torch.from_numpy(rows)[None])
    given: dict[str, Any] = {"imgsz": YOLOE_SIDE, "conf": 0.001, "iou": 0.7, "verbose": False}
    given |= {"device": "cpu", "save": False, "nms": False if free else None}
    result = theirs.predict(image, **given)[0].boxes
    count = min(len(ours.boxes), len(result.conf), 10)
    assert count > 3
    np.testing.assert_allclose(ours.confidence[:count], result.conf[:count].numpy(), atol=2e-3)
    near = np.abs(ours.boxes[:count, None] - result.xyxyn.numpy()[None]).max(axis=2).min(axis=1)
    assert np.all(near < 0.02)


@pytest.mark.parametrize("config", ["26/yoloe-26.yaml", "11/yoloe-11-seg.yaml"])
def test_other_networks_of_the_family_are_supported(config: str, tmp_path: Path) -> None:
    finder = OpenVocabulary(save_yoloe(config, tmp_path / "yoloe-other.pt"), side=YOLOE_SIDE)
    image = make_noise_image((90, 60), 6)
    rows = finder.visual_embeddings([image], [BOX], [[0]])
    assert len(finder.detect([image], rows, 0.0)[0].boxes) > 0


def test_text_prompts_use_a_given_tokenizer(folder: Path, encoder_file: Path) -> None:
    import open_clip

    finder = OpenVocabulary(
        find_yoloe_weights(folder) or folder, tokenize=open_clip.tokenize, side=YOLOE_SIDE
    )
    rows = finder.text_embeddings(["apple", "ripe strawberry", "apple"])
    assert rows.shape == (3, 512)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(rows[0], rows[2])
    assert np.abs(rows[0] - rows[1]).max() > 0.001
    assert finder.text_embeddings([]).shape == (0, 512)
    seen = finder.visual_embeddings([make_noise_image((90, 60), 6)], [BOX], [[0]])
    both = np.concatenate([rows[:2], seen])
    assert set(finder.detect([make_noise_image((90, 60), 6)], both, 0.0)[0].labels) <= {0, 1, 2}
    assert missing_prompt_files(folder, tokenizer=True) == ""


def test_a_missing_text_encoder_raises_an_error_with_the_command(folder: Path) -> None:
    import open_clip

    finder = OpenVocabulary(
        folder / "yoloe-26n-seg.pt", tokenize=open_clip.tokenize, side=YOLOE_SIDE
    )
    with pytest.raises(EncoderError, match=r"need mobileclip2_b\.ts: curl -fL -o .*mobileclip2_b"):
        finder.text_embeddings(["apple"])


def test_a_missing_tokenizer_is_not_installed_automatically(
    finder: OpenVocabulary, encoder_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "clip", None)
    with pytest.raises(EncoderError, match="uv pip install git"):
        finder.text_embeddings(["apple"])


def test_a_file_that_is_not_a_text_encoder_is_refused(folder: Path, encoder_file: Path) -> None:
    import open_clip

    encoder_file.write_bytes(b"no archive")
    finder = OpenVocabulary(
        folder / "yoloe-26n-seg.pt", tokenize=open_clip.tokenize, side=YOLOE_SIDE
    )
    with pytest.raises(EncoderError, match="not a text encoder"):
        finder.text_embeddings(["apple"])


def test_a_network_without_prompts_is_refused(tmp_path: Path, tiny_yolo: Path) -> None:
    with pytest.raises(EncoderError, match="takes no prompts"):
        OpenVocabulary(tiny_yolo)
    with pytest.raises(EncoderError, match="no file"):
        OpenVocabulary(tmp_path / "yoloe-26s-seg.pt")


def test_the_newest_and_smallest_weights_are_chosen(tmp_path: Path) -> None:
    assert find_yoloe_weights(tmp_path) is None
    assert find_yoloe_weights(tmp_path / "absent") is None
    for size, name in enumerate(
        ("yoloe-26n-seg-pf.pt", "yolo26n.pt", "yoloe-26s-seg.pt", "yoloe-26m-seg.pt")
    ):
        (tmp_path / name).write_bytes(b"x" * size)
    (tmp_path / "yoloe-11s-seg.pt").write_bytes(b"")
    assert find_yoloe_weights(tmp_path) == tmp_path / "yoloe-26s-seg.pt"


def test_missing_files_are_listed_in_one_line_with_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "clip", None)
    place = tmp_path / "my weights"
    place.mkdir()
    said = missing_prompt_files(place)
    assert "\n" not in said
    for name in ("yoloe-26s-seg.pt", "mobileclip2_b.ts"):
        address = f"https://github.com/ultralytics/assets/releases/download/v8.4.0/{name}"
        assert f"curl -fL -o {shlex.quote(str(place / name))} {address}" in said
    assert "uv pip install git+https://github.com/ultralytics/CLIP.git" in said
    (place / "yoloe-11s-seg.pt").touch()
    assert "mobileclip_blt.ts" in missing_prompt_files(place)
    assert "isual" not in missing_prompt_files(place)
    (place / "mobileclip_blt.ts").touch()
    assert missing_prompt_files(place, tokenizer=True) == ""


def test_file_names_are_published_by_ultralytics() -> None:
    from backend.vision.detection import yoloe
    from backend.vision.ultralytics_models import import_ultralytics

    import_ultralytics()
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

    assert {yoloe.RECOMMENDED_WEIGHTS, *yoloe.TEXT_ENCODER_FILES.values()} <= GITHUB_ASSETS_NAMES
    defaults = attempt_download_asset.__defaults__
    assert f"https://github.com/{defaults[0]}/releases/download/{defaults[1]}" == yoloe.RELEASE_URL


def test_threads_can_detect_at_once(finder: OpenVocabulary) -> None:
    images, rows = (
        [make_noise_image((120, 80), 1), make_noise_image((60, 90), 2)],
        prompts(2, finder.dim),
    )
    expected = [found.confidence for found in finder.detect(images, rows, 0.0)]
    got: list[Any] = []
    threads = [
        threading.Thread(target=lambda: got.append(finder.detect(images, rows, 0.0)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 3
    for found in got:
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.confidence, other, atol=1e-5)
