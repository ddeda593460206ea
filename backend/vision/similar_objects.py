"""Find objects similar to drawn examples in the same image, without a model or weights.

Example and image are described by cells with edge directions and colours. The description is
whitened by the statistics of the image, so that frequent patterns count little (Hariharan, Malik
and Ramanan 2012, "Discriminative decorrelation for clustering and classification"). The whitened
example is matched at every position and at several scales by normalised cross-correlation in the
Fourier domain (Lewis 1995).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from backend.arrays import Doubles, Floats, Indices
from backend.vision.detection.detections import greedy_nms

if TYPE_CHECKING:
    from PIL import Image


MAX_EDGE_PX = 640
"""Longer edge in pixels that larger images are scaled down to."""
MAX_ENLARGED_EDGE_PX = 1000
"""Longer edge in pixels up to which an image is enlarged for small objects."""
CELL_PX = 4
TARGET_EXAMPLE_PX = 32
"""Side in pixels that an example is scaled to, so that run time is independent of its size."""
MIN_EXAMPLE_CELLS, MAX_EXAMPLE_CELLS = 2, 12
"""Limits along a side of the example."""
CONTEXT_CELLS = 1
"""Cells around the example that are part of its description."""
SCALE_STEP = 2**0.25
SCALE_EXPONENTS = range(-4, 5)
"""Matched sizes are the example's times powers of ``SCALE_STEP``: half to twice."""
MIN_EXAMPLE_PX = 6
"""A smaller example is described together with its surroundings."""
EDGE_DIRECTION_COUNT = 8
NEIGHBOUR_WEIGHTS = (0.2, 0.6, 0.2)
"""Smoothing weights of the previous, the same and the next cell, for edges."""
MIN_EDGE_STRENGTH = 2.0
"""Edges below this (CIELAB lightness per pixel) are treated as noise."""
COLOUR_WEIGHTS = (0.02, 0.05, 0.05)
"""Weights of lightness, green–red and blue–yellow relative to edges of strength 0 to 1."""
EDGE_STRENGTH_WEIGHT = 0.2
"""Weight of the logarithm of all edges of a cell."""
COVARIANCE_SHRINKAGE = 0.1
"""Share of the mean variance that is added to each variance before whitening."""
MIN_SIMILARITY = 0.15
"""Similarity below which a position is ignored, -1 to 1."""
SIMILAR_IOU_THRESHOLD, SIMILAR_CONTAINMENT_THRESHOLD = 0.3, 0.6
"""IoU, and share of the smaller box, above which two boxes are one object."""
SCALE_STEP_PENALTY = 0.02
"""Similarity penalty per scale step when two boxes compete."""
MIN_BEST_SIMILARITY = 0.6
"""Expected similarity of the best match; if it has less, all confidences are lower."""
MAX_EXAMPLES = 8
RARITY_WEIGHT, SCALE_WEIGHT, RELATIVE_SIMILARITY_WEIGHT, INTERCEPT = 0.53, -0.33, 8.2, -8.7
"""Coefficients of a logistic regression, see :func:`_confidence`."""
CANDIDATE_SIDES_PX = np.geomspace(10, 320, 16)
"""Object sizes in pixels that are tried around a point."""


@dataclass(frozen=True)
class SimilarObjects:
    """Objects similar to the examples, most confident first, without the examples.

    Attributes:
        boxes: (n, 4) float32 x0 y0 x1 y1, 0 to 1 of the upright image.
        confidence: (n,) float32, 0 to 1; suggest from 0.5 on. Of those, with one example and at an
            IoU of 0.3, 80 to 85 % were right on drawn fruit and shapes, all on playing cards, and
            20 % in crowded photos of everyday things, which vary too much in appearance.
    """

    boxes: Floats
    confidence: Floats


@dataclass(frozen=True)
class SimilarityPeaks:
    """Positions most similar to the examples, several per object.

    Attributes:
        boxes: (n, 4) as in :class:`SimilarObjects`.
        similarity: (n,) -1 to 1.
        scale_exponents: (n,) powers of ``SCALE_STEP``.
        similarity_spread: from the median to the upper sixth of all positions.
    """

    boxes: Floats
    similarity: Floats
    scale_exponents: Floats
    median_similarity: float
    similarity_spread: float


def find_similar_boxes(image: Image.Image, examples: Floats, *, limit: int = 100) -> SimilarObjects:
    """Find objects similar to the content of the example boxes.

    Args:
        image: upright, of any size.
        examples: (m, 4) x0 y0 x1 y1, 0 to 1; m at least 1, boxes of one label. The last
            ``MAX_EXAMPLES`` are used, and none of them is returned.

    Raises:
        ValueError: there is no example, or one without area.
    """
    examples = _validate_examples(examples)
    peaks = _find_peaks(_to_lab(image), examples[-MAX_EXAMPLES:])
    count = len(examples)
    boxes = np.concatenate([examples, peaks.boxes])
    scores = np.full(len(boxes), np.inf, dtype=np.float32)
    scores[count:] = peaks.similarity - SCALE_STEP_PENALTY * np.abs(peaks.scale_exponents)
    keep = greedy_nms(
        boxes, scores, SIMILAR_IOU_THRESHOLD, limit + count, SIMILAR_CONTAINMENT_THRESHOLD
    )
    keep = keep[keep >= count][:limit] - count
    confidence = _confidence(peaks, keep)
    best = np.argsort(-confidence, kind="stable")
    return SimilarObjects(peaks.boxes[keep[best]], confidence[best])


def find_similar_points(
    image: Image.Image, points: Floats, side: float | None = None, *, limit: int = 100
) -> SimilarObjects:
    """Find objects similar to the surroundings of the example points.

    Args:
        image: upright, of any size.
        points: (m, 2) x y, 0 to 1; m at least 1.
        side: of the objects, 0 to 1 of the image's longer edge; estimated if None.

    Returns:
        boxes centred at the objects, square in pixels before clipping. The estimated size is good
        where the colours of the objects differ from their surroundings, and bad for large patterned
        objects such as playing cards.

    Raises:
        ValueError: there is no point, or ``side`` is not above 0.
    """
    points = np.asarray(points, dtype=np.float32).reshape(-1, 2)
    if len(points) == 0 or (side is not None and not side > 0):
        raise ValueError("At least one point and a side above 0 are needed.")
    size = np.array(image.size, dtype=np.float32)
    if side is None:
        side = estimate_side_around(image, points)
    half = side * size.max() / size / 2
    return find_similar_boxes(image, np.concatenate([points - half, points + half], 1), limit=limit)


def estimate_side_around(image: Image.Image, points: Floats) -> float:
    """Return the side of the objects around points, 0 to 1 of the image's longer edge.

    The colours of a disc of that size differ most from the surrounding ring (Fisher's criterion).
    """
    lab = _to_lab(image)
    height, width = lab.shape[:2]
    max_side = max(CANDIDATE_SIDES_PX[0] + 1, max(height, width) / 1.5)
    sides = CANDIDATE_SIDES_PX[max_side > CANDIDATE_SIDES_PX]
    scores = np.zeros(len(sides))
    for x, y in np.clip(points, 0, 1) * (width, height):
        scores += [_disc_contrast(lab, float(x), float(y), float(side)) for side in sides]
    return float(sides[int(scores.argmax())] / max(height, width))


def _validate_examples(examples: Floats) -> Floats:
    boxes = np.clip(np.asarray(examples, dtype=np.float32).reshape(-1, 4), 0, 1)
    if len(boxes) == 0 or not np.all(boxes[:, 2:] > boxes[:, :2]):
        raise ValueError("At least one box is needed, and every box needs an area in the image.")
    return boxes


def _to_lab(image: Image.Image) -> Floats:
    """Return (height, width, 3) CIELAB, scaled down to a longer edge of at most ``MAX_EDGE_PX``."""
    from PIL import Image as Pillow
    from skimage.color import rgb2lab

    image = image.convert("RGB")
    share = min(1.0, MAX_EDGE_PX / max(image.size))
    if share < 1:
        size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
        image = image.resize(size, Pillow.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(rgb2lab(np.asarray(image, dtype=np.float32) / 255), dtype=np.float32)


def _find_peaks(lab: Floats, examples: Floats) -> SimilarityPeaks:
    """Return the positions and scales at which the image is most similar to the examples."""
    height, width = lab.shape[:2]
    pixels = examples * np.array([width, height] * 2, dtype=np.float32)
    side = np.median(pixels[:, 2:] - pixels[:, :2], axis=0)
    example_size = np.maximum(side, MIN_EXAMPLE_PX)
    zoom = min(1.0, TARGET_EXAMPLE_PX / float(np.sqrt(example_size.prod())))
    cells = np.rint(example_size * zoom / CELL_PX)
    cells = np.clip(cells, MIN_EXAMPLE_CELLS, MAX_EXAMPLE_CELLS).astype(int)
    levels = list(_image_pyramid(lab, cells * CELL_PX / example_size))
    mean, whiten = _fit_whitening([level.cells for level in levels])
    patterns = np.concatenate([_example_templates(lab, box, cells) for box in pixels])
    whitened = np.asarray((patterns - mean) @ whiten, dtype=np.float32)
    maps = [_similarity_map((level.cells - mean) @ whiten, whitened) for level in levels]
    all_similarities = np.concatenate([similarity_map.ravel() for similarity_map in maps])
    median, upper_quantile = np.quantile(all_similarities, [0.5, 5 / 6])
    spread = float(max(upper_quantile - median, 0.01))
    rows = [
        _find_level_peaks(level, similarity_map, patterns.shape[1:3], side / (width, height))
        for level, similarity_map in zip(levels, maps, strict=True)
    ]
    boxes, peak_similarity, steps = (np.concatenate(column) for column in zip(*rows, strict=True))
    return SimilarityPeaks(boxes, peak_similarity, steps, float(median), spread)


@dataclass(frozen=True)
class PyramidLevel:
    """The image at one scale, for objects of the example's size · SCALE_STEP^scale_exponent.

    ``size`` is (width, height) in pixels, ``cells`` (height, width, channels) float32.
    """

    scale_exponent: int
    size: tuple[int, int]
    cells: Floats


def _image_pyramid(lab: Floats, zoom: Doubles) -> Iterator[PyramidLevel]:
    """Yield the image at every scale for matching objects of a fixed size.

    ``zoom`` contains the x and y factors that scale the example to its size in cells.
    """
    height, width = lab.shape[:2]
    for step in SCALE_EXPONENTS:
        across, down = zoom / SCALE_STEP**step
        size = (max(CELL_PX, round(width * across)), max(CELL_PX, round(height * down)))
        if step >= 0 or max(size) <= MAX_ENLARGED_EDGE_PX:
            resized = _resize_planes(lab, (0, 0, width, height), size)
            yield PyramidLevel(step, size, _describe_cells(resized))


def _resize_planes(
    lab: Floats, box: tuple[float, float, float, float], size: tuple[int, int]
) -> Floats:
    """Resize a part of an image, x0 y0 x1 y1 in pixels, to a width and height."""
    from PIL import Image as Pillow

    planes = [
        Pillow.fromarray(plane).resize(size, Pillow.Resampling.BILINEAR, box=box)
        for plane in np.ascontiguousarray(np.moveaxis(lab, 2, 0))
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=2)


def _describe_cells(lab: Floats) -> Floats:
    """Describe cells by edges, colour and edge strength: (height, width, channels)."""
    from scipy.ndimage import convolve1d, uniform_filter

    down, across = np.gradient(lab[..., 0])
    strength = np.hypot(across, down)
    orientation_bin = np.arctan2(down, across) % np.pi * (EDGE_DIRECTION_COUNT / np.pi)
    lower_bin = np.floor(orientation_bin).astype(np.intp)
    upper_share = (orientation_bin - lower_bin)[..., None]
    edges = np.zeros((*strength.shape, EDGE_DIRECTION_COUNT), dtype=np.float32)
    for index, share in ((lower_bin, 1 - upper_share), (lower_bin + 1, upper_share)):
        index = (index % EDGE_DIRECTION_COUNT)[..., None]
        np.put_along_axis(edges, index, strength[..., None] * share, axis=2)
    edges = _average_cells(edges)
    for axis in (0, 1):  # an edge near the border of a cell counts for both cells
        edges = convolve1d(edges, NEIGHBOUR_WEIGHTS, axis)
    total = edges.sum(axis=2, keepdims=True)
    energy = np.sqrt(np.maximum(uniform_filter(total**2, (5, 5, 1)), 0)) + MIN_EDGE_STRENGTH
    colour = _average_cells(lab) * np.array(COLOUR_WEIGHTS, dtype=np.float32)
    rows = (np.sqrt(edges / energy), colour, EDGE_STRENGTH_WEIGHT * np.log1p(total))
    return np.asarray(np.concatenate(rows, axis=2), dtype=np.float32)


def _average_cells(pixels: Floats) -> Floats:
    """Average cells; incomplete ones at the right and bottom are left out."""
    height, width = (edge // CELL_PX for edge in pixels.shape[:2])
    cropped_pixels = pixels[: height * CELL_PX, : width * CELL_PX]
    return np.asarray(cropped_pixels.reshape(height, CELL_PX, width, CELL_PX, -1).mean(axis=(1, 3)))


def _fit_whitening(levels: list[Floats]) -> tuple[Floats, Floats]:
    """Return the mean (channels,) of all cells, and the matrix that decorrelates them."""
    rows = np.concatenate([level.reshape(-1, level.shape[2]) for level in levels])
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows - mean
    covariance = centred.T @ centred / len(rows)
    shrinkage = COVARIANCE_SHRINKAGE * np.trace(covariance) / len(mean) + 1e-6
    covariance += shrinkage * np.eye(len(mean))
    values, axes = np.linalg.eigh(covariance)
    return mean.astype(np.float32), (axes / np.sqrt(values)).astype(np.float32)


def _example_templates(lab: Floats, box: Floats, cells: npt.NDArray[np.int_]) -> Floats:
    """Return the example with its context, and its mirror image: (2, height, width, channels)."""
    margin = CONTEXT_CELLS + 2  # cells; the outer two only serve to compute edges at the border
    centre = (box[:2] + box[2:]) / 2
    side = np.maximum(box[2:] - box[:2], MIN_EXAMPLE_PX)
    half = side / 2 * (1 + 2 * margin / cells)
    padding = int(np.ceil(max(0, *(half - centre), *(centre + half - lab.shape[1::-1])))) + 1
    padded = np.pad(lab, ((padding, padding), (padding, padding), (0, 0)), mode="edge")
    (left, top), (right, bottom) = centre - half + padding, centre + half + padding
    across, down = ((cells + 2 * margin) * CELL_PX).tolist()
    resized = _resize_planes(padded, (left, top, right, bottom), (across, down))
    pattern = _describe_cells(resized)[2:-2, 2:-2]
    return np.stack([pattern, _mirror_pattern(pattern)])


def _mirror_pattern(pattern: Floats) -> Floats:
    """Flip a pattern horizontally; an edge of direction k becomes one of direction -k."""
    channels = np.arange(pattern.shape[2])
    channels[:EDGE_DIRECTION_COUNT] = -channels[:EDGE_DIRECTION_COUNT] % EDGE_DIRECTION_COUNT
    return pattern[:, ::-1, channels]


def _similarity_map(cells: npt.NDArray[np.floating], patterns: Floats) -> Floats:
    """Return the highest cosine of any pattern at each position, -1 to 1.

    Whitened cells (height, width, channels) and patterns (k, h, w, channels) give (height, width),
    1 larger where h or w is even. The image is padded with its border.
    """
    from scipy import fft

    height, width = patterns.shape[1:3]
    cells = np.pad(cells, ((height // 2,) * 2, (width // 2,) * 2, (0, 0)), mode="edge")
    rows, columns = cells.shape[0] - height + 1, cells.shape[1] - width + 1
    size = [fft.next_fast_len(edge, real=True) for edge in cells.shape[:2]]
    image_spectrum = fft.rfft2(cells, size, axes=(0, 1))
    template_spectra = fft.rfft2(patterns, size, axes=(1, 2)).conj()
    product = np.einsum("yxc,kyxc->kyx", image_spectrum, template_spectra)
    correlation = fft.irfft2(product, size, axes=(1, 2))[:, :rows, :columns]
    energy = _window_sums(np.square(cells).sum(axis=2), height, width)
    min_energy = 1e-3 * height * width * cells.shape[2]  # uniform areas match nothing
    template_norms = np.sqrt(np.maximum(np.square(patterns).sum(axis=(1, 2, 3)), min_energy))
    best = (correlation / template_norms[:, None, None]).max(axis=0)
    return np.asarray(best / np.sqrt(np.maximum(energy, min_energy)), dtype=np.float32)


def _window_sums(values: Floats, height: int, width: int) -> Floats:
    """Return the sums over all windows of a size."""
    from scipy.ndimage import uniform_filter

    means = uniform_filter(values, (height, width), mode="nearest")
    rows, columns = values.shape[0] - height + 1, values.shape[1] - width + 1
    top, left = height // 2, width // 2
    return np.asarray(means[top : top + rows, left : left + columns] * (height * width))


def _find_level_peaks(
    level: PyramidLevel, similarity_map: Floats, pattern: tuple[int, int], side: Doubles
) -> tuple[Floats, Floats, Floats]:
    """Return boxes, similarity and scale exponents of the local maxima of a similarity map."""
    from scipy.ndimage import maximum_filter

    is_peak = similarity_map == maximum_filter(similarity_map, 3)
    rows, columns = np.nonzero(is_peak & (similarity_map > MIN_SIMILARITY))
    corner = np.stack([columns, rows], axis=1) - np.array([pattern[1] // 2, pattern[0] // 2])
    centre = (corner + np.array([pattern[1] / 2, pattern[0] / 2])) * CELL_PX / np.array(level.size)
    half = side * SCALE_STEP**level.scale_exponent / 2
    boxes = np.clip(np.concatenate([centre - half, centre + half], axis=1), 0, 1)
    steps = np.full(len(rows), level.scale_exponent, dtype=np.float32)
    return boxes.astype(np.float32), similarity_map[rows, columns], steps


def _confidence(peaks: SimilarityPeaks, peak_indices: Indices) -> Floats:
    """Return the probability that each of k peaks is such an object: (k,) float32.

    A logistic regression on the rarity of the similarity in the image, on the scale difference, and
    on the similarity relative to the best peak. It is fitted to drawn fruit and shapes and to
    photos. The intercept is lower than fitted, as a wrong suggestion is worse than a missing one.
    """
    from scipy.special import expit

    similarity = peaks.similarity[peak_indices]
    best = similarity.max(initial=MIN_BEST_SIMILARITY)
    log_odds = (
        INTERCEPT
        + RARITY_WEIGHT * (similarity - peaks.median_similarity) / peaks.similarity_spread
        + SCALE_WEIGHT * np.abs(peaks.scale_exponents[peak_indices])
        + RELATIVE_SIMILARITY_WEIGHT * similarity / best
    )
    return np.asarray(expit(log_odds), dtype=np.float32)


def _disc_contrast(lab: Floats, x: float, y: float, side: float) -> float:
    """Return the contrast between a disc and the surrounding ring; x, y, side in pixels."""
    ring_radius = 0.75 * side
    left, top = max(0, int(x - ring_radius)), max(0, int(y - ring_radius))
    patch = lab[top : int(y + ring_radius) + 1, left : int(x + ring_radius) + 1]
    rows, columns = np.mgrid[: patch.shape[0], : patch.shape[1]]
    distance = np.hypot(columns + left + 0.5 - x, rows + top + 0.5 - y)
    disc = patch[distance <= side / 2]
    ring = patch[(distance > side / 2) & (distance <= ring_radius)]
    if len(disc) < 4 or len(ring) < 4:
        return 0.0
    mean_distance = np.square(disc.mean(axis=0) - ring.mean(axis=0)).sum()
    spread = disc.var(axis=0).sum() + ring.var(axis=0).sum()
    return float(mean_distance / (spread + MIN_EDGE_STRENGTH**2))
