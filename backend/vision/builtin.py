"""An encoder that needs no download: colour, texture and shape, from well-kept libraries.

For the demo, for tests, and for closed networks. A pretrained encoder is far better on most
real pictures; this one tells apart what colour, pattern and coarse shape tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from backend.errors import EncoderError
from backend.vision.encoder import Vectors

if TYPE_CHECKING:
    from PIL import Image

SIDE = 96
"""Pixels of the square that everything is computed on."""
HUES, SATURATIONS, VALUES = 12, 4, 4
ORIENTATIONS, CELL = 9, 16
PATTERNS = 10
"""Uniform local binary patterns of 8 neighbours (Ojala et al. 2002)."""
GRID = 3
THUMBNAIL = 8
Array = npt.NDArray[np.float32]


class BuiltinEncoder:
    """Images only; see :class:`backend.vision.encoder.Encoder`."""

    id = "builtin/1"
    name = "builtin"
    has_text = False
    logit_scale = 1.0
    logit_bias = 0.0

    def __init__(self) -> None:
        from PIL import Image

        self.dim = int(features(Image.new("RGB", (SIDE, SIDE))).shape[0])

    def encode_images(self, images: Sequence[Image.Image]) -> Vectors:
        """(n, dim) float32 of unit length."""
        rows = [features(image) for image in images]
        return np.stack(rows) if rows else np.zeros((0, self.dim), dtype=np.float32)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Not with this kind.

        Raises:
            EncoderError: always.
        """
        raise EncoderError("The builtin encoder knows images only, no texts.")


def features(image: Image.Image) -> Array:
    """The numbers of one upright RGB image of any size: (d,) float32 of unit length."""
    from PIL import Image as Pillow

    small = image.resize((SIDE, SIDE), Pillow.Resampling.BOX, reducing_gap=2.0)
    grey = np.asarray(small.convert("L"), dtype=np.float32) / np.float32(255)
    blocks = [_colour(small), _texture(grey), _shape(grey), _thumbnail(small)]
    return _unit(np.concatenate([_unit(block) for block in blocks]))


def _colour(image: Image.Image) -> Array:
    """Square roots of HSV histograms, of the whole and of the centre (Hellinger's kernel)."""
    hsv = np.asarray(image.convert("HSV"), dtype=np.int32)
    bins = hsv * np.array([HUES, SATURATIONS, VALUES]) // 256
    index = (bins[..., 0] * SATURATIONS + bins[..., 1]) * VALUES + bins[..., 2]
    quarter = SIDE // 4
    parts = (index, index[quarter:-quarter, quarter:-quarter])
    size = HUES * SATURATIONS * VALUES
    return np.concatenate([np.sqrt(np.bincount(p.ravel(), minlength=size) / p.size) for p in parts])


def _texture(grey: Array) -> Array:
    """Square roots of local binary pattern histograms on a grid."""
    from skimage.feature import local_binary_pattern

    codes = local_binary_pattern((grey * 255).astype(np.uint8), 8, 1, "uniform").astype(np.int32)
    step = SIDE // GRID
    cells = codes.reshape(GRID, step, GRID, step).swapaxes(1, 2).reshape(GRID * GRID, -1)
    rows = [np.sqrt(np.bincount(cell, minlength=PATTERNS) / cell.size) for cell in cells]
    return np.concatenate(rows)


def _shape(grey: Array) -> Array:
    """Histograms of oriented gradients (Dalal and Triggs 2005)."""
    from skimage.feature import hog

    found = hog(
        np.sqrt(grey),
        orientations=ORIENTATIONS,
        pixels_per_cell=(CELL, CELL),
        cells_per_block=(2, 2),
    )
    return np.asarray(found, dtype=np.float32)


def _thumbnail(image: Image.Image) -> Array:
    """A few pixels in CIELAB, without their mean."""
    from PIL import Image as Pillow
    from skimage.color import rgb2lab

    tiny = np.asarray(image.resize((THUMBNAIL, THUMBNAIL), Pillow.Resampling.BOX)) / 255.0
    lab = np.asarray(rgb2lab(tiny), dtype=np.float32).reshape(-1, 3)
    return np.asarray((lab - lab.mean(axis=0)).ravel(), dtype=np.float32)


def _unit(block: npt.ArrayLike) -> Array:
    values = np.asarray(block, dtype=np.float32)
    length = max(float(np.linalg.norm(values)), 1e-8)
    return np.asarray(values / length, dtype=np.float32)
