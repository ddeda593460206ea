"""An ultralytics classification checkpoint as an encoder: the numbers before its last layer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.arrays import Floats
from backend.callbacks import LogCallback
from backend.errors import EncoderError
from backend.vision.batching import detect_device, encode_in_batches
from backend.vision.encoders.base import make_noise_image, normalize_rows, text_unsupported_error
from backend.vision.images.aspect_ratio import crop_extreme_aspect
from backend.vision.runtime import Runner, TorchRunner, select_fastest_runner
from backend.vision.ultralytics_models import Checkpoint, download_checkpoint, load_checkpoint

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from backend.vision.onnx.preprocessing import PortableEncoder

DEFAULT_INPUT_PX = 224
"""Pixels of the square that published classifiers are trained on."""
ALLOWED_INPUT_PX = range(32, 1025)


class YoloClsEncoder:
    """Images only; see :class:`backend.vision.encoders.base.Encoder`.

    Args:
        checkpoint: of a classifier; its network loses its last layer.
        name: the setting.
        digest: of the checkpoint's file.

    Raises:
        EncoderError: it is no classifier.
    """

    has_text = False
    logit_scale = 1.0
    logit_bias = 0.0

    def __init__(self, checkpoint: Checkpoint, name: str, digest: str) -> None:
        import torch

        head = checkpoint.network.model[-1]
        if checkpoint.task != "classify":
            raise EncoderError(
                f"{name} is for {checkpoint.task}, not for classification: use a …-cls.pt."
            )
        side = _input_side(checkpoint)
        self.name, self.id = name, f"yolo-cls:sha256:{digest[:16]}/{side}"
        self.dim = int(head.linear.in_features)
        head.linear = torch.nn.Identity()
        self._device = detect_device()
        self._side = side
        self._transforms = _checkpoint_transforms(checkpoint.network, side)
        self._preprocess = _make_preprocess(self._transforms, side)
        network = checkpoint.network.fuse(verbose=False).requires_grad_(False)
        self._network = _without_probabilities(network)
        self._runner: Runner = TorchRunner(self._network, self._device)

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """(n, dim) float32 of unit length."""
        return encode_in_batches(self._encode_batch, images, self.dim, self._device)

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """Not with this kind.

        Raises:
            EncoderError: always.
        """
        raise text_unsupported_error(self.name)

    def use_fastest_runner(self, folder: Path | None, say: LogCallback) -> None:
        """Run the network the fastest way there is; see :func:`select_fastest_runner`.

        Args:
            folder: where converted networks are kept.
            say: told why a faster way was not taken.
        """
        example = self._preprocess_batch([make_noise_image()])
        self._runner = select_fastest_runner(
            self._network, example, key=self.id, family=self.id, folder=folder, say=say
        )

    def to_portable(self) -> PortableEncoder:
        """See :class:`backend.vision.encoders.base.Portable`."""
        from backend.vision.onnx.preprocessing import (
            PortableEncoder,
            Preprocessing,
            build_encoder_graph,
            read_transforms,
        )

        preprocessing = Preprocessing(self._side, cut=True, filter="bilinear")
        mean: Sequence[float] = (0.0, 0.0, 0.0)
        std: Sequence[float] = (1.0, 1.0, 1.0)
        if self._transforms is not None:
            preprocessing, mean, std = read_transforms(self.name, self._transforms)
        network = deepcopy(self._network).cpu()
        return PortableEncoder(build_encoder_graph(network, self._side, mean, std), preprocessing)

    def _encode_batch(self, images: Sequence[Image.Image]) -> Floats:
        return normalize_rows(self._runner(self._preprocess_batch(images))[0])

    def _preprocess_batch(self, images: Sequence[Image.Image]) -> Floats:
        import torch

        batch = torch.stack([self._preprocess(crop_extreme_aspect(image)) for image in images])
        return np.asarray(batch.numpy(), dtype=np.float32)


def _without_probabilities(network: Any) -> Any:
    """The network up to the last layer's output, without the probabilities."""
    import torch

    class LastNumbers(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            _, rows = self.network(images)
            return rows

    return LastNumbers().eval()


def load_yolo_cls(setting: str, weights_dir: Path | None) -> YoloClsEncoder:
    """Load a checkpoint by path or, if it is published, by name.

    Args:
        setting: a path, or the name of a file in ``weights_dir``.
        weights_dir: where published weights are kept.

    Raises:
        EncoderError: it cannot be had or read, or is no classifier.
    """
    path = _find_checkpoint(setting, weights_dir)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = weights_dir / "ultralytics" if weights_dir else None
    return YoloClsEncoder(load_checkpoint(path, folder), setting, digest)


def _find_checkpoint(setting: str, weights_dir: Path | None) -> Path:
    given_path = Path(setting).expanduser()
    candidate_paths = [given_path, weights_dir / setting] if weights_dir else [given_path]
    for candidate_path in candidate_paths:
        if candidate_path.is_file():
            return candidate_path
    if weights_dir is None or given_path.name != setting:
        raise EncoderError(f"There is no file {given_path}: check PRELABEL_ENCODER.")
    return download_checkpoint(setting, weights_dir)


def _input_side(checkpoint: Checkpoint) -> int:
    side = checkpoint.train_arguments.get("imgsz")
    return side if isinstance(side, int) and side in ALLOWED_INPUT_PX else DEFAULT_INPUT_PX


def _checkpoint_transforms(network: Any, side: int) -> Any:
    """The checkpoint's transforms where they fit its size; None where there are none."""
    own_transforms = getattr(network, "transforms", None)
    steps = getattr(own_transforms, "transforms", None)
    fits_side = steps and getattr(steps[0], "size", None) in (side, (side, side))
    return own_transforms if fits_side else None


def _make_preprocess(own_transforms: Any, side: int) -> Callable[[Image.Image], torch.Tensor]:
    """What ultralytics' own predictor does."""
    if own_transforms is not None:
        return lambda image: own_transforms(image.convert("RGB"))
    return lambda image: crop_centre_square(image, side)


def crop_centre_square(image: Image.Image, side: int) -> torch.Tensor:
    """``classify_transforms(side)`` without importing torchvision, which takes seconds.

    Args:
        image: upright, of any size.
        side: pixels.

    Returns:
        (3, side, side) float32 RGB in 0–1: the shorter edge scaled to ``side``, the centre cut.
    """
    import torch
    from PIL import Image as Pillow

    width, height = image.size
    shorter_edge = min(width, height)
    size = (int(side * width / shorter_edge), int(side * height / shorter_edge))
    resized = image.convert("RGB").resize(size, Pillow.Resampling.BILINEAR)
    left, top = (round((edge - side) / 2) for edge in size)
    cropped = resized.crop((left, top, left + side, top + side))
    pixels = np.array(cropped, dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)
