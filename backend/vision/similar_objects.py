"""From one drawn box to the similar objects of the same picture, without any model or weights.

The example and the picture are described by cells: where edges run and which colours. The
description is whitened by the picture itself, so that what is everywhere in it counts little
(Hariharan, Malik and Ramanan 2012, "Discriminative decorrelation for clustering and
classification"). The whitened example is then looked for at every place and at several sizes, by
normalised cross-correlation through the Fourier transform (Lewis 1995).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from backend.arrays import Floats
from backend.vision.detection.detections import greedy_nms

if TYPE_CHECKING:
    from PIL import Image

Boxes = npt.NDArray[np.float32]
Points = npt.NDArray[np.float32]

MAX_EDGE_PX = 640
"""Pixels of the picture's longer edge; larger pictures are scaled down to it."""
MAX_ENLARGED_EDGE_PX = 1000
"""Pixels of the longer edge that small objects are looked for in, enlarged."""
CELL_PX = 4
"""Pixels."""
TARGET_EXAMPLE_PX = 32
"""Pixels that an example's side is scaled to, so that the size of objects costs no time."""
MIN_EXAMPLE_CELLS, MAX_EXAMPLE_CELLS = 2, 12
"""Along a side of the example."""
CONTEXT_CELLS = 1
"""Cells around the example that belong to its description: where it ends."""
SCALE_STEP = 2**0.25
SCALE_EXPONENTS = range(-4, 5)
"""Sizes looked for are the example's times powers of ``STEP``: half to twice."""
MIN_EXAMPLE_PX = 6
"""Pixels; a smaller example is described with what is around it."""
EDGE_DIRECTION_COUNT = 8
NEIGHBOUR_WEIGHTS = (0.2, 0.6, 0.2)
"""Shares of the cell before, of a cell itself and of the next one, for edges."""
MIN_EDGE_STRENGTH = 2.0
"""Edges weaker than this (CIELAB lightness per pixel) count as none."""
COLOUR_WEIGHTS = (0.02, 0.05, 0.05)
"""Weights of lightness, green–red and blue–yellow beside edges of strength 0–1."""
EDGE_STRENGTH_WEIGHT = 0.2
"""Weight of the logarithm of all edges of a cell."""
COVARIANCE_SHRINKAGE = 0.1
"""Share of the mean variance that is added to each variance before whitening."""
MIN_SIMILARITY = 0.15
"""Likeness below which nothing is looked at closer, -1 to 1."""
SIMILAR_IOU_THRESHOLD, SIMILAR_CONTAINMENT_THRESHOLD = 0.3, 0.6
"""IoU, and share of the smaller box, above which two boxes are one object."""
SCALE_STEP_PENALTY = 0.02
"""Likeness that a step of size costs where two boxes compete."""
MIN_BEST_SIMILARITY = 0.6
"""Likeness that the best suggestion should have; where it has less, all are in doubt."""
MAX_EXAMPLES = 8
RARITY_WEIGHT, SCALE_WEIGHT, RELATIVE_SIMILARITY_WEIGHT, INTERCEPT = 0.53, -0.33, 8.2, -8.7
"""Logistic regression of "is the same kind of object", see :func:`_confidence`."""
CANDIDATE_SIDES_PX = np.geomspace(10, 320, 16)
"""Pixels of the sizes that are tried around a point."""


@dataclass(frozen=True)
class SimilarObjects:
    """Objects that look like the examples, best first, without the examples.

    Attributes:
        boxes: (n, 4) float32 x0 y0 x1 y1, 0–1 of the upright image.
        confidence: (n,) float32, 0–1; suggest from 0.5 on. Of those, measured with one example at
            IoU 0.3, 80 to 85 % were right on drawn fruit and shapes, all on playing cards, and
            20 % in crowded photos of everyday things, which differ too much for this method.
    """

    boxes: Boxes
    confidence: Floats


@dataclass(frozen=True)
class SimilarityPeaks:
    """Places where the picture is most like the examples; n of them, several per object.

    Attributes:
        boxes: (n, 4) as in :class:`SimilarObjects`.
        similarity: (n,) -1 to 1.
        scale_exponents: (n,) powers of ``SCALE_STEP``.
        median_similarity: the likeness at half of all places.
        similarity_spread: from there to the likeness that a sixth of all places exceeds.
    """

    boxes: Boxes
    similarity: Floats
    scale_exponents: Floats
    median_similarity: float
    similarity_spread: float


def find_similar_boxes(image: Image.Image, examples: Boxes, *, limit: int = 100) -> SimilarObjects:
    """Look for what is in the boxes elsewhere in the picture.

    Args:
        image: upright, of any size.
        examples: (m, 4) x0 y0 x1 y1, 0–1; m at least 1, boxes of one label. The last
            ``MAX_EXAMPLES`` are used, and none of them comes back.
        limit: the most boxes.

    Raises:
        ValueError: there is no example, or one without area.
    """
    examples = _validate_examples(examples)
    peaks = _find_peaks(_to_lab(image), examples[-MAX_EXAMPLES:])
    example_count = len(examples)
    boxes = np.concatenate([examples, peaks.boxes])
    ranking_scores = np.full(len(boxes), np.inf, dtype=np.float32)
    ranking_scores[example_count:] = peaks.similarity - SCALE_STEP_PENALTY * np.abs(
        peaks.scale_exponents
    )
    keep = (
        greedy_nms(
            boxes,
            ranking_scores,
            SIMILAR_IOU_THRESHOLD,
            limit + example_count,
            SIMILAR_CONTAINMENT_THRESHOLD,
        )
        - example_count
    )
    keep = keep[keep >= 0][:limit]
    confidence = _confidence(peaks, keep)
    best = np.argsort(-confidence, kind="stable")
    return SimilarObjects(peaks.boxes[keep[best]], confidence[best])


def find_similar_points(
    image: Image.Image, points: Points, side: float | None = None, *, limit: int = 100
) -> SimilarObjects:
    """Look for what is around the points elsewhere in the picture.

    Args:
        image: upright, of any size.
        points: (m, 2) x y, 0–1; m at least 1.
        side: of the objects, 0–1 of the longer edge of the image; estimated when not given.
        limit: the most boxes.

    Returns:
        boxes with the objects in their centres, square in pixels before they are clipped. The size
        is estimated well where the colours of the objects differ from what is around them, and
        badly for large patterned things such as playing cards.

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


def estimate_side_around(image: Image.Image, points: Points) -> float:
    """The side of the objects around points, 0–1 of the longer edge of the image.

    Of several discs around a point, the object is the one whose colours differ most from those of
    the ring around it, in units of their spread (Fisher's criterion).
    """
    lab = _to_lab(image)
    height, width = lab.shape[:2]
    sides = CANDIDATE_SIDES_PX[
        max(CANDIDATE_SIDES_PX[0] + 1, max(height, width) / 1.5) > CANDIDATE_SIDES_PX
    ]
    scores = np.zeros(len(sides))
    for x, y in np.clip(points, 0, 1) * (width, height):
        scores += [_disc_contrast(lab, float(x), float(y), float(side)) for side in sides]
    return float(sides[int(scores.argmax())] / max(height, width))


def _validate_examples(examples: Boxes) -> Boxes:
    boxes = np.clip(np.asarray(examples, dtype=np.float32).reshape(-1, 4), 0, 1)
    if len(boxes) == 0 or not np.all(boxes[:, 2:] > boxes[:, :2]):
        raise ValueError("At least one box is needed, and every box needs an area in the picture.")
    return boxes


def _to_lab(image: Image.Image) -> Floats:
    """(height, width, 3) CIELAB, scaled down so that the longer edge is at most ``MAX_EDGE_PX``."""
    from PIL import Image as Pillow
    from skimage.color import rgb2lab

    image = image.convert("RGB")
    share = min(1.0, MAX_EDGE_PX / max(image.size))
    if share < 1:
        size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
        image = image.resize(size, Pillow.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(rgb2lab(np.asarray(image, dtype=np.float32) / 255), dtype=np.float32)


def _find_peaks(lab: Floats, examples: Boxes) -> SimilarityPeaks:
    """Where, and at which size, the picture is most like the examples."""
    height, width = lab.shape[:2]
    pixels = examples * np.array([width, height] * 2, dtype=np.float32)
    side = np.median(pixels[:, 2:] - pixels[:, :2], axis=0)
    example_size = np.maximum(side, MIN_EXAMPLE_PX)
    zoom = min(1.0, TARGET_EXAMPLE_PX / float(np.sqrt(example_size.prod())))
    cells = np.clip(
        np.rint(example_size * zoom / CELL_PX), MIN_EXAMPLE_CELLS, MAX_EXAMPLE_CELLS
    ).astype(int)
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
    """The picture at one size.

    Attributes:
        scale_exponent: power of ``SCALE_STEP``: the size of the objects that are looked for in it.
        size: width and height, pixels.
        cells: (height, width, channels) float32.
    """

    scale_exponent: int
    size: tuple[int, int]
    cells: Floats


def _image_pyramid(lab: Floats, zoom: npt.NDArray[np.float64]) -> Iterator[PyramidLevel]:
    """The picture at every size in which it can be looked for objects of a fixed size.

    Args:
        lab: the picture.
        zoom: across and down, that makes an object as large as the example as large as its cells.
    """
    height, width = lab.shape[:2]
    for step in SCALE_EXPONENTS:
        across, down = zoom / SCALE_STEP**step
        size = (max(CELL_PX, round(width * across)), max(CELL_PX, round(height * down)))
        if step >= 0 or max(size) <= MAX_ENLARGED_EDGE_PX:
            yield PyramidLevel(
                step, size, _describe_cells(_resize_planes(lab, (0, 0, width, height), size))
            )


def _resize_planes(
    lab: Floats, box: tuple[float, float, float, float], size: tuple[int, int]
) -> Floats:
    """A part of a picture, x0 y0 x1 y1 in pixels, at another size: width and height."""
    from PIL import Image as Pillow

    planes = [
        Pillow.fromarray(plane).resize(size, Pillow.Resampling.BILINEAR, box=box)
        for plane in np.ascontiguousarray(np.moveaxis(lab, 2, 0))
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=2)


def _describe_cells(lab: Floats) -> Floats:
    """Edges by direction, colour, and how much of edges there is: (height, width, channels)."""
    from scipy.ndimage import convolve1d, uniform_filter

    down, across = np.gradient(lab[..., 0])
    strength = np.hypot(across, down)
    orientation_bin = np.arctan2(down, across) % np.pi * (EDGE_DIRECTION_COUNT / np.pi)
    lower_bin = np.floor(orientation_bin).astype(np.intp)
    upper_share = (orientation_bin - lower_bin)[..., None]
    edges = np.zeros((*strength.shape, EDGE_DIRECTION_COUNT), dtype=np.float32)
    for bin_index, bin_share in ((lower_bin, 1 - upper_share), (lower_bin + 1, upper_share)):
        np.put_along_axis(
            edges,
            (bin_index % EDGE_DIRECTION_COUNT)[..., None],
            strength[..., None] * bin_share,
            axis=2,
        )
    edges = _average_cells(edges)
    for axis in (0, 1):  # an edge near the border of a cell belongs to both, wherever cells begin
        edges = convolve1d(edges, NEIGHBOUR_WEIGHTS, axis)
    total_strength = edges.sum(axis=2, keepdims=True)
    local_energy = (
        np.sqrt(np.maximum(uniform_filter(total_strength**2, (5, 5, 1)), 0)) + MIN_EDGE_STRENGTH
    )
    colour = _average_cells(lab) * np.array(COLOUR_WEIGHTS, dtype=np.float32)
    rows = (np.sqrt(edges / local_energy), colour, EDGE_STRENGTH_WEIGHT * np.log1p(total_strength))
    return np.asarray(np.concatenate(rows, axis=2), dtype=np.float32)


def _average_cells(pixels: Floats) -> Floats:
    """What does not fill a cell at the right and at the bottom is left out."""
    height, width = (edge // CELL_PX for edge in pixels.shape[:2])
    cropped_pixels = pixels[: height * CELL_PX, : width * CELL_PX]
    return np.asarray(cropped_pixels.reshape(height, CELL_PX, width, CELL_PX, -1).mean(axis=(1, 3)))


def _fit_whitening(levels: list[Floats]) -> tuple[Floats, Floats]:
    """Mean (channels,) of all cells, and the matrix that makes them uncorrelated."""
    rows = np.concatenate([level.reshape(-1, level.shape[2]) for level in levels])
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows - mean
    covariance = centred.T @ centred / len(rows)
    covariance += (COVARIANCE_SHRINKAGE * np.trace(covariance) / len(mean) + 1e-6) * np.eye(
        len(mean)
    )
    values, axes = np.linalg.eigh(covariance)
    return mean.astype(np.float32), (axes / np.sqrt(values)).astype(np.float32)


def _example_templates(lab: Floats, box: Floats, cells: npt.NDArray[np.int_]) -> Floats:
    """The example with its ring, and its mirror image: (2, height, width, channels)."""
    margin = CONTEXT_CELLS + 2  # cells; the outer two only so that edges are known up to the border
    centre = (box[:2] + box[2:]) / 2
    side = np.maximum(box[2:] - box[:2], MIN_EXAMPLE_PX)
    half = side / 2 * (1 + 2 * margin / cells)
    padding = int(np.ceil(max(0, *(half - centre), *(centre + half - lab.shape[1::-1])))) + 1
    padded = np.pad(lab, ((padding, padding), (padding, padding), (0, 0)), mode="edge")
    (left, top), (right, bottom) = centre - half + padding, centre + half + padding
    across, down = ((cells + 2 * margin) * CELL_PX).tolist()
    pattern = _describe_cells(_resize_planes(padded, (left, top, right, bottom), (across, down)))[
        2:-2, 2:-2
    ]
    return np.stack([pattern, _mirror_pattern(pattern)])


def _mirror_pattern(pattern: Floats) -> Floats:
    """Left and right changed: an edge of direction k becomes one of direction -k."""
    mirrored_channels = np.arange(pattern.shape[2])
    mirrored_channels[:EDGE_DIRECTION_COUNT] = (
        -mirrored_channels[:EDGE_DIRECTION_COUNT] % EDGE_DIRECTION_COUNT
    )
    return pattern[:, ::-1, mirrored_channels]


def _similarity_map(cells: npt.NDArray[np.floating], patterns: Floats) -> Floats:
    """The best cosine of any pattern with its centre at each place, -1 to 1.

    Args:
        cells: (height, width, channels), whitened.
        patterns: (k, h, w, channels), whitened.

    Returns:
        (height, width), 1 larger where h or w is even. Beyond the border lies the border again.
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
    min_energy = 1e-3 * height * width * cells.shape[2]  # an even area is like nothing
    template_norms = np.sqrt(np.maximum(np.square(patterns).sum(axis=(1, 2, 3)), min_energy))
    best = (correlation / template_norms[:, None, None]).max(axis=0)
    return np.asarray(best / np.sqrt(np.maximum(energy, min_energy)), dtype=np.float32)


def _window_sums(values: Floats, height: int, width: int) -> Floats:
    """Sums over all windows of a size: (height - high + 1, width - wide + 1)."""
    from scipy.ndimage import uniform_filter

    means = uniform_filter(values, (height, width), mode="nearest")
    rows, columns = values.shape[0] - height + 1, values.shape[1] - width + 1
    top, left = height // 2, width // 2
    return np.asarray(means[top : top + rows, left : left + columns] * (height * width))


def _find_level_peaks(
    level: PyramidLevel,
    similarity_map: Floats,
    pattern: tuple[int, int],
    side: npt.NDArray[np.float64],
) -> tuple[Boxes, Floats, Floats]:
    """Boxes, likeness and step of the places that are more like the example than those around."""
    from scipy.ndimage import maximum_filter

    rows, columns = np.nonzero(
        (similarity_map == maximum_filter(similarity_map, 3)) & (similarity_map > MIN_SIMILARITY)
    )
    corner = np.stack([columns, rows], axis=1) - np.array([pattern[1] // 2, pattern[0] // 2])
    centre = (corner + np.array([pattern[1] / 2, pattern[0] / 2])) * CELL_PX / np.array(level.size)
    half = side * SCALE_STEP**level.scale_exponent / 2
    boxes = np.clip(np.concatenate([centre - half, centre + half], axis=1), 0, 1)
    steps = np.full(len(rows), level.scale_exponent, dtype=np.float32)
    return boxes.astype(np.float32), similarity_map[rows, columns], steps


def _confidence(peaks: SimilarityPeaks, peak_indices: npt.NDArray[np.intp]) -> Floats:
    """Chance that each of some peaks is such an object: (k,) float32, 0–1.

    A logistic regression on how rare it is in the picture to be so like the example, on how far
    the size is off, and on how like each is beside the best of them. It is fitted to drawn fruit
    and shapes and to photos; the offset is lower than fitted, as a wrong suggestion annoys more
    than a missing one.
    """
    from scipy.special import expit

    peak_similarity = peaks.similarity[peak_indices]
    log_odds = (
        INTERCEPT
        + RARITY_WEIGHT * (peak_similarity - peaks.median_similarity) / peaks.similarity_spread
        + SCALE_WEIGHT * np.abs(peaks.scale_exponents[peak_indices])
        + RELATIVE_SIMILARITY_WEIGHT
        * peak_similarity
        / peak_similarity.max(initial=MIN_BEST_SIMILARITY)
    )
    return np.asarray(expit(log_odds), dtype=np.float32)


def _disc_contrast(lab: Floats, x: float, y: float, side: float) -> float:
    """How much a disc around a place differs from the ring around it; x, y, side in pixels."""
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
