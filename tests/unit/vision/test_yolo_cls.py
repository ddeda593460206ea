"""The ultralytics encoder: the same numbers as by hand, and no code from a file."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.errors import EncoderError
from backend.vision.encoders.base import Encoder
from backend.vision.encoders.load import load_encoder
from backend.vision.encoders.yolo_cls import crop_centre_square
from backend.vision.ultralytics_models import load_checkpoint
from tests.support.tiny_networks import YOLO_CLS_SIDE


@pytest.fixture(scope="module")
def encoder(tiny_yolo: Path) -> Encoder:
    return load_encoder(str(tiny_yolo), log=pytest.fail)


def test_embeddings_are_the_inputs_of_the_last_layer(
    encoder: Encoder, tiny_yolo: Path, usual: list[Image.Image]
) -> None:
    import torch
    from ultralytics.data.augment import classify_transforms

    network = load_checkpoint(tiny_yolo).network
    entered: list[Any] = []
    network.model[-1].linear.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    transform = classify_transforms(YOLO_CLS_SIDE)
    with torch.no_grad():
        network(torch.stack([transform(image) for image in usual]))
    by_hand = entered[0].numpy() / np.linalg.norm(entered[0].numpy(), axis=1, keepdims=True)
    ours = encoder.encode_images(usual)
    assert ours.shape == (len(usual), 1280)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, by_hand, atol=1e-4)


def test_preprocessing_equals_that_of_ultralytics(usual: list[Image.Image]) -> None:
    from ultralytics.data.augment import classify_transforms

    for side in (YOLO_CLS_SIDE, 224):
        for image in usual:
            theirs = classify_transforms(side)(image).numpy()
            np.testing.assert_allclose(crop_centre_square(image, side).numpy(), theirs, atol=1e-6)


def test_the_transforms_of_the_checkpoint_are_used(
    encoder: Encoder, tiny_yolo: Path, tmp_path: Path, usual: list[Image.Image]
) -> None:
    import torch
    from ultralytics.data.augment import classify_transforms

    network = load_checkpoint(tiny_yolo).network
    network.transforms = classify_transforms(
        YOLO_CLS_SIDE, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)
    )
    path = tmp_path / "own-cls.pt"
    torch.save({"model": network, "train_args": {"imgsz": YOLO_CLS_SIDE}}, path)
    own = load_encoder(str(path), log=pytest.fail)
    assert np.abs(own.encode_images(usual) - encoder.encode_images(usual)).max() > 0.01


def test_threads_can_encode_at_once(encoder: Encoder, pictures: list[Image.Image]) -> None:
    expected = encoder.encode_images(pictures)
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(encoder.encode_images(pictures)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for vectors in found:
        np.testing.assert_allclose(vectors, expected, atol=1e-4)


def test_the_id_depends_on_the_content_not_the_file_name(
    encoder: Encoder, tiny_yolo: Path, tmp_path: Path
) -> None:
    (tmp_path / "other-cls.pt").write_bytes(tiny_yolo.read_bytes())
    by_name = load_encoder("other-cls.pt", log=pytest.fail, weights_dir=tmp_path)
    assert by_name.id == encoder.id
    assert by_name.name == "other-cls.pt"


def test_a_checkpoint_that_carries_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    import torch

    trace = tmp_path / "ran"

    class Code:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (trace,))

    zipped, bare = tmp_path / "zipped-cls.pt", tmp_path / "bare-cls.pt"
    torch.save({"model": Code(), "train_args": {}}, zipped)
    bare.write_bytes(pickle.dumps({"model": Code()}))
    for path in (zipped, bare):
        with pytest.raises(EncoderError, match="cannot be read safely"):
            load_encoder(str(path), log=pytest.fail)
        assert not trace.exists()
    pickle.loads(bare.read_bytes())  # noqa: S301 - the file does what it says when trusted
    assert trace.exists()


def test_a_checkpoint_without_a_classifier_is_refused(tmp_path: Path, tiny_yolo: Path) -> None:
    import torch
    from ultralytics.nn.tasks import DetectionModel

    path = tmp_path / "boxes-cls.pt"
    torch.save({"model": DetectionModel("yolo11n.yaml", nc=2, verbose=False)}, path)
    with pytest.raises(EncoderError, match=r"for detect, not for classification"):
        load_encoder(str(path), log=pytest.fail)
    (tmp_path / "text-cls.pt").write_text("no checkpoint")
    with pytest.raises(EncoderError, match="cannot be read safely"):
        load_encoder(str(tmp_path / "text-cls.pt"), log=pytest.fail)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"no file .*gone-cls\.pt"):
        load_encoder(str(tmp_path / "gone-cls.pt"), log=pytest.fail, weights_dir=tmp_path)
    with pytest.raises(EncoderError, match=r"has no published weights 'gone-cls\.pt'"):
        load_encoder("gone-cls.pt", log=pytest.fail, weights_dir=tmp_path)
    with pytest.raises(EncoderError, match=r"no file gone-cls\.pt"):
        load_encoder("gone-cls.pt", log=pytest.fail)


def test_a_failed_download_raises_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(EncoderError, match="cannot be downloaded") as caught:
        load_encoder("yolo11s-cls.pt", log=pytest.fail, weights_dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.pt"))


ALONE = """
import os, socket, sys
from pathlib import Path
from PIL import Image

def no_network(*_, **__):
    raise AssertionError("the network was used")

socket.getaddrinfo = socket.socket.connect = no_network
os.environ["ULTRALYTICS_API_KEY"] = "secret"
os.environ.pop("OMP_NUM_THREADS", None)
opener = Image.open
from backend.vision.encoders.load import load_encoder

encoder = load_encoder(sys.argv[1], log=print, weights_dir=Path(sys.argv[2]))
encoder.encode_images([Image.new("RGB", (50, 40), "red")])
assert Image.open is opener
assert "OMP_NUM_THREADS" not in os.environ and "ULTRALYTICS_API_KEY" not in os.environ
assert "torchvision" not in sys.modules, "takes seconds and is not needed"
from ultralytics.utils import ONLINE, SAFE_LOAD, SETTINGS, USER_CONFIG_DIR
from ultralytics.utils.events import events
assert not ONLINE and SAFE_LOAD and not events.enabled
assert not any(SETTINGS[name] for name in ("sync", "clearml", "comet", "dvc", "mlflow", "raytune"))
assert USER_CONFIG_DIR.is_relative_to(sys.argv[2])
from ultralytics.utils.checks import check_font
assert all(Path(check_font(name)).is_file() for name in ("Arial.ttf", "Arial.Unicode.ttf"))
"""


def test_importing_ultralytics_changes_no_process_state_and_sends_nothing(
    tiny_yolo: Path, tmp_path: Path
) -> None:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE, str(tiny_yolo), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
