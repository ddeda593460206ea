"""Three kinds of encoder behind one interface, and the choice between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from backend.arrays import Floats
from backend.errors import EncoderError

if TYPE_CHECKING:
    from PIL import Image

    from backend.vision.onnx.preprocessing import PortableEncoder


class Encoder(Protocol):
    """Images, and with some kinds texts, as points on the unit sphere.

    Attributes:
        id: family, model, weights and preprocessing; equal ids give equal vectors, after a
            restart and on other machines too.
        name: the setting that leads to this very encoder.
        dim: length of a vector.
        has_text: texts and images share the space.
        logit_scale: factor of the cosine between text and image, as trained; 1 without text.
        logit_bias: what is added to it (SigLIP); 0 otherwise.
    """

    id: str
    name: str
    dim: int
    has_text: bool
    logit_scale: float
    logit_bias: float

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """(n, dim) float32 of unit length, of upright RGB images of any size."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """(n, dim) float32 of unit length.

        Raises:
            EncoderError: this encoder knows no texts.
        """
        ...


@runtime_checkable
class SupportsExport(Protocol):
    """An encoder whose image side others can run; all of ours are."""

    def to_portable(self) -> PortableEncoder:
        """Its image side as a network that others can run.

        Raises:
            EncoderError: others could not prepare images as it wants them.
        """
        ...


def make_noise_image() -> Image.Image:
    """An image to try an encoder on."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def normalize_rows(rows: Floats) -> Floats:
    """Rows scaled to length 1; zeros stay."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12), dtype=np.float32)


def text_unsupported_error(name: str) -> EncoderError:
    """What an encoder of images alone raises when it is given texts."""
    return EncoderError(f"{name} knows images only: set PRELABEL_ENCODER to a CLIP for texts.")


DEFAULT_CLIP = "ViT-B-32-256/datacomp_s34b_b86k"


DEFAULT_YOLO_CLS = "yolo11n-cls.pt"


ENCODER_SETTING_HELP = (
    "PRELABEL_ENCODER is auto, builtin, an open_clip model/weights such as "
    f"{DEFAULT_CLIP} (the weights may be a file), or a classification checkpoint such as {DEFAULT_YOLO_CLS}."
)
