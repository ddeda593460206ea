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
from backend.vision.batching import device_here, in_batches
from backend.vision.encoders.base import no_text, noise, unit_rows
from backend.vision.images.aspect_ratio import not_too_slim
from backend.vision.runtime import Runner, TorchRunner, fastest
from backend.vision.ultralytics_models import Checkpoint, download_checkpoint, load_checkpoint

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from backend.vision.onnx.preprocessing import PortableEncoder

SIDE = 224
"""Pixels of the square that published classifiers are trained on."""
SIDES = range(32, 1025)


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
        side = _side(checkpoint)
        self.name, self.id = name, f"yolo-cls:sha256:{digest[:16]}/{side}"
        self.dim = int(head.linear.in_features)
        head.linear = torch.nn.Identity()
        self._device = device_here()
        self._side = side
        self._own_steps = _own_steps(checkpoint.network, side)
        self._preprocess = _preprocess(self._own_steps, side)
        network = checkpoint.network.fuse(verbose=False).requires_grad_(False)
        self._network = _last_numbers(network)
        self._runner: Runner = TorchRunner(self._network, self._device)

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """(n, dim) float32 of unit length."""
        return in_batches(self._part, images, self.dim, self._device)

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """Not with this kind.

        Raises:
            EncoderError: always.
        """
        raise no_text(self.name)

    def hasten(self, folder: Path | None, say: LogCallback) -> None:
        """Run the network the fastest way there is; see :func:`fastest`.

        Args:
            folder: where converted networks are kept.
            say: told why a faster way was not taken.
        """
        example = self._prepared([noise()])
        self._runner = fastest(
            self._network, example, key=self.id, family=self.id, folder=folder, say=say
        )

    def portable(self) -> PortableEncoder:
        """See :class:`backend.vision.encoders.base.Portable`."""
        from backend.vision.onnx.preprocessing import (
            PortableEncoder,
            Preparation,
            encoder_graph,
            read_steps,
        )

        preparation = Preparation(self._side, cut=True, filter="bilinear")
        mean: Sequence[float] = (0.0, 0.0, 0.0)
        std: Sequence[float] = (1.0, 1.0, 1.0)
        if self._own_steps is not None:
            preparation, mean, std = read_steps(self.name, self._own_steps)
        network = deepcopy(self._network).cpu()
        return PortableEncoder(encoder_graph(network, self._side, mean, std), preparation)

    def _part(self, images: Sequence[Image.Image]) -> Floats:
        return unit_rows(self._runner(self._prepared(images))[0])

    def _prepared(self, images: Sequence[Image.Image]) -> Floats:
        import torch

        batch = torch.stack([self._preprocess(not_too_slim(image)) for image in images])
        return np.asarray(batch.numpy(), dtype=np.float32)


def _last_numbers(network: Any) -> Any:
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
    path = _find(setting, weights_dir)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = weights_dir / "ultralytics" if weights_dir else None
    return YoloClsEncoder(load_checkpoint(path, folder), setting, digest)


def _find(setting: str, weights_dir: Path | None) -> Path:
    named = Path(setting).expanduser()
    places = [named, weights_dir / setting] if weights_dir else [named]
    for place in places:
        if place.is_file():
            return place
    if weights_dir is None or named.name != setting:
        raise EncoderError(f"There is no file {named}: check PRELABEL_ENCODER.")
    return download_checkpoint(setting, weights_dir)


def _side(checkpoint: Checkpoint) -> int:
    side = checkpoint.arguments.get("imgsz")
    return side if isinstance(side, int) and side in SIDES else SIDE


def _own_steps(network: Any, side: int) -> Any:
    """The checkpoint's transforms where they fit its size; None where there are none."""
    own = getattr(network, "transforms", None)
    steps = getattr(own, "transforms", None)
    fits = steps and getattr(steps[0], "size", None) in (side, (side, side))
    return own if fits else None


def _preprocess(own: Any, side: int) -> Callable[[Image.Image], torch.Tensor]:
    """What ultralytics' own predictor does."""
    if own is not None:
        return lambda image: own(image.convert("RGB"))
    return lambda image: centre_square(image, side)


def centre_square(image: Image.Image, side: int) -> torch.Tensor:
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
    short = min(width, height)
    size = (int(side * width / short), int(side * height / short))
    scaled = image.convert("RGB").resize(size, Pillow.Resampling.BILINEAR)
    left, top = (round((edge - side) / 2) for edge in size)
    cut = scaled.crop((left, top, left + side, top + side))
    pixels = np.array(cut, dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)
