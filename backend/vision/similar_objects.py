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
from backend.vision.detection.detections import best_apart

if TYPE_CHECKING:
    from PIL import Image

Boxes = npt.NDArray[np.float32]
Points = npt.NDArray[np.float32]

LONGEST = 640
"""Pixels of the picture's longer edge; larger pictures are scaled down to it."""
LARGEST = 1000
"""Pixels of the longer edge that small objects are looked for in, enlarged."""
CELL = 4
"""Pixels."""
GOAL = 32
"""Pixels that an example's side is scaled to, so that the size of objects costs no time."""
FEWEST_CELLS, MOST_CELLS = 2, 12
"""Along a side of the example."""
RING = 1
"""Cells around the example that belong to its description: where it ends."""
STEP = 2**0.25
STEPS = range(-4, 5)
"""Sizes looked for are the example's times powers of ``STEP``: half to twice."""
SMALLEST = 6
"""Pixels; a smaller example is described with what is around it."""
DIRECTIONS = 8
NEIGHBOURS = (0.2, 0.6, 0.2)
"""Shares of the cell before, of a cell itself and of the next one, for edges."""
FLAT = 2.0
"""Edges weaker than this (CIELAB lightness per pixel) count as none."""
COLOUR = (0.02, 0.05, 0.05)
"""Weights of lightness, green–red and blue–yellow beside edges of strength 0–1."""
STRENGTH = 0.2
"""Weight of the logarithm of all edges of a cell."""
SHRINK = 0.1
"""Share of the mean variance that is added to each variance before whitening."""
FAINT = 0.15
"""Likeness below which nothing is looked at closer, -1 to 1."""
OVERLAP, INSIDE = 0.3, 0.6
"""IoU, and share of the smaller box, above which two boxes are one object."""
SIZE_DOUBT = 0.02
"""Likeness that a step of size costs where two boxes compete."""
POOR_BEST = 0.6
"""Likeness that the best suggestion should have; where it has less, all are in doubt."""
MOST_EXAMPLES = 8
RARITY, RESIZED, BESIDE_BEST, OFFSET = 0.53, -0.33, 8.2, -8.7
"""Logistic regression of "is the same kind of object", see :func:`_confidence`."""
SIDES = np.geomspace(10, 320, 16)
"""Pixels of the sizes that are tried around a point."""


@dataclass(frozen=True)
class Similar:
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
class Peaks:
    """Places where the picture is most like the examples; n of them, several per object.

    Attributes:
        boxes: (n, 4) as in :class:`Similar`.
        likeness: (n,) -1 to 1.
        steps: (n,) powers of ``STEP``.
        usual: the likeness at half of all places.
        spread: from there to the likeness that a sixth of all places exceeds.
    """

    boxes: Boxes
    likeness: Floats
    steps: Floats
    usual: float
    spread: float


def similar_boxes(image: Image.Image, examples: Boxes, *, limit: int = 100) -> Similar:
    """Look for what is in the boxes elsewhere in the picture.

    Args:
        image: upright, of any size.
        examples: (m, 4) x0 y0 x1 y1, 0–1; m at least 1, boxes of one label. The last
            ``MOST_EXAMPLES`` are used, and none of them comes back.
        limit: the most boxes.

    Raises:
        ValueError: there is no example, or one without area.
    """
    examples = _checked(examples)
    peaks = _peaks(_lab(image), examples[-MOST_EXAMPLES:])
    known = len(examples)
    boxes = np.concatenate([examples, peaks.boxes])
    order = np.full(len(boxes), np.inf, dtype=np.float32)
    order[known:] = peaks.likeness - SIZE_DOUBT * np.abs(peaks.steps)
    kept = best_apart(boxes, order, OVERLAP, limit + known, INSIDE) - known
    kept = kept[kept >= 0][:limit]
    confidence = _confidence(peaks, kept)
    best = np.argsort(-confidence, kind="stable")
    return Similar(peaks.boxes[kept[best]], confidence[best])


def similar_points(
    image: Image.Image, points: Points, side: float | None = None, *, limit: int = 100
) -> Similar:
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
        side = side_around(image, points)
    half = side * size.max() / size / 2
    return similar_boxes(image, np.concatenate([points - half, points + half], 1), limit=limit)


def side_around(image: Image.Image, points: Points) -> float:
    """The side of the objects around points, 0–1 of the longer edge of the image.

    Of several discs around a point, the object is the one whose colours differ most from those of
    the ring around it, in units of their spread (Fisher's criterion).
    """
    lab = _lab(image)
    high, wide = lab.shape[:2]
    sides = SIDES[max(SIDES[0] + 1, max(high, wide) / 1.5) > SIDES]
    scores = np.zeros(len(sides))
    for x, y in np.clip(points, 0, 1) * (wide, high):
        scores += [_stands_out(lab, float(x), float(y), float(side)) for side in sides]
    return float(sides[int(scores.argmax())] / max(high, wide))


def _checked(examples: Boxes) -> Boxes:
    boxes = np.clip(np.asarray(examples, dtype=np.float32).reshape(-1, 4), 0, 1)
    if len(boxes) == 0 or not np.all(boxes[:, 2:] > boxes[:, :2]):
        raise ValueError("At least one box is needed, and every box needs an area in the picture.")
    return boxes


def _lab(image: Image.Image) -> Floats:
    """(height, width, 3) CIELAB, scaled down so that the longer edge is at most ``LONGEST``."""
    from PIL import Image as Pillow
    from skimage.color import rgb2lab

    image = image.convert("RGB")
    share = min(1.0, LONGEST / max(image.size))
    if share < 1:
        size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
        image = image.resize(size, Pillow.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(rgb2lab(np.asarray(image, dtype=np.float32) / 255), dtype=np.float32)


def _peaks(lab: Floats, examples: Boxes) -> Peaks:
    """Where, and at which size, the picture is most like the examples."""
    high, wide = lab.shape[:2]
    pixels = examples * np.array([wide, high] * 2, dtype=np.float32)
    side = np.median(pixels[:, 2:] - pixels[:, :2], axis=0)
    seen = np.maximum(side, SMALLEST)
    zoom = min(1.0, GOAL / float(np.sqrt(seen.prod())))
    cells = np.clip(np.rint(seen * zoom / CELL), FEWEST_CELLS, MOST_CELLS).astype(int)
    levels = list(_levels(lab, cells * CELL / seen))
    mean, whiten = _whitening([level.cells for level in levels])
    patterns = np.concatenate([_patterns(lab, box, cells) for box in pixels])
    whitened = np.asarray((patterns - mean) @ whiten, dtype=np.float32)
    maps = [_likeness((level.cells - mean) @ whiten, whitened) for level in levels]
    places = np.concatenate([found.ravel() for found in maps])
    usual, unusual = np.quantile(places, [0.5, 5 / 6])
    spread = float(max(unusual - usual, 0.01))
    rows = [
        _level_peaks(level, found, patterns.shape[1:3], side / (wide, high))
        for level, found in zip(levels, maps, strict=True)
    ]
    boxes, likeness, steps = (np.concatenate(column) for column in zip(*rows, strict=True))
    return Peaks(boxes, likeness, steps, float(usual), spread)


@dataclass(frozen=True)
class Level:
    """The picture at one size.

    Attributes:
        step: power of ``STEP``: the size of the objects that are looked for in it.
        size: width and height, pixels.
        cells: (height, width, channels) float32.
    """

    step: int
    size: tuple[int, int]
    cells: Floats


def _levels(lab: Floats, zoom: npt.NDArray[np.float64]) -> Iterator[Level]:
    """The picture at every size in which it can be looked for objects of a fixed size.

    Args:
        lab: the picture.
        zoom: across and down, that makes an object as large as the example as large as its cells.
    """
    high, wide = lab.shape[:2]
    for step in STEPS:
        across, down = zoom / STEP**step
        size = (max(CELL, round(wide * across)), max(CELL, round(high * down)))
        if step >= 0 or max(size) <= LARGEST:
            yield Level(step, size, _cells(_resized(lab, (0, 0, wide, high), size)))


def _resized(lab: Floats, box: tuple[float, float, float, float], size: tuple[int, int]) -> Floats:
    """A part of a picture, x0 y0 x1 y1 in pixels, at another size: width and height."""
    from PIL import Image as Pillow

    planes = [
        Pillow.fromarray(plane).resize(size, Pillow.Resampling.BILINEAR, box=box)
        for plane in np.ascontiguousarray(np.moveaxis(lab, 2, 0))
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=2)


def _cells(lab: Floats) -> Floats:
    """Edges by direction, colour, and how much of edges there is: (height, width, channels)."""
    from scipy.ndimage import convolve1d, uniform_filter

    down, across = np.gradient(lab[..., 0])
    strength = np.hypot(across, down)
    turn = np.arctan2(down, across) % np.pi * (DIRECTIONS / np.pi)
    lower = np.floor(turn).astype(np.intp)
    share = (turn - lower)[..., None]
    edges = np.zeros((*strength.shape, DIRECTIONS), dtype=np.float32)
    for place, part in ((lower, 1 - share), (lower + 1, share)):
        np.put_along_axis(
            edges, (place % DIRECTIONS)[..., None], strength[..., None] * part, axis=2
        )
    edges = _mean_of_cells(edges)
    for axis in (0, 1):  # an edge near the border of a cell belongs to both, wherever cells begin
        edges = convolve1d(edges, NEIGHBOURS, axis)
    total = edges.sum(axis=2, keepdims=True)
    around = np.sqrt(np.maximum(uniform_filter(total**2, (5, 5, 1)), 0)) + FLAT
    colour = _mean_of_cells(lab) * np.array(COLOUR, dtype=np.float32)
    rows = (np.sqrt(edges / around), colour, STRENGTH * np.log1p(total))
    return np.asarray(np.concatenate(rows, axis=2), dtype=np.float32)


def _mean_of_cells(pixels: Floats) -> Floats:
    """What does not fill a cell at the right and at the bottom is left out."""
    high, wide = (edge // CELL for edge in pixels.shape[:2])
    whole = pixels[: high * CELL, : wide * CELL]
    return np.asarray(whole.reshape(high, CELL, wide, CELL, -1).mean(axis=(1, 3)))


def _whitening(levels: list[Floats]) -> tuple[Floats, Floats]:
    """Mean (channels,) of all cells, and the matrix that makes them uncorrelated."""
    rows = np.concatenate([level.reshape(-1, level.shape[2]) for level in levels])
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows - mean
    covariance = centred.T @ centred / len(rows)
    covariance += (SHRINK * np.trace(covariance) / len(mean) + 1e-6) * np.eye(len(mean))
    values, axes = np.linalg.eigh(covariance)
    return mean.astype(np.float32), (axes / np.sqrt(values)).astype(np.float32)


def _patterns(lab: Floats, box: Floats, cells: npt.NDArray[np.int_]) -> Floats:
    """The example with its ring, and its mirror image: (2, height, width, channels)."""
    margin = RING + 2  # cells; the outer two only so that edges are known up to the border
    centre = (box[:2] + box[2:]) / 2
    side = np.maximum(box[2:] - box[:2], SMALLEST)
    half = side / 2 * (1 + 2 * margin / cells)
    outside = int(np.ceil(max(0, *(half - centre), *(centre + half - lab.shape[1::-1])))) + 1
    padded = np.pad(lab, ((outside, outside), (outside, outside), (0, 0)), mode="edge")
    (left, top), (right, bottom) = centre - half + outside, centre + half + outside
    across, down = ((cells + 2 * margin) * CELL).tolist()
    pattern = _cells(_resized(padded, (left, top, right, bottom), (across, down)))[2:-2, 2:-2]
    return np.stack([pattern, _mirrored(pattern)])


def _mirrored(pattern: Floats) -> Floats:
    """Left and right changed: an edge of direction k becomes one of direction -k."""
    turned = np.arange(pattern.shape[2])
    turned[:DIRECTIONS] = -turned[:DIRECTIONS] % DIRECTIONS
    return pattern[:, ::-1, turned]


def _likeness(cells: npt.NDArray[np.floating], patterns: Floats) -> Floats:
    """The best cosine of any pattern with its centre at each place, -1 to 1.

    Args:
        cells: (height, width, channels), whitened.
        patterns: (k, h, w, channels), whitened.

    Returns:
        (height, width), 1 larger where h or w is even. Beyond the border lies the border again.
    """
    from scipy import fft

    high, wide = patterns.shape[1:3]
    cells = np.pad(cells, ((high // 2,) * 2, (wide // 2,) * 2, (0, 0)), mode="edge")
    rows, columns = cells.shape[0] - high + 1, cells.shape[1] - wide + 1
    size = [fft.next_fast_len(edge, real=True) for edge in cells.shape[:2]]
    picture = fft.rfft2(cells, size, axes=(0, 1))
    wanted = fft.rfft2(patterns, size, axes=(1, 2)).conj()
    product = np.einsum("yxc,kyxc->kyx", picture, wanted)
    common = fft.irfft2(product, size, axes=(1, 2))[:, :rows, :columns]
    energy = _sums(np.square(cells).sum(axis=2), high, wide)
    least = 1e-3 * high * wide * cells.shape[2]  # an even area is like nothing
    length = np.sqrt(np.maximum(np.square(patterns).sum(axis=(1, 2, 3)), least))
    best = (common / length[:, None, None]).max(axis=0)
    return np.asarray(best / np.sqrt(np.maximum(energy, least)), dtype=np.float32)


def _sums(values: Floats, high: int, wide: int) -> Floats:
    """Sums over all windows of a size: (height - high + 1, width - wide + 1)."""
    from scipy.ndimage import uniform_filter

    means = uniform_filter(values, (high, wide), mode="nearest")
    rows, columns = values.shape[0] - high + 1, values.shape[1] - wide + 1
    top, left = high // 2, wide // 2
    return np.asarray(means[top : top + rows, left : left + columns] * (high * wide))


def _level_peaks(
    level: Level, found: Floats, pattern: tuple[int, int], side: npt.NDArray[np.float64]
) -> tuple[Boxes, Floats, Floats]:
    """Boxes, likeness and step of the places that are more like the example than those around."""
    from scipy.ndimage import maximum_filter

    rows, columns = np.nonzero((found == maximum_filter(found, 3)) & (found > FAINT))
    corner = np.stack([columns, rows], axis=1) - np.array([pattern[1] // 2, pattern[0] // 2])
    centre = (corner + np.array([pattern[1] / 2, pattern[0] / 2])) * CELL / np.array(level.size)
    half = side * STEP**level.step / 2
    boxes = np.clip(np.concatenate([centre - half, centre + half], axis=1), 0, 1)
    steps = np.full(len(rows), level.step, dtype=np.float32)
    return boxes.astype(np.float32), found[rows, columns], steps


def _confidence(peaks: Peaks, kept: npt.NDArray[np.intp]) -> Floats:
    """Chance that each of some peaks is such an object: (k,) float32, 0–1.

    A logistic regression on how rare it is in the picture to be so like the example, on how far
    the size is off, and on how like each is beside the best of them. It is fitted to drawn fruit
    and shapes and to photos; the offset is lower than fitted, as a wrong suggestion annoys more
    than a missing one.
    """
    from scipy.special import expit

    like = peaks.likeness[kept]
    log_odds = (
        OFFSET
        + RARITY * (like - peaks.usual) / peaks.spread
        + RESIZED * np.abs(peaks.steps[kept])
        + BESIDE_BEST * like / like.max(initial=POOR_BEST)
    )
    return np.asarray(expit(log_odds), dtype=np.float32)


def _stands_out(lab: Floats, x: float, y: float, side: float) -> float:
    """How much a disc around a place differs from the ring around it; x, y, side in pixels."""
    reach = 0.75 * side
    left, top = max(0, int(x - reach)), max(0, int(y - reach))
    part = lab[top : int(y + reach) + 1, left : int(x + reach) + 1]
    rows, columns = np.mgrid[: part.shape[0], : part.shape[1]]
    distance = np.hypot(columns + left + 0.5 - x, rows + top + 0.5 - y)
    disc = part[distance <= side / 2]
    ring = part[(distance > side / 2) & (distance <= reach)]
    if len(disc) < 4 or len(ring) < 4:
        return 0.0
    apart = np.square(disc.mean(axis=0) - ring.mean(axis=0)).sum()
    spread = disc.var(axis=0).sum() + ring.var(axis=0).sum()
    return float(apart / (spread + FLAT**2))
