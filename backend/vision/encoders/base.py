"""The encoder interface and base classes of encoders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from backend.arrays import Doubles, Floats
from backend.callbacks import LogCallback
from backend.errors import EncoderError
from backend.vision.batching import detect_device, encode_in_batches
from backend.vision.images.decode import crop_extreme_aspect
from backend.vision.runtime import Runner, RunnerSpec, TorchRunner, select_fastest_runner

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from backend.vision.onnx.preprocessing import PortableEncoder, Preprocessing

DEFAULT_CLIP = "ViT-B-32-256/datacomp_s34b_b86k"
INSTALLED_ENCODER = "efficientnet-lite0"
"""The encoder of ``auto`` if CLIP is unavailable, and of projects without choices."""
ENCODER_SETTING_HELP = (
    f"PRELABEL_ENCODER is auto, {INSTALLED_ENCODER}, builtin, an open_clip model/weights such as "
    f"{DEFAULT_CLIP} (the weights may be a file), or a classification checkpoint such as "
    "yolo11n-cls.pt."
)


class Encoder(Protocol):
    """Interface of encoders: embed images, and texts if supported, in one space.

    Attributes:
        id: identifies family, model, weights and preprocessing; encoders with equal ids compute
            equal embeddings on every machine.
        name: ``PRELABEL_ENCODER`` setting that loads this encoder.
        dim: embedding dimension.
        has_text: the encoder has a text encoder.
        logit_scale: trained scale of the cosine similarity of text and image; 1 without text.
        logit_bias: trained bias added to the scaled cosine (SigLIP); 0 otherwise.
    """

    id: str
    name: str
    dim: int
    has_text: bool
    logit_scale: float
    logit_bias: float

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """Embed upright RGB images of any size: (n, dim) float32 of unit length."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """Embed texts: (n, dim) float32 of unit length.

        Raises:
            EncoderError: there is no text encoder.
        """
        ...


@runtime_checkable
class SupportsExport(Protocol):
    """Interface of encoders that can be exported to ONNX; all families support it."""

    def to_portable(self) -> PortableEncoder:
        """Return the image encoder for ONNX export.

        Raises:
            EncoderError: the preprocessing is not supported outside this project.
        """
        ...


class ImageOnlyEncoder:
    """Base class of encoders without a text encoder."""

    name: str
    has_text = False
    logit_scale = 1.0
    logit_bias = 0.0

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """Raise EncoderError because there is no text encoder."""
        raise EncoderError(
            f"{self.name} encodes images only: set PRELABEL_ENCODER to a CLIP model for texts."
        )


class NetworkEncoder:
    """Base class of encoders that run a torch network on preprocessed images.

    Args:
        load_network: returns the torch module, (b, 3, h, w) → (b, dim); called at first use, as a
            converted network on disk replaces it.
        preprocess: upright image → (3, h, w) float32 array or tensor.
    """

    id: str
    dim: int

    def __init__(
        self,
        load_network: Callable[[], Any],
        preprocess: Callable[[Image.Image], torch.Tensor | Floats],
    ) -> None:
        self._device = detect_device()
        self._load_network = cache(load_network)
        self._preprocess = preprocess
        self._runner: Runner | None = None

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """See :meth:`Encoder.encode_images`."""
        self._runner = self._runner or TorchRunner(self._load_network(), self._device)
        encode_batch = partial(self._encode_image_batch, self._runner)
        return encode_in_batches(encode_batch, images, self.dim, self._device)

    def use_fastest_runner(self, folder: Path | None, log: LogCallback) -> None:
        """Switch to the fastest runtime on this machine.

        Args:
            folder: cache folder of converted networks; None disables caching.
            log: receives the reason when OpenVINO is rejected.
        """

        def make_example() -> Floats:
            return self._preprocess_batch([make_noise_image()])

        spec = RunnerSpec(
            self._load_network, make_example, key=self.id, family=self.id, folder=folder
        )
        self._runner = select_fastest_runner(spec, log)

    def _export(
        self, preprocessing: Preprocessing, mean: Sequence[float], std: Sequence[float]
    ) -> PortableEncoder:
        from backend.vision.onnx.preprocessing import PortableEncoder, build_encoder_graph

        network = deepcopy(self._load_network()).cpu().float()
        graph = build_encoder_graph(network, preprocessing.side, mean, std)
        return PortableEncoder(graph, preprocessing)

    def _encode_image_batch(self, runner: Runner, images: Sequence[Image.Image]) -> Floats:
        return normalize_rows(runner(self._preprocess_batch(images))[0])

    def _preprocess_batch(self, images: Sequence[Image.Image]) -> Floats:
        rows = [np.asarray(self._preprocess(crop_extreme_aspect(image))) for image in images]
        return np.stack(rows).astype(np.float32, copy=False)


def wrap_network(network: Any, forward: Callable[[Any, torch.Tensor], torch.Tensor]) -> Any:
    """Return a torch module, in evaluation mode, that calls ``forward(network, images)``."""
    import torch

    class WrappedNetwork(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return forward(self.network, images)

    return WrappedNetwork().eval()


def make_noise_image() -> Image.Image:
    """Return a small random image as an example input."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def normalize_rows(rows: Floats | Doubles, epsilon: float = 1e-12) -> Floats:
    """Scale rows to unit length; norms are clamped to at least ``epsilon``."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, epsilon), dtype=np.float32)
