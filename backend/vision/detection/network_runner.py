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
from backend.vision.detection.detections import NO_DETECTIONS, Detections, suppress_per_label
from backend.vision.detection.letterbox import Letterbox, letterbox, stretch
from backend.vision.detection.network import QUERY_FAMILY, DetectionNetwork

if TYPE_CHECKING:
    from PIL import Image

    from backend.vision.runtime import Outputs, Runner

MAX_CANDIDATES = 8000
"""Candidates that are looked at closely: an object has several, and people count a thousand of
them. Of 1,185 discs in a picture 1,000 candidates found 947, and 8,000 found 1,183; a photo of COCO
has up to 50, so that it costs nothing there."""
NMS_IOU_THRESHOLD = 0.6
"""IoU above which two boxes of one label are the same object."""
DETECTION_BATCH_SIZE = 32
"""Images that are in memory at the network's size."""
COMPARED_BOX_COUNT = 100
"""The most confident places of an example, whose boxes two runtimes must agree on."""
MEDIAN_EDGE_TOLERANCE_PX, MAX_EDGE_TOLERANCE_PX, LOGIT_TOLERANCE_STDS = 20.0, 2000.0, 4.0
"""What counts as much as a whole confidence; see :func:`apart`."""
RTDETR_INPUT_PX = 640
"""Pixels of an RT-DETR's input, which answers in shares of it."""


@dataclass
class NetworkRunner:
    """Finds the objects of a network's classes.

    Attributes:
        network: what was learned.
        input_size: pixels of the input's longer edge.
        runner: runs the network.
    """

    network: DetectionNetwork
    input_size: int
    runner: Runner = field(repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of what it finds."""
        return self.network.spec.classes

    def detect(
        self, images: Sequence[Image.Image], min_confidence: float = 0.05
    ) -> list[Detections]:
        """Find objects.

        Args:
            images: RGB, upright, of any size.
            min_confidence: confidence below which nothing is reported, 0 to 1.

        Returns:
            one entry an image.
        """
        detections: list[Detections] = []
        is_query_based = self.network.spec.family == QUERY_FAMILY
        for start in range(0, len(images), DETECTION_BATCH_SIZE):
            batch = images[start : start + DETECTION_BATCH_SIZE]
            inputs = [to_network_input(image, self.network, self.input_size) for image in batch]
            outputs = self.runner.run([pixels for pixels, _ in inputs])
            decode = _decode_queries if is_query_based else _decode_grid
            for (pixels, transform), output in zip(inputs, outputs, strict=True):
                detections.append(
                    decode(output, pixels.shape[2:], self.network, min_confidence, transform)
                )
        return detections


def to_network_input(
    image: Image.Image, network: DetectionNetwork, size: int
) -> tuple[Floats, Letterbox]:
    """An image as a network wants it, the same way in training and afterwards.

    Args:
        image: RGB, upright.
        network: that looks at it.
        size: pixels of the input's longer edge.

    Returns:
        (1, 3, h, w) float32 RGB, 0 to 1, and how to get back.
    """
    if network.spec.family == QUERY_FAMILY:
        return stretch(image, size)
    return letterbox(image, size, network.stride)


def load_network_runner(
    network: DetectionNetwork,
    size: int,
    key: str,
    folder: Path | None,
    say: Any = lambda line: None,
) -> NetworkRunner:
    """A detector on the fastest runtime.

    Args:
        network: what was learned.
        size: pixels of the input's longer edge.
        key: tells the weights from all others.
        folder: where converted networks are kept.
        say: told what was chosen, in a line.
    """
    from backend.vision.detection.raw_network import build_raw_network
    from backend.vision.runtime import select_fastest_runner

    example = example_input(size)
    runner = select_fastest_runner(
        build_raw_network(network),
        example,
        key=key,
        family=f"{_architecture_hash(network)}-{size}",
        folder=folder,
        say=say,
        allow_bf16=True,
        measure_difference=partial(output_difference, network=network),
        dynamic_size=network.spec.family != QUERY_FAMILY,
    )
    return NetworkRunner(network, size, runner)


def example_input(size: int) -> Floats:
    """A picture to try a network on: soft colours with some noise, as cameras make them."""
    from PIL import Image as Pillow

    random = np.random.default_rng(0)
    coarse_image = Pillow.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    smooth_pixels = np.asarray(
        coarse_image.resize((size, size), Pillow.Resampling.BICUBIC), dtype=np.float32
    )
    noisy_pixels = np.clip(smooth_pixels + random.normal(0, 8, smooth_pixels.shape), 0, 255) / 255
    return np.ascontiguousarray(noisy_pixels.transpose(2, 0, 1)[None], dtype=np.float32)


def output_difference(actual: Outputs, expected: Outputs, network: DetectionNetwork) -> float:
    """How far two answers of a network are apart, by what becomes of them.

    Args:
        actual: of a runner.
        expected: of torch.
        network: whose outputs they are.

    Returns:
        the largest of several differences, each as a share of what may be 1 at most:

        - of a confidence, 0 to 1;
        - of the edges of the most confident boxes, in the middle of them by ``MEDIAN_EDGE_TOLERANCE_PX`` pixels of
          the input, of the worst by ``MAX_EDGE_TOLERANCE_PX``. Boxes far from any object mean nothing;
        - of the logits, root mean square, by ``LOGIT_TOLERANCE_STDS`` of their spread: a network that finds
          nothing at all would else equal one that finds next to nothing in the example.

        So 0.001, what is allowed in f32, is 0.02 pixels, and 0.05, of bfloat16, is 1. Measured for
        YOLO11n and YOLO26n on three pictures: below 0.0001 in f32; in bfloat16 a confidence
        differs by 0.02, edges by 0.4 pixels and 52 at worst, logits by 9 % of their spread.
    """
    shapes = (
        [actual_output.shape for actual_output in actual],
        [expected_output.shape for expected_output in expected],
    )
    if shapes[0] != shapes[1] or not all(np.isfinite(output).all() for output in actual):
        return float("inf")
    compare = _query_difference if network.spec.family == QUERY_FAMILY else _grid_difference
    images = zip(zip(*actual, strict=True), zip(*expected, strict=True), strict=True)
    return max(
        compare(actual_output, expected_output, network)
        for actual_output, expected_output in images
    )


def _grid_difference(actual: Outputs, expected: Outputs, network: DetectionNetwork) -> float:
    logits, expected_logits = actual[1], expected[1]
    confidence_error = np.abs(_sigmoid(logits) - _sigmoid(expected_logits)).max()
    logit_error = np.sqrt(np.square(logits - expected_logits).mean()) / max(
        float(expected_logits.std()), 1e-6
    )
    top_cells = np.argsort(-expected_logits.max(axis=0), kind="stable")[:COMPARED_BOX_COUNT]
    edges, expected_edges = (
        _expected_distances(part[0][:, top_cells].astype(np.float32)) for part in (actual, expected)
    )
    strides = _cell_strides(expected_logits.shape[1], tuple(int(s) for s in network.module.stride))
    edge_errors = np.abs((edges - expected_edges) * strides[top_cells, None])
    return float(
        max(
            confidence_error,
            logit_error / LOGIT_TOLERANCE_STDS,
            np.median(edge_errors) / MEDIAN_EDGE_TOLERANCE_PX,
            edge_errors.max() / MAX_EDGE_TOLERANCE_PX,
        )
    )


def _cell_strides(cells: int, strides: tuple[int, ...]) -> Floats:
    """Of each cell, (cells,): an input of whole largest cells has a fixed share of each kind."""
    densities = np.array([1 / stride**2 for stride in strides])
    counts = np.rint(cells * densities / densities.sum()).astype(int)
    return np.repeat(np.array(strides, dtype=np.float32), counts)


def _query_difference(actual: Outputs, expected: Outputs, network: DetectionNetwork) -> float:
    """Queries are ordered by numbers that may be nearly equal: each is compared with its like."""
    top_queries = np.argsort(-expected[1].max(axis=1), kind="stable")[:COMPARED_BOX_COUNT]
    edge_errors = (
        np.abs(expected[0][top_queries, None] - actual[0][None]).max(axis=2)
        * RTDETR_INPUT_PX
        / MEDIAN_EDGE_TOLERANCE_PX
    )
    confidence_error = np.abs(expected[1][top_queries, None] - actual[1][None]).max(axis=2)
    return float(np.maximum(edge_errors, confidence_error).min(axis=1).max())


def _architecture_hash(network: DetectionNetwork) -> str:
    description = json.dumps(dict(network.spec.yaml), sort_keys=True, default=str)
    return hashlib.sha256(description.encode()).hexdigest()[:16]


def _decode_grid(
    output: tuple[Floats, ...],
    shape: tuple[int, ...],
    network: DetectionNetwork,
    min_confidence: float,
    transform: Letterbox,
) -> Detections:
    """Distances of each cell's middle to the four edges, and a logit per class."""
    distances, logits = output[0][0], output[1][0]
    best_logits = logits.max(axis=0)
    candidates = np.flatnonzero(best_logits > _logit(min_confidence))
    if not len(candidates):
        return NO_DETECTIONS
    if len(candidates) > MAX_CANDIDATES:
        candidates = candidates[
            np.argpartition(-best_logits[candidates], MAX_CANDIDATES)[:MAX_CANDIDATES]
        ]
    centres, strides = _cell_centres(shape, tuple(int(s) for s in network.module.stride))
    edges = _expected_distances(distances[:, candidates].astype(np.float32))
    low = (centres[candidates] - edges[:, :2]) * strides[candidates, None]
    high = (centres[candidates] + edges[:, 2:]) * strides[candidates, None]
    labels = logits[:, candidates].argmax(axis=0).astype(np.int64)
    confidence = _sigmoid(best_logits[candidates])
    boxes = np.concatenate([low, high], axis=1).astype(np.float32)
    keep = suppress_per_label(boxes, confidence, labels, NMS_IOU_THRESHOLD)
    return Detections(transform.to_image_boxes(boxes[keep]), confidence[keep], labels[keep])


def _decode_queries(
    output: tuple[Floats, ...],
    shape: tuple[int, ...],
    network: DetectionNetwork,
    min_confidence: float,
    transform: Letterbox,
) -> Detections:
    """Middle and size of each query, 0 to 1 of the input, and a logit per class."""
    query_boxes, confidence = output[0][0], output[1][0]
    best_confidence = confidence.max(axis=1)
    candidates = np.flatnonzero(best_confidence > min_confidence)
    candidates = candidates[np.argsort(-best_confidence[candidates], kind="stable")]
    if not len(candidates):
        return NO_DETECTIONS
    half = query_boxes[candidates, 2:] / 2
    corners = np.concatenate(
        [query_boxes[candidates, :2] - half, query_boxes[candidates, :2] + half], axis=1
    )
    pixels = corners * np.array([shape[1], shape[0]] * 2, dtype=np.float32)
    labels = confidence[candidates].argmax(axis=1).astype(np.int64)
    return Detections(
        transform.to_image_boxes(pixels), best_confidence[candidates].astype(np.float32), labels
    )


def _cell_centres(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Middles of all cells in cells, (n, 2) x y, and their strides, (n,)."""
    centres, stride_map = [], []
    for stride in strides:
        h, w = shape[0] // stride, shape[1] // stride
        y, x = np.mgrid[0:h, 0:w].astype(np.float32) + 0.5
        centres.append(np.stack([x.ravel(), y.ravel()], axis=1))
        stride_map.append(np.full(h * w, stride, dtype=np.float32))
    return np.concatenate(centres), np.concatenate(stride_map)


def _expected_distances(raw: Floats) -> Floats:
    """(4 · bins, n) → (n, 4): the mean of each edge's distribution over distances (DFL)."""
    bins = raw.shape[0] // 4
    if bins == 1:
        return raw.T
    bin_logits = raw.reshape(4, bins, -1)
    weights = np.exp(bin_logits - bin_logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray((weights * np.arange(bins, dtype=np.float32)[:, None]).sum(axis=1).T)


def _sigmoid(values: Floats) -> Floats:
    from scipy.special import expit

    return np.asarray(expit(values.astype(np.float32)), dtype=np.float32)


def _logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))
