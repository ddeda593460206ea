"""Run a detection network on images with the fastest runtime."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backend.arrays import Floats
from backend.callbacks import LogCallback
from backend.vision.detection.detections import NO_DETECTIONS, Detections, suppress_per_label
from backend.vision.detection.letterbox import Letterbox, letterbox, stretch
from backend.vision.detection.network import QUERY_FAMILY, DetectionNetwork

if TYPE_CHECKING:
    from PIL import Image

    from backend.vision.runtime import Outputs, Runner

MAX_CANDIDATES = 8000
"""Candidates that are decoded, several per object. Of 1,185 discs in an image, 1,000 candidates
found 947 and 8,000 found 1,183. A COCO photo has up to 50 candidates, so this is free."""
NMS_IOU_THRESHOLD = 0.6
"""IoU above which two boxes of one label count as the same object."""
DETECTION_BATCH_SIZE = 32
"""Images in memory at the network's input size."""
COMPARED_BOX_COUNT = 100
"""Most confident boxes of an example that two runtimes must agree on."""
MEDIAN_EDGE_TOLERANCE_PX, MAX_EDGE_TOLERANCE_PX, LOGIT_TOLERANCE_STDS = 20.0, 2000.0, 4.0
"""Errors that count as much as a difference in confidence of 1; see :func:`output_difference`."""
RTDETR_INPUT_PX = 640
"""Pixels of an RT-DETR's input, to convert its relative boxes."""


@dataclass
class NetworkRunner:
    """A detection network on a runtime.

    Attributes:
        network: the trained network.
        input_size: pixels of the input's longer edge.
        runner: runs the network.
    """

    network: DetectionNetwork
    input_size: int
    runner: Runner = field(repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the network's classes."""
        return self.network.spec.classes

    def detect(
        self, images: Sequence[Image.Image], min_confidence: float = 0.05
    ) -> list[Detections]:
        """Return the detections of each image, labels as the network's classes.

        Args:
            images: RGB, upright, of any size.
            min_confidence: lowest reported confidence, 0 to 1.
        """
        detections: list[Detections] = []
        for start in range(0, len(images), DETECTION_BATCH_SIZE):
            batch = images[start : start + DETECTION_BATCH_SIZE]
            inputs = [to_network_input(image, self.network, self.input_size) for image in batch]
            outputs = self.runner.run([pixels for pixels, _ in inputs])
            for (_, position), (boxes, scores) in zip(inputs, outputs, strict=True):
                if self.network.spec.family == QUERY_FAMILY:
                    found = _decode_queries(boxes[0], scores[0], min_confidence, position)
                else:
                    strides = tuple(int(stride) for stride in self.network.module.stride)
                    found = _decode_grid(boxes[0], scores[0], strides, min_confidence, position)
                detections.append(found)
        return detections


def to_network_input(
    image: Image.Image, network: DetectionNetwork, size: int
) -> tuple[Floats, Letterbox]:
    """Scale an image to the network's input, the same way in training and inference.

    Args:
        image: RGB, upright.
        network: its family decides between letterbox and stretch.
        size: pixels of the input's longer edge.

    Returns:
        (1, 3, h, w) float32 RGB, 0 to 1, and the position of the image in it.
    """
    if network.spec.family == QUERY_FAMILY:
        return stretch(image, size)
    return letterbox(image, size, network.stride)


def load_network_runner(
    network: DetectionNetwork,
    size: int,
    key: str,
    folder: Path | None,
    log: LogCallback = lambda line: None,
) -> NetworkRunner:
    """Return a network on the fastest runtime.

    Args:
        network: the trained network.
        size: pixels of the input's longer edge.
        key: identifies the weights.
        folder: stores converted networks.
        log: receives why a faster runtime is not used.
    """
    from backend.vision.detection.raw_network import build_raw_network
    from backend.vision.runtime import RunnerSpec, select_fastest_runner

    spec = RunnerSpec(
        build_raw_network(network),
        example_input(size),
        key=key,
        family=f"{_architecture_hash(network)}-{size}",
        folder=folder,
        allow_bf16=True,
        measure_difference=partial(output_difference, network=network),
        dynamic_size=network.spec.family != QUERY_FAMILY,
    )
    return NetworkRunner(network, size, select_fastest_runner(spec, log))


def example_input(size: int) -> Floats:
    """Return a test image of soft colours with camera-like noise: (1, 3, size, size), 0 to 1."""
    from PIL import Image as Pillow

    random = np.random.default_rng(0)
    coarse_image = Pillow.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    smooth_pixels = np.asarray(
        coarse_image.resize((size, size), Pillow.Resampling.BICUBIC), dtype=np.float32
    )
    noisy_pixels = np.clip(smooth_pixels + random.normal(0, 8, smooth_pixels.shape), 0, 255) / 255
    return np.ascontiguousarray(noisy_pixels.transpose(2, 0, 1)[None], dtype=np.float32)


def output_difference(actual: Outputs, expected: Outputs, network: DetectionNetwork) -> float:
    """Return how much two outputs of a network differ after decoding.

    Args:
        actual: of a runner.
        expected: of torch.
        network: whose outputs they are.

    Returns:
        the largest of these errors, each divided by its tolerance:

        - confidence, with a tolerance of 1;
        - edges of the most confident boxes: the median by ``MEDIAN_EDGE_TOLERANCE_PX`` pixels of
          the input, the maximum by ``MAX_EDGE_TOLERANCE_PX`` (boxes far from objects are random);
        - root mean square of the logits by ``LOGIT_TOLERANCE_STDS`` standard deviations, for
          networks that detect next to nothing in the example.

        So 0.001, the limit in f32, is 0.02 pixels, and 0.05, the limit in bfloat16, is 1 pixel.
        Measured for YOLO11n and YOLO26n on three images: below 0.0001 in f32; in bfloat16 the
        confidence differs by 0.02, edges by 0.4 and at most 52 pixels, and logits by 9 %.
    """
    same_shapes = [output.shape for output in actual] == [output.shape for output in expected]
    if not same_shapes or not all(np.isfinite(output).all() for output in actual):
        return float("inf")
    compare = _query_difference if network.spec.family == QUERY_FAMILY else _grid_difference
    images = zip(zip(*actual, strict=True), zip(*expected, strict=True), strict=True)
    return max(compare(*pair, network) for pair in images)


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
    median_error = np.median(edge_errors) / MEDIAN_EDGE_TOLERANCE_PX
    max_error = edge_errors.max() / MAX_EDGE_TOLERANCE_PX
    return float(max(confidence_error, logit_error / LOGIT_TOLERANCE_STDS, median_error, max_error))


def _cell_strides(cells: int, strides: tuple[int, ...]) -> Floats:
    """Return the stride of each cell, (cells,), from the constant share of each stride."""
    densities = np.array([1 / stride**2 for stride in strides])
    counts = np.rint(cells * densities / densities.sum()).astype(int)
    return np.repeat(np.array(strides, dtype=np.float32), counts)


def _query_difference(actual: Outputs, expected: Outputs, network: DetectionNetwork) -> float:
    """Compare each query with the nearest one, as the order of similar queries is unstable."""
    top_queries = np.argsort(-expected[1].max(axis=1), kind="stable")[:COMPARED_BOX_COUNT]
    edge_errors = np.abs(expected[0][top_queries, None] - actual[0][None]).max(axis=2)
    edge_errors = edge_errors * RTDETR_INPUT_PX / MEDIAN_EDGE_TOLERANCE_PX
    confidence_error = np.abs(expected[1][top_queries, None] - actual[1][None]).max(axis=2)
    return float(np.maximum(edge_errors, confidence_error).min(axis=1).max())


def _architecture_hash(network: DetectionNetwork) -> str:
    description = json.dumps(dict(network.spec.yaml), sort_keys=True, default=str)
    return hashlib.sha256(description.encode()).hexdigest()[:16]


def _decode_grid(
    distances: Floats,
    logits: Floats,
    strides: tuple[int, ...],
    min_confidence: float,
    position: Letterbox,
) -> Detections:
    """Decode the distances of each cell's centre to the four edges, and a logit per class."""
    best_logits = logits.max(axis=0)
    min_logit = float(np.log(min_confidence / (1 - min_confidence)))
    candidates = np.flatnonzero(best_logits > min_logit)
    if not len(candidates):
        return NO_DETECTIONS
    if len(candidates) > MAX_CANDIDATES:
        order = np.argpartition(-best_logits[candidates], MAX_CANDIDATES)
        candidates = candidates[order[:MAX_CANDIDATES]]
    centres, cell_strides = _cell_centres(position.input_size, strides)
    edges = _expected_distances(distances[:, candidates].astype(np.float32))
    low = (centres[candidates] - edges[:, :2]) * cell_strides[candidates, None]
    high = (centres[candidates] + edges[:, 2:]) * cell_strides[candidates, None]
    labels = logits[:, candidates].argmax(axis=0).astype(np.int64)
    confidence = _sigmoid(best_logits[candidates])
    boxes = np.concatenate([low, high], axis=1).astype(np.float32)
    keep = suppress_per_label(boxes, confidence, labels, NMS_IOU_THRESHOLD)
    return Detections(position.to_image_boxes(boxes[keep]), confidence[keep], labels[keep])


def _decode_queries(
    query_boxes: Floats, confidence: Floats, min_confidence: float, position: Letterbox
) -> Detections:
    """Decode centre and size of each query, 0 to 1 of the input, and a confidence per class."""
    best_confidence = confidence.max(axis=1)
    candidates = np.flatnonzero(best_confidence > min_confidence)
    candidates = candidates[np.argsort(-best_confidence[candidates], kind="stable")]
    if not len(candidates):
        return NO_DETECTIONS
    centre, half = query_boxes[candidates, :2], query_boxes[candidates, 2:] / 2
    corners = np.concatenate([centre - half, centre + half], axis=1)
    pixels = corners * np.array(position.input_size * 2, dtype=np.float32)
    labels = confidence[candidates].argmax(axis=1).astype(np.int64)
    best = best_confidence[candidates].astype(np.float32)
    return Detections(position.to_image_boxes(pixels), best, labels)


def _cell_centres(size: tuple[int, int], strides: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Return the centres of all cells in units of cells, (n, 2) x y, and their strides, (n,)."""
    centres, stride_map = [], []
    for stride in strides:
        w, h = size[0] // stride, size[1] // stride
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
