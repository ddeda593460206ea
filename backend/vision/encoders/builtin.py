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
from backend.vision.encoders.base import text_unsupported_error
from backend.vision.encoders.builtin_layout import (
    BORDER_PX,
    CENTRE_SLICE,
    COLOUR_BINS,
    COLOUR_HIGH,
    COLOUR_LOW,
    COLOUR_SIDE_PX,
    COLOUR_WEIGHT,
    DIRECTION_COUNT,
    EDGE_GRID_CELLS,
    EDGE_SQUARE_SIDES_PX,
    THUMBNAIL_SIDE_PX,
    THUMBNAIL_WEIGHT,
    gabor_filters,
    triangular_windows,
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
        DIRECTION_COUNT * sum(grid**2 for grid in EDGE_GRID_CELLS)
        + 2 * COLOUR_BINS[0] * COLOUR_BINS[1] * COLOUR_BINS[2]
        + 3 * THUMBNAIL_SIDE_PX**2
    )

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """(n, dim) float32 of unit length."""
        rows = [extract_features(image) for image in images]
        return np.stack(rows) if rows else np.zeros((0, self.dim), dtype=np.float32)

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """Not with this kind.

        Raises:
            EncoderError: always.
        """
        raise text_unsupported_error(self.name)

    def to_portable(self) -> PortableEncoder:
        """See :class:`backend.vision.encoders.base.Portable`."""
        from backend.vision.onnx.builtin_network import build_builtin_graph, builtin_preprocessing
        from backend.vision.onnx.preprocessing import PortableEncoder

        return PortableEncoder(build_builtin_graph(), builtin_preprocessing())


def extract_features(image: Image.Image) -> Floats:
    """The numbers of one upright image of any size: (dim,) float32 of unit length."""
    square = _resize_square(image.convert("RGB"), EDGE_SQUARE_SIDES_PX[0])
    grey = square.convert("L")
    edges = [
        _edge_features(_resize_square(grey, s), g)
        for s, g in zip(EDGE_SQUARE_SIDES_PX, EDGE_GRID_CELLS, strict=True)
    ]
    colour = COLOUR_WEIGHT * _colour_features(square)
    return _normalize(
        np.concatenate([*edges, colour, THUMBNAIL_WEIGHT * _thumbnail_features(square)])
    )


def _resize_square(image: Image.Image, side: int) -> Image.Image:
    from PIL import Image as Pillow

    return image.resize((side, side), Pillow.Resampling.BILINEAR, reducing_gap=2.0)


def _edge_features(grey: Image.Image, grid: int) -> Floats:
    """How strong edges of each direction are in each cell: (DIRECTIONS · grid²,)."""
    from scipy import fft

    side = grey.width
    pixels = np.pad(np.asarray(grey, dtype=np.float32) / 255, BORDER_PX, mode="reflect")
    filter_responses = np.abs(fft.ifft2(fft.fft2(pixels) * gabor_filters(side), axes=(-2, -1)))
    inner_responses = filter_responses[:, BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX]
    cells = triangular_windows(grid, side)
    return _centre_and_normalize(np.sqrt(cells @ inner_responses @ cells.T))


def _colour_features(square: Image.Image) -> Floats:
    """Square roots of colour histograms, of the whole and of its centre (Hellinger's kernel)."""
    bins, low = np.array(COLOUR_BINS), np.array(COLOUR_LOW)
    relative_colour = (_to_lab(square, COLOUR_SIDE_PX) - low) / (np.array(COLOUR_HIGH) - low)
    bin_indices = np.clip(relative_colour * bins, 0, bins - 1).astype(np.intp)
    bin_numbers = np.ravel_multi_index(np.moveaxis(bin_indices, -1, 0), COLOUR_BINS)
    size = int(bins.prod())
    parts = (bin_numbers.ravel(), bin_numbers[CENTRE_SLICE, CENTRE_SLICE].ravel())
    return _centre_and_normalize(
        np.concatenate([np.sqrt(np.bincount(part, minlength=size) / part.size) for part in parts])
    )


def _thumbnail_features(square: Image.Image) -> Floats:
    """A few pixels, each channel around its usual middle: (3 · THUMBNAIL²,) of unit length."""
    return _normalize(
        (_to_lab(square, THUMBNAIL_SIDE_PX) - np.array((50.0, 0, 0))) / np.array((50.0, 25.0, 25.0))
    )


def _to_lab(square: Image.Image, side: int) -> npt.NDArray[np.floating]:
    """CIELAB of a smaller square: (side, side, 3), lightness 0–100, the others around 0."""
    from skimage.color import rgb2lab

    return np.asarray(rgb2lab(np.asarray(_resize_square(square, side), dtype=np.float32) / 255))


def _centre_and_normalize(block: npt.ArrayLike) -> Floats:
    """A block without its mean, which all images share, and of unit length."""
    values = np.asarray(block)
    return _normalize(values - values.mean())


def _normalize(block: npt.ArrayLike) -> Floats:
    values = np.asarray(block, dtype=np.float32).ravel()
    return np.asarray(values / max(float(np.linalg.norm(values)), 1e-6), dtype=np.float32)
