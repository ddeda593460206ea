"""An encoder that needs no download: where edges run, which colours, and a thumbnail.

For the demo, for tests, and for closed networks. A pretrained encoder is far better on most
photos; this one tells apart what shape, texture and colour tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from backend.arrays import Floats
from backend.vision.encoders.base import no_text
from backend.vision.encoders.builtin_layout import (
    BORDER,
    CENTRE,
    COLOUR_BINS,
    COLOUR_HIGH,
    COLOUR_LOW,
    COLOUR_SIDE,
    COLOUR_WEIGHT,
    DIRECTIONS,
    GRIDS,
    SIDES,
    THUMBNAIL,
    THUMBNAIL_WEIGHT,
    gabor_filters,
    windows,
)

if TYPE_CHECKING:
    from PIL import Image

    from backend.vision.onnx.preprocessing import PortableEncoder


class BuiltinEncoder:
    """Images only; see :class:`backend.vision.encoders.base.Encoder`."""

    id = "builtin/2"
    name = "builtin"
    has_text = False
    logit_scale = 1.0
    logit_bias = 0.0
    dim = (
        DIRECTIONS * sum(grid**2 for grid in GRIDS)
        + 2 * COLOUR_BINS[0] * COLOUR_BINS[1] * COLOUR_BINS[2]
        + 3 * THUMBNAIL**2
    )

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """(n, dim) float32 of unit length."""
        rows = [features(image) for image in images]
        return np.stack(rows) if rows else np.zeros((0, self.dim), dtype=np.float32)

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """Not with this kind.

        Raises:
            EncoderError: always.
        """
        raise no_text(self.name)

    def portable(self) -> PortableEncoder:
        """See :class:`backend.vision.encoders.base.Portable`."""
        from backend.vision.onnx.builtin_network import builtin_graph, builtin_preparation
        from backend.vision.onnx.preprocessing import PortableEncoder

        return PortableEncoder(builtin_graph(), builtin_preparation())


def features(image: Image.Image) -> Floats:
    """The numbers of one upright image of any size: (dim,) float32 of unit length."""
    square = _square(image.convert("RGB"), SIDES[0])
    grey = square.convert("L")
    edges = [_edges(_square(grey, s), g) for s, g in zip(SIDES, GRIDS, strict=True)]
    colour = COLOUR_WEIGHT * _colours(square)
    return _unit(np.concatenate([*edges, colour, THUMBNAIL_WEIGHT * _thumbnail(square)]))


def _square(image: Image.Image, side: int) -> Image.Image:
    from PIL import Image as Pillow

    return image.resize((side, side), Pillow.Resampling.BILINEAR, reducing_gap=2.0)


def _edges(grey: Image.Image, grid: int) -> Floats:
    """How strong edges of each direction are in each cell: (DIRECTIONS · grid²,)."""
    from scipy import fft

    side = grey.width
    pixels = np.pad(np.asarray(grey, dtype=np.float32) / 255, BORDER, mode="reflect")
    answers = np.abs(fft.ifft2(fft.fft2(pixels) * gabor_filters(side), axes=(-2, -1)))
    inner = answers[:, BORDER:-BORDER, BORDER:-BORDER]
    cells = windows(grid, side)
    return _contrast(np.sqrt(cells @ inner @ cells.T))


def _colours(square: Image.Image) -> Floats:
    """Square roots of colour histograms, of the whole and of its centre (Hellinger's kernel)."""
    bins, low = np.array(COLOUR_BINS), np.array(COLOUR_LOW)
    share = (_lab(square, COLOUR_SIDE) - low) / (np.array(COLOUR_HIGH) - low)
    place = np.clip(share * bins, 0, bins - 1).astype(np.intp)
    number = np.ravel_multi_index(np.moveaxis(place, -1, 0), COLOUR_BINS)
    size = int(bins.prod())
    parts = (number.ravel(), number[CENTRE, CENTRE].ravel())
    return _contrast(
        np.concatenate([np.sqrt(np.bincount(part, minlength=size) / part.size) for part in parts])
    )


def _thumbnail(square: Image.Image) -> Floats:
    """A few pixels, each channel around its usual middle: (3 · THUMBNAIL²,) of unit length."""
    return _unit((_lab(square, THUMBNAIL) - np.array((50.0, 0, 0))) / np.array((50.0, 25.0, 25.0)))


def _lab(square: Image.Image, side: int) -> npt.NDArray[np.floating]:
    """CIELAB of a smaller square: (side, side, 3), lightness 0–100, the others around 0."""
    from skimage.color import rgb2lab

    return np.asarray(rgb2lab(np.asarray(_square(square, side), dtype=np.float32) / 255))


def _contrast(block: npt.ArrayLike) -> Floats:
    """A block without its mean, which all images share, and of unit length."""
    values = np.asarray(block)
    return _unit(values - values.mean())


def _unit(block: npt.ArrayLike) -> Floats:
    values = np.asarray(block, dtype=np.float32).ravel()
    return np.asarray(values / max(float(np.linalg.norm(values)), 1e-6), dtype=np.float32)
