"""Ultralytics classifiers as encoders: the features before the last layer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.errors import EncoderError
from backend.vision.encoders.base import ImageOnlyEncoder, NetworkEncoder, wrap_network
from backend.vision.ultralytics_models import (
    Checkpoint,
    download_checkpoint,
    find_checkpoint,
    load_checkpoint,
)

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from backend.vision.onnx.preprocessing import PortableEncoder

DEFAULT_INPUT_PX = 224
"""Input size of published classifiers."""
ALLOWED_INPUT_PX = range(32, 1025)


class YoloClsEncoder(ImageOnlyEncoder, NetworkEncoder):
    """Image-only encoder; see :class:`backend.vision.encoders.base.Encoder`.

    Args:
        checkpoint: classification checkpoint; its last layer is removed in place.
        name: the ``PRELABEL_ENCODER`` setting.
        digest: SHA-256 of the file, hexadecimal.

    Raises:
        EncoderError: the checkpoint is not a classifier.
    """

    def __init__(self, checkpoint: Checkpoint, name: str, digest: str) -> None:
        import torch

        head = checkpoint.network.model[-1]
        if checkpoint.task != "classify":
            raise EncoderError(
                f"{name} is for {checkpoint.task}, not for classification: use a …-cls.pt."
            )
        size = checkpoint.image_size
        side = size if size and size in ALLOWED_INPUT_PX else DEFAULT_INPUT_PX
        self.name, self.id = name, f"yolo-cls:sha256:{digest[:16]}/{side}"
        self.dim = int(head.linear.in_features)
        head.linear = torch.nn.Identity()
        self._side = side
        self._transforms = _checkpoint_transforms(checkpoint.network, side)
        network = checkpoint.network.fuse(verbose=False).requires_grad_(False)
        embedding_network = wrap_network(network, lambda yolo, images: yolo(images)[1])
        super().__init__(lambda: embedding_network, _make_preprocess(self._transforms, side))

    def to_portable(self) -> PortableEncoder:
        """See :meth:`SupportsExport.to_portable`."""
        from backend.vision.onnx.preprocessing import Preprocessing, read_transforms

        if self._transforms is not None:
            return self._export(*read_transforms(self.name, self._transforms))
        preprocessing = Preprocessing(self._side, cut=True, filter="bilinear")
        return self._export(preprocessing, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def load_yolo_cls(setting: str, weights_dir: Path | None) -> YoloClsEncoder:
    """Load a classification checkpoint by path or name, downloading published weights if needed.

    Args:
        setting: a path, or the name of a file in ``weights_dir``.
        weights_dir: folder of downloaded weights; None disables downloads.

    Raises:
        EncoderError: it is not available, cannot be read, or is not a classifier.
    """
    path = find_checkpoint(setting, weights_dir)
    if path is None:
        if weights_dir is None or Path(setting).expanduser().name != setting:
            raise EncoderError(f"There is no file {setting}: check PRELABEL_ENCODER.")
        path = download_checkpoint(setting, weights_dir)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = weights_dir / "ultralytics" if weights_dir else None
    return YoloClsEncoder(load_checkpoint(path, folder), setting, digest)


def is_yolo_cls_local(setting: str, weights_dir: Path | None) -> bool:
    """Return whether a checkpoint can be loaded without a download.

    Raises:
        EncoderError: the setting is a path that does not exist.
    """
    is_local = find_checkpoint(setting, weights_dir) is not None
    path = Path(setting).expanduser()
    if not is_local and path.name != setting:
        raise EncoderError(f"There is no file {path}: check PRELABEL_ENCODER.")
    return is_local


def _checkpoint_transforms(network: Any, side: int) -> Any:
    """Return the transforms stored in the checkpoint if they match the input size, else None."""
    stored_transforms = getattr(network, "transforms", None)
    steps = getattr(stored_transforms, "transforms", None)
    fits_side = steps and getattr(steps[0], "size", None) in (side, (side, side))
    return stored_transforms if fits_side else None


def _make_preprocess(stored_transforms: Any, side: int) -> Callable[[Image.Image], torch.Tensor]:
    """Return the preprocessing of ultralytics' own predictor."""
    if stored_transforms is not None:
        return lambda image: stored_transforms(image.convert("RGB"))
    return lambda image: crop_centre_square(image, side)


def crop_centre_square(image: Image.Image, side: int) -> torch.Tensor:
    """Resize the shorter edge to ``side`` and centre-crop.

    Equals ultralytics' ``classify_transforms(side)`` without importing torchvision, which takes
    seconds.

    Args:
        image: upright, of any size.
        side: output size in pixels.

    Returns:
        (3, side, side) float32 RGB, 0 to 1.
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
