"""An ultralytics classification checkpoint as an encoder: the numbers before its last layer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.errors import EncoderError
from backend.vision.encoder import Vectors
from backend.vision.ultralytics_models import load_checkpoint

if TYPE_CHECKING:
    from PIL import Image

BATCH = 16
SIDE = 224
"""Pixels of the square that ultralytics' classifiers are trained on."""


class YoloClsEncoder:
    """Images only; see :class:`backend.vision.encoder.Encoder`.

    Args:
        network: a classification network in evaluation mode.
        name: the setting.
        id: the identity.

    Raises:
        EncoderError: it is no classification network.
    """

    has_text = False
    logit_scale = 1.0
    logit_bias = 0.0

    def __init__(self, network: Any, name: str, id: str) -> None:
        import torch
        from ultralytics.data.augment import classify_transforms

        last = network.model[-1]
        if not hasattr(last, "linear"):
            raise EncoderError(f"{name} is no classification checkpoint: use a …-cls.pt.")
        self.name, self.id = name, id
        self.dim = int(last.linear.in_features)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._network = network.requires_grad_(False).to(self._device)
        self._transform = classify_transforms(SIDE)
        self._seen: list[Any] = []
        last.linear.register_forward_pre_hook(lambda _, inputs: self._seen.append(inputs[0]))

    def encode_images(self, images: Sequence[Image.Image]) -> Vectors:
        """(n, dim) float32 of unit length."""
        parts = [self._part(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), dtype=np.float32)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Not with this kind.

        Raises:
            EncoderError: always.
        """
        raise EncoderError(f"{self.name} knows images only, no texts.")

    def _part(self, images: Sequence[Image.Image]) -> Vectors:
        import torch

        self._seen.clear()
        with torch.inference_mode():
            inputs = torch.stack([self._transform(image) for image in images])
            self._network(inputs.to(self._device))
            rows = torch.nn.functional.normalize(self._seen[0].float(), dim=1)
        return np.asarray(rows.cpu().numpy(), dtype=np.float32)


def load_yolo_cls(setting: str, weights_dir: Path | None) -> YoloClsEncoder:
    """Load a checkpoint by path, or by a published name.

    Raises:
        EncoderError: it cannot be had or read.
    """
    path = _find(setting, weights_dir)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return YoloClsEncoder(load_checkpoint(path), setting, f"yolo-cls:sha256:{digest}/{SIDE}")


def _find(setting: str, weights_dir: Path | None) -> Path:
    named = Path(setting).expanduser()
    places = [named, *([weights_dir / named.name] if weights_dir else [])]
    for place in places:
        if place.is_file():
            return place
    if named.name != setting or weights_dir is None:
        raise EncoderError(f"There is no file {named}: check PRELABEL_ENCODER.")
    return _download(setting, weights_dir)


def _download(name: str, folder: Path) -> Path:
    """A published checkpoint, because somebody asked for it by name."""
    from backend.vision.ultralytics_models import quiet_ultralytics

    quiet_ultralytics()
    from ultralytics.utils.downloads import attempt_download_asset

    folder.mkdir(parents=True, exist_ok=True)
    try:
        attempt_download_asset(folder / name)
        if not (folder / name).is_file():
            raise OSError("no such asset, or no network")
    except Exception as error:  # whatever the network and ultralytics raise
        why = " ".join(str(error).split())[:120].rstrip(".")
        raise EncoderError(
            f"{name} is not on this machine and cannot be downloaded ({why}): put the file into "
            f"{folder}, or set PRELABEL_ENCODER=builtin."
        ) from error
    return folder / name
