"""Images → objects: a network behind the fastest runtime there is for it here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.arrays import Floats
from backend.vision.detection.detections import NOTHING, Found, suppress
from backend.vision.detection.letterbox import Letterbox, letterbox, stretched
from backend.vision.detection.network import QUERIES, Network

if TYPE_CHECKING:
    from PIL import Image

    from backend.vision.runtime import Outputs, Runner

MOST = 8000
"""Candidates that are looked at closely: an object has several, and people count a thousand of
them. Of 1,185 discs in a picture 1,000 candidates found 947, and 8,000 found 1,183; a photo of COCO
has up to 50, so that it costs nothing there."""
OVERLAP = 0.6
"""IoU above which two boxes of one label are the same object."""
AT_ONCE = 32
"""Images that are in memory at the network's size."""
COMPARED = 100
"""The most confident places of an example, whose boxes two runtimes must agree on."""
USUAL, WORST, SPREADS = 20.0, 2000.0, 4.0
"""What counts as much as a whole confidence; see :func:`apart`."""
LARGEST = 640
"""Pixels of an RT-DETR's input, which answers in shares of it."""


@dataclass
class Detector:
    """Finds the objects of a network's classes.

    Attributes:
        network: what was learned.
        size: pixels of the input's longer edge.
        runner: runs the network.
    """

    network: Network
    size: int
    runner: Runner = field(repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of what it finds."""
        return self.network.plan.classes

    def detect(self, images: Sequence[Image.Image], least: float = 0.05) -> list[Found]:
        """Find objects.

        Args:
            images: RGB, upright, of any size.
            least: confidence below which nothing is reported, 0 to 1.

        Returns:
            one entry an image.
        """
        found: list[Found] = []
        queries = self.network.plan.family == QUERIES
        for start in range(0, len(images), AT_ONCE):
            part = images[start : start + AT_ONCE]
            placed = [place_in(image, self.network, self.size) for image in part]
            outputs = self.runner.run([pixels for pixels, _ in placed])
            decode = _from_queries if queries else _from_grid
            for (pixels, box), output in zip(placed, outputs, strict=True):
                found.append(decode(output, pixels.shape[2:], self.network, least, box))
        return found


def place_in(image: Image.Image, network: Network, size: int) -> tuple[Floats, Letterbox]:
    """An image as a network wants it, the same way in training and afterwards.

    Args:
        image: RGB, upright.
        network: that looks at it.
        size: pixels of the input's longer edge.

    Returns:
        (1, 3, h, w) float32 RGB, 0 to 1, and how to get back.
    """
    if network.plan.family == QUERIES:
        return stretched(image, size)
    return letterbox(image, size, network.stride)


def load_detector(
    network: Network, size: int, key: str, folder: Path | None, say: Any = lambda line: None
) -> Detector:
    """A detector on the fastest runtime.

    Args:
        network: what was learned.
        size: pixels of the input's longer edge.
        key: tells the weights from all others.
        folder: where converted networks are kept.
        say: told what was chosen, in a line.
    """
    from backend.vision.detection.raw_network import raw_outputs
    from backend.vision.runtime import fastest

    example = example_input(size)
    runner = fastest(
        raw_outputs(network),
        example,
        key=key,
        family=f"{_layers(network)}-{size}",
        folder=folder,
        say=say,
        half=True,
        differ=partial(apart, network=network),
        any_size=network.plan.family != QUERIES,
    )
    return Detector(network, size, runner)


def example_input(size: int) -> Floats:
    """A picture to try a network on: soft colours with some noise, as cameras make them."""
    from PIL import Image as Pillow

    random = np.random.default_rng(0)
    coarse = Pillow.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    soft = np.asarray(coarse.resize((size, size), Pillow.Resampling.BICUBIC), dtype=np.float32)
    noisy = np.clip(soft + random.normal(0, 8, soft.shape), 0, 255) / 255
    return np.ascontiguousarray(noisy.transpose(2, 0, 1)[None], dtype=np.float32)


def apart(given: Outputs, expected: Outputs, network: Network) -> float:
    """How far two answers of a network are apart, by what becomes of them.

    Args:
        given: of a runner.
        expected: of torch.
        network: whose outputs they are.

    Returns:
        the largest of several differences, each as a share of what may be 1 at most:

        - of a confidence, 0 to 1;
        - of the edges of the most confident boxes, in the middle of them by ``USUAL`` pixels of
          the input, of the worst by ``WORST``. Boxes far from any object mean nothing;
        - of the logits, root mean square, by ``SPREADS`` of their spread: a network that finds
          nothing at all would else equal one that finds next to nothing in the example.

        So 0.001, what is allowed in f32, is 0.02 pixels, and 0.05, of bfloat16, is 1. Measured for
        YOLO11n and YOLO26n on three pictures: below 0.0001 in f32; in bfloat16 a confidence
        differs by 0.02, edges by 0.4 pixels and 52 at worst, logits by 9 % of their spread.
    """
    shapes = [one.shape for one in given], [other.shape for other in expected]
    if shapes[0] != shapes[1] or not all(np.isfinite(part).all() for part in given):
        return float("inf")
    compare = _queries_apart if network.plan.family == QUERIES else _cells_apart
    images = zip(zip(*given, strict=True), zip(*expected, strict=True), strict=True)
    return max(compare(one, other, network) for one, other in images)


def _cells_apart(given: Outputs, expected: Outputs, network: Network) -> float:
    logits, theirs = given[1], expected[1]
    sure = np.abs(_sigmoid(logits) - _sigmoid(theirs)).max()
    off = np.sqrt(np.square(logits - theirs).mean()) / max(float(theirs.std()), 1e-6)
    best = np.argsort(-theirs.max(axis=0), kind="stable")[:COMPARED]
    edges, other = (_expected(part[0][:, best].astype(np.float32)) for part in (given, expected))
    strides = _strides_of(theirs.shape[1], tuple(int(s) for s in network.module.stride))
    pixels = np.abs((edges - other) * strides[best, None])
    return float(max(sure, off / SPREADS, np.median(pixels) / USUAL, pixels.max() / WORST))


def _strides_of(cells: int, strides: tuple[int, ...]) -> Floats:
    """Of each cell, (cells,): an input of whole largest cells has a fixed share of each kind."""
    parts = np.array([1 / stride**2 for stride in strides])
    counts = np.rint(cells * parts / parts.sum()).astype(int)
    return np.repeat(np.array(strides, dtype=np.float32), counts)


def _queries_apart(given: Outputs, expected: Outputs, network: Network) -> float:
    """Queries are ordered by numbers that may be nearly equal: each is compared with its like."""
    best = np.argsort(-expected[1].max(axis=1), kind="stable")[:COMPARED]
    pixels = np.abs(expected[0][best, None] - given[0][None]).max(axis=2) * LARGEST / USUAL
    sure = np.abs(expected[1][best, None] - given[1][None]).max(axis=2)
    return float(np.maximum(pixels, sure).min(axis=1).max())


def _layers(network: Network) -> str:
    described = json.dumps(dict(network.plan.yaml), sort_keys=True, default=str)
    return hashlib.sha256(described.encode()).hexdigest()[:16]


def _from_grid(
    output: tuple[Floats, ...],
    shape: tuple[int, ...],
    network: Network,
    least: float,
    box: Letterbox,
) -> Found:
    """Distances of each cell's middle to the four edges, and a logit per class."""
    distances, logits = output[0][0], output[1][0]
    best = logits.max(axis=0)
    rows = np.flatnonzero(best > _logit(least))
    if not len(rows):
        return NOTHING
    if len(rows) > MOST:
        rows = rows[np.argpartition(-best[rows], MOST)[:MOST]]
    middles, strides = _cells(shape, tuple(int(s) for s in network.module.stride))
    edges = _expected(distances[:, rows].astype(np.float32))
    low = (middles[rows] - edges[:, :2]) * strides[rows, None]
    high = (middles[rows] + edges[:, 2:]) * strides[rows, None]
    labels = logits[:, rows].argmax(axis=0).astype(np.int64)
    confidence = _sigmoid(best[rows])
    boxes = np.concatenate([low, high], axis=1).astype(np.float32)
    kept = suppress(boxes, confidence, labels, OVERLAP)
    return Found(box.undo(boxes[kept]), confidence[kept], labels[kept])


def _from_queries(
    output: tuple[Floats, ...],
    shape: tuple[int, ...],
    network: Network,
    least: float,
    box: Letterbox,
) -> Found:
    """Middle and size of each query, 0 to 1 of the input, and a logit per class."""
    places, confidence = output[0][0], output[1][0]
    best = confidence.max(axis=1)
    rows = np.flatnonzero(best > least)
    rows = rows[np.argsort(-best[rows], kind="stable")]
    if not len(rows):
        return NOTHING
    half = places[rows, 2:] / 2
    corners = np.concatenate([places[rows, :2] - half, places[rows, :2] + half], axis=1)
    pixels = corners * np.array([shape[1], shape[0]] * 2, dtype=np.float32)
    labels = confidence[rows].argmax(axis=1).astype(np.int64)
    return Found(box.undo(pixels), best[rows].astype(np.float32), labels)


def _cells(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Middles of all cells in cells, (n, 2) x y, and their strides, (n,)."""
    middles, widths = [], []
    for stride in strides:
        h, w = shape[0] // stride, shape[1] // stride
        y, x = np.mgrid[0:h, 0:w].astype(np.float32) + 0.5
        middles.append(np.stack([x.ravel(), y.ravel()], axis=1))
        widths.append(np.full(h * w, stride, dtype=np.float32))
    return np.concatenate(middles), np.concatenate(widths)


def _expected(raw: Floats) -> Floats:
    """(4 · bins, n) → (n, 4): the mean of each edge's distribution over distances (DFL)."""
    bins = raw.shape[0] // 4
    if bins == 1:
        return raw.T
    parts = raw.reshape(4, bins, -1)
    weights = np.exp(parts - parts.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray((weights * np.arange(bins, dtype=np.float32)[:, None]).sum(axis=1).T)


def _sigmoid(values: Floats) -> Floats:
    from scipy.special import expit

    return np.asarray(expit(values.astype(np.float32)), dtype=np.float32)


def _logit(share: float) -> float:
    return float(np.log(share / (1 - share)))
