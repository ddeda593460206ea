"""Find objects similar to drawn examples in the same image by template matching, without weights.

Features are edge orientations and colours of cells, whitened with the statistics of the image to
reduce the weight of frequent patterns (Hariharan, Malik and Ramanan 2012, "Discriminative
decorrelation for clustering and classification"). Examples are matched at all positions and several
scales by normalized cross-correlation in the Fourier domain (Lewis 1995).
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
"""Maximum longer edge in pixels; larger images are downscaled."""
MAX_ENLARGED_EDGE_PX = 1000
"""Maximum longer edge in pixels when upscaling an image to match small objects."""
CELL_PX = 4
TARGET_EXAMPLE_PX = 32
"""Side in pixels to which larger examples are downscaled, to limit run time."""
MIN_EXAMPLE_CELLS, MAX_EXAMPLE_CELLS = 2, 12
"""Bounds of the cells per side of an example."""
CONTEXT_CELLS = 1
"""Cells around the example that are included in the template."""
SCALE_STEP = 2**0.25
SCALE_EXPONENTS = range(-4, 5)
"""Powers of ``SCALE_STEP``: object sizes from half to twice that of the example."""
MIN_EXAMPLE_PX = 6
"""Minimum side of an example; smaller examples are extended into their surroundings."""
EDGE_DIRECTION_COUNT = 8
NEIGHBOUR_WEIGHTS = (0.2, 0.6, 0.2)
"""Kernel that smooths edge features over adjacent cells."""
MIN_EDGE_STRENGTH = 2.0
"""Edge strength, in CIELAB lightness per pixel, below which edges are attenuated as noise."""
COLOUR_WEIGHTS = (0.02, 0.05, 0.05)
"""Weights of the CIELAB channels L, a and b relative to edge features, which are 0 to 1."""
EDGE_STRENGTH_WEIGHT = 0.2
"""Weight of the log of the total edge strength of a cell."""
COVARIANCE_SHRINKAGE = 0.1
"""Fraction of the mean variance that is added to each variance before whitening."""
MIN_SIMILARITY = 0.15
"""Similarity, -1 to 1, below which a position is ignored."""
SIMILAR_IOU_THRESHOLD, SIMILAR_CONTAINMENT_THRESHOLD = 0.3, 0.6
"""IoU, and intersection / smaller area, above which the less similar of two boxes is dropped."""
SCALE_STEP_PENALTY = 0.02
"""Penalty per scale step that is subtracted from the similarity in NMS."""
MIN_BEST_SIMILARITY = 0.6
"""Minimum reference for relative similarity; a weaker best match lowers all confidences."""
MAX_EXAMPLES = 8
RARITY_WEIGHT, SCALE_WEIGHT, RELATIVE_SIMILARITY_WEIGHT, INTERCEPT = 0.53, -0.33, 8.2, -8.7
"""Coefficients of a logistic regression, see :func:`_confidence`."""
CANDIDATE_SIDES_PX = np.geomspace(10, 320, 16)
"""Candidate object sizes in pixels around a point."""


@dataclass(frozen=True)
class SimilarObjects:
    """Objects similar to the examples, which are excluded; most confident first.

    Attributes:
        boxes: (n, 4) float32 x0 y0 x1 y1, 0 to 1 of the upright image.
        confidence: (n,) float32, 0 to 1. At a threshold of 0.5, with one example and an IoU of 0.3,
            precision was 80 to 85 % on drawn fruit and shapes, 100 % on playing cards, and 20 % on
            crowded photos of everyday objects, whose appearance varies too much.
    """

    boxes: Floats
    confidence: Floats


@dataclass(frozen=True)
class SimilarityPeaks:
    """Local maxima of the similarity, several per object.

    Attributes:
        boxes: (n, 4) as in :class:`SimilarObjects`.
        similarity: (n,) -1 to 1.
        scale_exponents: (n,) exponents of ``SCALE_STEP``.
        median_similarity: median over all positions and scales.
        similarity_spread: 5/6 quantile minus median, at least 0.01.
    """

    boxes: Floats
    similarity: Floats
    scale_exponents: Floats
    median_similarity: float
    similarity_spread: float


def find_similar_boxes(image: Image.Image, examples: Floats, *, limit: int = 100) -> SimilarObjects:
    """Find objects similar to example boxes.

    Args:
        image: upright, of any size.
        examples: (m, 4) x0 y0 x1 y1, 0 to 1, boxes of one label, m ≥ 1; only the last
            ``MAX_EXAMPLES`` are matched.
        limit: maximum number of objects.

    Raises:
        ValueError: there is no example, or an example has no area.
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
    """Find objects similar to those at example points.

    Args:
        image: upright, of any size.
        points: (m, 2) x y, 0 to 1; m ≥ 1.
        side: object size, 0 to 1 of the image's longer edge; None to estimate it, which works if
            objects differ in colour from their surroundings, but not for large patterned objects
            such as playing cards.
        limit: maximum number of objects.

    Returns:
        boxes that are square in pixels before clipping.

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
    """Estimate the size of the objects at points, 0 to 1 of the image's longer edge.

    Maximizes the colour contrast of a disc with the surrounding ring (Fisher's criterion).
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
    """Convert to CIELAB, (height, width, 3), with a longer edge of at most ``MAX_EDGE_PX``."""
    from PIL import Image as Pillow
    from skimage.color import rgb2lab

    image = image.convert("RGB")
    share = min(1.0, MAX_EDGE_PX / max(image.size))
    if share < 1:
        size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
        image = image.resize(size, Pillow.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(rgb2lab(np.asarray(image, dtype=np.float32) / 255), dtype=np.float32)


def _find_peaks(lab: Floats, examples: Floats) -> SimilarityPeaks:
    """Match the examples at all positions and scales, and return the local maxima."""
    height, width = lab.shape[:2]
    pixels = examples * np.array([width, height] * 2, dtype=np.float32)
    side = np.median(pixels[:, 2:] - pixels[:, :2], axis=0)
    example_size = np.maximum(side, MIN_EXAMPLE_PX)
    zoom = min(1.0, TARGET_EXAMPLE_PX / float(np.sqrt(example_size.prod())))
    cells = np.rint(example_size * zoom / CELL_PX)
    cells = np.clip(cells, MIN_EXAMPLE_CELLS, MAX_EXAMPLE_CELLS).astype(int)
    levels = list(_image_pyramid(lab, cells * CELL_PX / example_size))
    mean, whiten = _fit_whitening([level.cells for level in levels])
    templates = np.concatenate([_example_templates(lab, box, cells) for box in pixels])
    whitened = np.asarray((templates - mean) @ whiten, dtype=np.float32)
    maps = [_similarity_map((level.cells - mean) @ whiten, whitened) for level in levels]
    all_similarities = np.concatenate([similarity_map.ravel() for similarity_map in maps])
    median, upper_quantile = np.quantile(all_similarities, [0.5, 5 / 6])
    spread = float(max(upper_quantile - median, 0.01))
    rows = [
        _find_level_peaks(level, similarity_map, templates.shape[1:3], side / (width, height))
        for level, similarity_map in zip(levels, maps, strict=True)
    ]
    boxes, peak_similarity, steps = (np.concatenate(column) for column in zip(*rows, strict=True))
    return SimilarityPeaks(boxes, peak_similarity, steps, float(median), spread)


@dataclass(frozen=True)
class PyramidLevel:
    """The image at one scale, to match objects of the example's size · SCALE_STEP^scale_exponent.

    ``size`` is (width, height) in pixels; ``cells`` are (height, width, channels) float32 features.
    """

    scale_exponent: int
    size: tuple[int, int]
    cells: Floats


def _image_pyramid(lab: Floats, zoom: Doubles) -> Iterator[PyramidLevel]:
    """Yield the image at every scale; ``zoom`` is the x and y scale at exponent 0."""
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
    """Resize the region ``box``, x0 y0 x1 y1 in pixels, to (width, height)."""
    from PIL import Image as Pillow

    planes = [
        Pillow.fromarray(plane).resize(size, Pillow.Resampling.BILINEAR, box=box)
        for plane in np.ascontiguousarray(np.moveaxis(lab, 2, 0))
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=2)


def _describe_cells(lab: Floats) -> Floats:
    """Compute edge, colour and edge-strength features of cells: (height, width, channels)."""
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
    for axis in (0, 1):  # tolerate edges that shift to the next cell
        edges = convolve1d(edges, NEIGHBOUR_WEIGHTS, axis)
    total = edges.sum(axis=2, keepdims=True)
    energy = np.sqrt(np.maximum(uniform_filter(total**2, (5, 5, 1)), 0)) + MIN_EDGE_STRENGTH
    colour = _average_cells(lab) * np.array(COLOUR_WEIGHTS, dtype=np.float32)
    rows = (np.sqrt(edges / energy), colour, EDGE_STRENGTH_WEIGHT * np.log1p(total))
    return np.asarray(np.concatenate(rows, axis=2), dtype=np.float32)


def _average_cells(pixels: Floats) -> Floats:
    """Average pixels over cells; incomplete cells at the right and bottom are dropped."""
    height, width = (edge // CELL_PX for edge in pixels.shape[:2])
    cropped_pixels = pixels[: height * CELL_PX, : width * CELL_PX]
    return np.asarray(cropped_pixels.reshape(height, CELL_PX, width, CELL_PX, -1).mean(axis=(1, 3)))


def _fit_whitening(levels: list[Floats]) -> tuple[Floats, Floats]:
    """Return the mean (channels,) of all cells and the whitening matrix (channels, channels)."""
    rows = np.concatenate([level.reshape(-1, level.shape[2]) for level in levels])
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows - mean
    covariance = centred.T @ centred / len(rows)
    shrinkage = COVARIANCE_SHRINKAGE * np.trace(covariance) / len(mean) + 1e-6
    covariance += shrinkage * np.eye(len(mean))
    values, axes = np.linalg.eigh(covariance)
    return mean.astype(np.float32), (axes / np.sqrt(values)).astype(np.float32)


def _example_templates(lab: Floats, box: Floats, cells: npt.NDArray[np.int_]) -> Floats:
    """Return templates of the example and its mirror image: (2, height, width, channels)."""
    margin = CONTEXT_CELLS + 2  # cells; the outer two are cropped after the edge filters
    centre = (box[:2] + box[2:]) / 2
    side = np.maximum(box[2:] - box[:2], MIN_EXAMPLE_PX)
    half = side / 2 * (1 + 2 * margin / cells)
    padding = int(np.ceil(max(0, *(half - centre), *(centre + half - lab.shape[1::-1])))) + 1
    padded = np.pad(lab, ((padding, padding), (padding, padding), (0, 0)), mode="edge")
    (left, top), (right, bottom) = centre - half + padding, centre + half + padding
    across, down = ((cells + 2 * margin) * CELL_PX).tolist()
    resized = _resize_planes(padded, (left, top, right, bottom), (across, down))
    template = _describe_cells(resized)[2:-2, 2:-2]
    return np.stack([template, _mirror_template(template)])


def _mirror_template(template: Floats) -> Floats:
    """Flip a template horizontally, which maps edge orientation k to -k."""
    channels = np.arange(template.shape[2])
    channels[:EDGE_DIRECTION_COUNT] = -channels[:EDGE_DIRECTION_COUNT] % EDGE_DIRECTION_COUNT
    return template[:, ::-1, channels]


def _similarity_map(cells: npt.NDArray[np.floating], templates: Floats) -> Floats:
    """Return the maximum cosine similarity over all templates at each position, -1 to 1.

    The whitened cells are (height, width, channels), the whitened templates (k, h, w, channels),
    and the result is (height, width), one larger along an axis where h or w is even.
    """
    from scipy import fft

    height, width = templates.shape[1:3]
    cells = np.pad(cells, ((height // 2,) * 2, (width // 2,) * 2, (0, 0)), mode="edge")
    rows, columns = cells.shape[0] - height + 1, cells.shape[1] - width + 1
    size = [fft.next_fast_len(edge, real=True) for edge in cells.shape[:2]]
    image_spectrum = fft.rfft2(cells, size, axes=(0, 1))
    template_spectra = fft.rfft2(templates, size, axes=(1, 2)).conj()
    product = np.einsum("yxc,kyxc->kyx", image_spectrum, template_spectra)
    correlation = fft.irfft2(product, size, axes=(1, 2))[:, :rows, :columns]
    energy = _window_sums(np.square(cells).sum(axis=2), height, width)
    min_energy = 1e-3 * height * width * cells.shape[2]  # uniform areas match nothing
    template_norms = np.sqrt(np.maximum(np.square(templates).sum(axis=(1, 2, 3)), min_energy))
    best = (correlation / template_norms[:, None, None]).max(axis=0)
    return np.asarray(best / np.sqrt(np.maximum(energy, min_energy)), dtype=np.float32)


def _window_sums(values: Floats, height: int, width: int) -> Floats:
    """Return the sums over all windows of (height, width)."""
    from scipy.ndimage import uniform_filter

    means = uniform_filter(values, (height, width), mode="nearest")
    rows, columns = values.shape[0] - height + 1, values.shape[1] - width + 1
    top, left = height // 2, width // 2
    return np.asarray(means[top : top + rows, left : left + columns] * (height * width))


def _find_level_peaks(
    level: PyramidLevel, similarity_map: Floats, template_shape: tuple[int, int], side: Doubles
) -> tuple[Floats, Floats, Floats]:
    """Return boxes, similarity and scale exponents of the local maxima of a similarity map."""
    from scipy.ndimage import maximum_filter

    is_peak = similarity_map == maximum_filter(similarity_map, 3)
    rows, columns = np.nonzero(is_peak & (similarity_map > MIN_SIMILARITY))
    height, width = template_shape
    corner = np.stack([columns, rows], axis=1) - np.array([width // 2, height // 2])
    centre = (corner + np.array([width / 2, height / 2])) * CELL_PX / np.array(level.size)
    half = side * SCALE_STEP**level.scale_exponent / 2
    boxes = np.clip(np.concatenate([centre - half, centre + half], axis=1), 0, 1)
    steps = np.full(len(rows), level.scale_exponent, dtype=np.float32)
    return boxes.astype(np.float32), similarity_map[rows, columns], steps


def _confidence(peaks: SimilarityPeaks, peak_indices: Indices) -> Floats:
    """Return the probability that each peak is a similar object: (k,) float32.

    This is a logistic regression on the standardized similarity, the scale difference and the
    similarity relative to the best peak, fitted on drawn fruit and shapes and on photos. The
    intercept is lower than fitted, because a false positive is worse than a false negative.
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
