"""The builtin encoder as a torch network, for export to ONNX.

It reproduces the arithmetic of Pillow, scipy and skimage; Pillow's resize rounds to integers after
each pass.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from backend.arrays import Doubles
from backend.vision.encoders.builtin_layout import (
    BORDER_PX,
    CENTRE_SLICE,
    COLOUR_BINS,
    COLOUR_HIGH,
    COLOUR_LOW,
    COLOUR_SIDE_PX,
    COLOUR_WEIGHT,
    EDGE_GRID_CELLS,
    EDGE_SQUARE_SIDES_PX,
    THUMBNAIL_SIDE_PX,
    THUMBNAIL_WEIGHT,
    gabor_filters,
    triangular_windows,
)
from backend.vision.onnx.export import ExportGraph
from backend.vision.onnx.preprocessing import Preprocessing, normalize_tensor_rows

GREY_WEIGHTS = (19595.0, 38470.0, 7471.0)
"""Pillow's RGB-to-grey weights, in units of 1 / 65536."""
RGB_TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
D65_WHITE = (0.95047, 1.0, 1.08883)
"""White point of illuminant D65, CIE 1931 2° observer, as in skimage."""
REDUCING_GAP = 2.0


def build_builtin_graph() -> ExportGraph:
    """Return the graph (n, 3, 128, 128) float32, 0 to 1 → (n, dim) embeddings of unit length."""
    side = EDGE_SQUARE_SIDES_PX[0]
    example = np.random.default_rng(0).random((1, 3, side, side), dtype=np.float32)
    return ExportGraph(BuiltinNetwork(), example, "image", ["embedding"], {0: "images"})


def builtin_preprocessing() -> Preprocessing:
    """Return the preprocessing of the builtin encoder."""
    return Preprocessing(EDGE_SQUARE_SIDES_PX[0], cut=False, filter="bilinear", gap=REDUCING_GAP)


class BuiltinNetwork(nn.Module):  # type: ignore[misc]
    """See :func:`build_builtin_graph`."""

    def __init__(self) -> None:
        super().__init__()
        first = EDGE_SQUARE_SIDES_PX[0]
        self.squares = nn.ModuleList(SquareResize(first, side) for side in EDGE_SQUARE_SIDES_PX)
        pairs = zip(EDGE_SQUARE_SIDES_PX, EDGE_GRID_CELLS, strict=True)
        self.edges = nn.ModuleList(EdgeFeatures(side, grid) for side, grid in pairs)
        self.colour_square = SquareResize(first, COLOUR_SIDE_PX)
        self.thumbnail_square = SquareResize(first, THUMBNAIL_SIDE_PX)
        self.register_buffer("grey", torch.tensor(GREY_WEIGHTS).view(3, 1, 1))
        self.lab = RgbToLab()
        self.histogram = ColourHistogram()
        self.register_buffer("middle", torch.tensor([50.0, 0, 0]).view(3, 1, 1))
        self.register_buffer("spread", torch.tensor([50.0, 25, 25]).view(3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See :func:`build_builtin_graph`."""
        pixels = torch.floor(images * 255 + 0.5)
        # every term is an integer below 2²⁴, which is exact in float32
        grey = torch.floor(((pixels * self.grey).sum(1) + 32768) / 65536)
        edges = [edge(square(grey)) for edge, square in zip(self.edges, self.squares, strict=True)]
        colours = self.histogram(self.lab(self.colour_square(pixels)))
        small = (self.lab(self.thumbnail_square(pixels)) - self.middle) / self.spread
        thumbnail = normalize_tensor_rows(small.permute(0, 2, 3, 1).flatten(1), 1e-6)
        parts = [*edges, COLOUR_WEIGHT * colours, THUMBNAIL_WEIGHT * thumbnail]
        return normalize_tensor_rows(torch.cat(parts, 1), 1e-6)


class SquareResize(nn.Module):  # type: ignore[misc]
    """Pillow's bilinear ``resize`` of a square 8-bit image with ``reducing_gap``."""

    def __init__(self, side: int, target_side: int) -> None:
        super().__init__()
        self.is_identity = side == target_side
        factor = int(side / target_side / REDUCING_GAP) or 1
        cells = -(-side // factor)
        self.reduces = factor > 1
        mean = _mean_filter_weights(side, factor)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        weights = _triangle_weights(cells, side / factor, target_side)
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32))

    def forward(self, squares: torch.Tensor) -> torch.Tensor:
        """Resize (…, side, side) to (…, target_side, target_side); integer values, 0 to 255."""
        if self.is_identity:
            return squares
        if self.reduces:
            squares = torch.floor(self.mean @ squares @ self.mean.T + 0.5)
        wide = torch.floor(squares @ self.weights.T + 0.5)
        return torch.floor(self.weights @ wide + 0.5)


class EdgeFeatures(nn.Module):  # type: ignore[misc]
    """Edge strength per direction and cell; Fourier transforms are matrix products."""

    def __init__(self, side: int, grid: int) -> None:
        super().__init__()
        length = side + 2 * BORDER_PX
        phase_angles = np.outer(np.arange(length), np.arange(length)) * (2 * math.pi / length)
        self.register_buffer("cos", torch.tensor(np.cos(phase_angles), dtype=torch.float32))
        self.register_buffer("sin", torch.tensor(np.sin(phase_angles), dtype=torch.float32))
        filters = torch.tensor(gabor_filters(side)) / length**2
        self.register_buffer("filters", filters)
        self.register_buffer("cells", torch.tensor(triangular_windows(grid, side)))
        self.pad = nn.ReflectionPad2d(BORDER_PX)

    def forward(self, grey: torch.Tensor) -> torch.Tensor:
        """Convert grey (n, side, side), 0 to 255, to features (n, directions · grid²)."""
        pixels = self.pad(grey / 255)
        cosine, sine = self.cos @ pixels, self.sin @ pixels
        real = (cosine @ self.cos - sine @ self.sin)[:, None] * self.filters
        imaginary = -(cosine @ self.sin + sine @ self.cos)[:, None] * self.filters
        real, imaginary = self._inverse_transform(real, imaginary)
        edge = BORDER_PX
        strength = (real**2 + imaginary**2).sqrt()[:, :, edge:-edge, edge:-edge]
        return centre_and_normalize_rows((self.cells @ strength @ self.cells.T).sqrt().flatten(1))

    def _inverse_transform(
        self, real: torch.Tensor, imaginary: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Apply the inverse Fourier transform along both axes, without normalization."""
        for axis in (0, 1):
            c, s = self.cos, self.sin
            if axis:
                real, imaginary = real @ c - imaginary @ s, real @ s + imaginary @ c
            else:
                real, imaginary = c @ real - s @ imaginary, s @ real + c @ imaginary
        return real, imaginary


class RgbToLab(nn.Module):  # type: ignore[misc]
    """Convert sRGB to CIELAB, as skimage does."""

    def __init__(self) -> None:
        super().__init__()
        rows = np.array(RGB_TO_XYZ) / np.array(D65_WHITE)[:, None]
        self.register_buffer("rows", torch.tensor(rows, dtype=torch.float32))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Convert (n, 3, h, w), 0 to 255, to CIELAB (n, 3, h, w)."""
        colour = pixels / 255
        linear = torch.where(colour > 0.04045, ((colour + 0.055) / 1.055) ** 2.4, colour / 12.92)
        r, g, b = linear[:, 0], linear[:, 1], linear[:, 2]
        x, y, z = (row[0] * r + row[1] * g + row[2] * b for row in self.rows)
        x, y, z = (_lab_companding(part) for part in (x, y, z))
        return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


class ColourHistogram(nn.Module):  # type: ignore[misc]
    """Square-rooted colour histograms of the image and its centre."""

    def __init__(self) -> None:
        super().__init__()
        bins, low = np.array(COLOUR_BINS), np.array(COLOUR_LOW)
        width = (np.array(COLOUR_HIGH) - low) / bins
        steps = np.array([bins[1] * bins[2], bins[2], 1])
        for name, values in (("low", low), ("width", width), ("last", bins - 1), ("steps", steps)):
            column = torch.tensor(values, dtype=torch.float32).view(3, 1, 1)
            self.register_buffer(name, column)
        self.register_buffer("numbers", torch.arange(int(bins.prod()), dtype=torch.float32))

    def forward(self, lab: torch.Tensor) -> torch.Tensor:
        """Convert CIELAB (n, 3, h, w) to features (n, 2 · bins)."""
        bin_positions = torch.minimum(((lab - self.low) / self.width).clamp_min(0), self.last)
        bin_numbers = (torch.floor(bin_positions) * self.steps).sum(1)
        centre = bin_numbers[:, CENTRE_SLICE, CENTRE_SLICE]
        histograms = [self._root_frequencies(bin_numbers), self._root_frequencies(centre)]
        return centre_and_normalize_rows(torch.cat(histograms, 1))

    def _root_frequencies(self, bin_numbers: torch.Tensor) -> torch.Tensor:
        one_hot = (bin_numbers.flatten(1)[:, :, None] == self.numbers).to(torch.float32)
        return one_hot.mean(1).sqrt()


def centre_and_normalize_rows(rows: torch.Tensor) -> torch.Tensor:
    """Subtract the mean of each row of (n, d) and scale rows to unit length."""
    return normalize_tensor_rows(rows - rows.mean(1, keepdim=True), 1e-6)


def _lab_companding(part: torch.Tensor) -> torch.Tensor:
    return torch.where(part > 0.008856, part ** (1 / 3), 7.787 * part + 16 / 116)


def _mean_filter_weights(side: int, factor: int) -> Doubles:
    """Return the matrix of Pillow's ``reduce`` along one axis, (cells, side)."""
    rows = np.zeros((-(-side // factor), side))
    for i in range(len(rows)):
        part = slice(i * factor, min(side, (i + 1) * factor))
        rows[i, part] = 1 / (part.stop - part.start)
    return rows


def _triangle_weights(cells: int, length: float, target_side: int) -> Doubles:
    """Return the matrix of Pillow's bilinear resize of the first ``length`` cells to
    ``target_side`` pixels: (target_side, cells)."""
    scale = length / target_side
    support = max(scale, 1.0)
    rows = np.zeros((target_side, cells))
    for i in range(target_side):
        middle = (i + 0.5) * scale
        first, last = max(0, int(middle - support + 0.5)), min(cells, int(middle + support + 0.5))
        centre_distances = np.abs(np.arange(first, last) - middle + 0.5) / support
        rows[i, first:last] = np.maximum(0, 1 - centre_distances)
    return np.asarray(rows / rows.sum(axis=1, keepdims=True))
