"""The builtin encoder: hand-crafted edge, colour and thumbnail features, without a download.

It is meant for the demo, tests and machines without internet. It separates images by shape, texture
and colour; a pretrained encoder is far better on most photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from backend.arrays import Floats
from backend.vision.encoders.base import ImageOnlyEncoder
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


class BuiltinEncoder(ImageOnlyEncoder):
    """Image-only encoder; see :class:`backend.vision.encoders.base.Encoder`."""

    id = "builtin/2"
    name = "builtin"
    dim = (
        DIRECTION_COUNT * sum(grid**2 for grid in EDGE_GRID_CELLS)
        + 2 * COLOUR_BINS[0] * COLOUR_BINS[1] * COLOUR_BINS[2]
        + 3 * THUMBNAIL_SIDE_PX**2
    )

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """See :meth:`Encoder.encode_images`."""
        rows = [extract_features(image) for image in images]
        return np.stack(rows) if rows else np.zeros((0, self.dim), dtype=np.float32)

    def to_portable(self) -> PortableEncoder:
        """See :meth:`SupportsExport.to_portable`."""
        from backend.vision.onnx.builtin_network import build_builtin_graph, builtin_preprocessing
        from backend.vision.onnx.preprocessing import PortableEncoder

        return PortableEncoder(build_builtin_graph(), builtin_preprocessing())


def extract_features(image: Image.Image) -> Floats:
    """Embed one upright image of any size: (dim,) float32 of unit length."""
    square = _resize_square(image.convert("RGB"), EDGE_SQUARE_SIDES_PX[0])
    grey = square.convert("L")
    levels = zip(EDGE_SQUARE_SIDES_PX, EDGE_GRID_CELLS, strict=True)
    edges = [_edge_features(_resize_square(grey, side), grid) for side, grid in levels]
    colour = COLOUR_WEIGHT * _colour_features(square)
    thumbnail = THUMBNAIL_WEIGHT * _thumbnail_features(square)
    return _normalize(np.concatenate([*edges, colour, thumbnail]))


def _resize_square(image: Image.Image, side: int) -> Image.Image:
    from PIL import Image as Pillow

    return image.resize((side, side), Pillow.Resampling.BILINEAR, reducing_gap=2.0)


def _edge_features(grey: Image.Image, grid: int) -> Floats:
    """Return the edge strength per direction and cell: (directions · grid²,)."""
    from scipy import fft

    side = grey.width
    pixels = np.pad(np.asarray(grey, dtype=np.float32) / 255, BORDER_PX, mode="reflect")
    filter_responses = np.abs(fft.ifft2(fft.fft2(pixels) * gabor_filters(side), axes=(-2, -1)))
    inner_responses = filter_responses[:, BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX]
    cells = triangular_windows(grid, side)
    return _centre_and_normalize(np.sqrt(cells @ inner_responses @ cells.T))


def _colour_features(square: Image.Image) -> Floats:
    """Return colour histograms of the image and its centre, square-rooted (Hellinger kernel)."""
    bins, low = np.array(COLOUR_BINS), np.array(COLOUR_LOW)
    relative_colour = (_to_lab(square, COLOUR_SIDE_PX) - low) / (np.array(COLOUR_HIGH) - low)
    bin_indices = np.clip(relative_colour * bins, 0, bins - 1).astype(np.intp)
    bin_numbers = np.ravel_multi_index(np.moveaxis(bin_indices, -1, 0), COLOUR_BINS)
    size = int(bins.prod())
    parts = (bin_numbers.ravel(), bin_numbers[CENTRE_SLICE, CENTRE_SLICE].ravel())
    histograms = [np.sqrt(np.bincount(part, minlength=size) / part.size) for part in parts]
    return _centre_and_normalize(np.concatenate(histograms))


def _thumbnail_features(square: Image.Image) -> Floats:
    """Return a CIELAB thumbnail, standardized per channel: (3 · side²,) of unit length."""
    lab = _to_lab(square, THUMBNAIL_SIDE_PX)
    return _normalize((lab - np.array((50.0, 0, 0))) / np.array((50.0, 25.0, 25.0)))


def _to_lab(square: Image.Image, side: int) -> npt.NDArray[np.floating]:
    """Resize and convert to CIELAB: (side, side, 3), L 0 to 100, a and b around 0."""
    from skimage.color import rgb2lab

    return np.asarray(rgb2lab(np.asarray(_resize_square(square, side), dtype=np.float32) / 255))


def _centre_and_normalize(block: npt.ArrayLike) -> Floats:
    """Subtract the mean of the block and scale it to unit length."""
    values = np.asarray(block)
    return _normalize(values - values.mean())


def _normalize(block: npt.ArrayLike) -> Floats:
    values = np.asarray(block, dtype=np.float32).ravel()
    return np.asarray(values / max(float(np.linalg.norm(values)), 1e-6), dtype=np.float32)
