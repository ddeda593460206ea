"""Run detection networks on images: preprocess, run on the fastest runtime, decode."""

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
from backend.callbacks import LogCallback
from backend.vision.detection.detections import NO_DETECTIONS, Detections, suppress_per_label
from backend.vision.detection.letterbox import Letterbox, letterbox, stretch
from backend.vision.detection.network import QUERY_FAMILY, DetectionNetwork

if TYPE_CHECKING:
    from PIL import Image

    from backend.vision.runtime import Outputs, Runner

MAX_CANDIDATES = 8000
"""Maximum candidates before NMS, several per object. In an image of 1,185 discs, 1,000 candidates
detected 947 and 8,000 detected 1,183. COCO photos have up to 50, so the limit costs no time."""
NMS_IOU_THRESHOLD = 0.6
"""IoU above which the less confident of two boxes of a class is dropped."""
DETECTION_BATCH_SIZE = 32
"""Images that are preprocessed and held in memory at a time."""
COMPARED_BOX_COUNT = 100
"""Number of most confident boxes that are compared between two runtimes."""
MEDIAN_EDGE_TOLERANCE_PX, MAX_EDGE_TOLERANCE_PX, LOGIT_TOLERANCE_STDS = 20.0, 2000.0, 4.0
"""Errors equivalent to a confidence error of 1, see :func:`output_difference`."""
RTDETR_INPUT_PX = 640
"""Input size of RT-DETR in pixels, to convert errors of its relative boxes."""


@dataclass
class NetworkRunner:
    """A detection network with its runtime.

    Attributes:
        network: the network.
        input_size: longer edge of the input in pixels.
        runner: the runner of the network without its decoding layers.
    """

    network: DetectionNetwork
    input_size: int
    runner: Runner = field(repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the network."""
        return self.network.spec.classes

    def detect(
        self, images: Sequence[Image.Image], min_confidence: float = 0.05
    ) -> list[Detections]:
        """Detect objects; labels are class indices of the network.

        Args:
            images: RGB, upright, of any size.
            min_confidence: confidence threshold, 0 to 1.
        """
        detections: list[Detections] = []
        for start in range(0, len(images), DETECTION_BATCH_SIZE):
            batch = images[start : start + DETECTION_BATCH_SIZE]
            inputs = [to_network_input(image, self.network, self.input_size) for image in batch]
            outputs = self.runner.run([pixels for pixels, _ in inputs])
            for (_, position), (boxes, scores) in zip(inputs, outputs, strict=True):
                if self.network.spec.family == QUERY_FAMILY:
                    decoded = _decode_queries(boxes[0], scores[0], min_confidence, position)
                else:
                    strides = self.network.strides
                    decoded = _decode_grid(boxes[0], scores[0], strides, min_confidence, position)
                detections.append(decoded)
        return detections


def to_network_input(
    image: Image.Image, network: DetectionNetwork, size: int
) -> tuple[Floats, Letterbox]:
    """Resize an image to the network input, as in training: letterbox, or stretch for RT-DETR.

    Args:
        image: RGB, upright.
        network: the network.
        size: longer edge of the input in pixels.

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
    """Return a runner of a network on the fastest runtime.

    Args:
        network: the network.
        size: longer edge of the input in pixels.
        key: identifies the weights.
        folder: cache folder of converted networks; None disables caching.
        log: receives the reason when OpenVINO is rejected.
    """
    from backend.vision.runtime import RunnerSpec, select_fastest_runner

    def build_network() -> Any:
        from backend.vision.detection.raw_network import build_raw_network

        return build_raw_network(network)

    spec = RunnerSpec(
        build_network,
        partial(example_input, size),
        key=key,
        family=f"{architecture_hash(network)}-{size}",
        folder=folder,
        allow_bf16=True,
        measure_difference=partial(output_difference, network=network),
        dynamic_size=network.spec.family != QUERY_FAMILY,
    )
    return NetworkRunner(network, size, select_fastest_runner(spec, log))


def example_input(size: int) -> Floats:
    """Return a smooth random image with noise as an example input: (1, 3, size, size), 0 to 1."""
    from PIL import Image as Pillow

    random = np.random.default_rng(0)
    coarse_image = Pillow.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    smooth_pixels = np.asarray(
        coarse_image.resize((size, size), Pillow.Resampling.BICUBIC), dtype=np.float32
    )
    noisy_pixels = np.clip(smooth_pixels + random.normal(0, 8, smooth_pixels.shape), 0, 255) / 255
    return np.ascontiguousarray(noisy_pixels.transpose(2, 0, 1)[None], dtype=np.float32)


def output_difference(actual: Outputs, expected: Outputs, network: DetectionNetwork) -> float:
    """Return the largest error between two outputs of a network, in units of its tolerance.

    - Confidence: maximum error, with a tolerance of 1.
    - Box edges of the most confident boxes: median error with a tolerance of
      ``MEDIAN_EDGE_TOLERANCE_PX``, and maximum error with ``MAX_EDGE_TOLERANCE_PX``, which is large
      because boxes far from objects are random.
    - Logits: root mean square error with a tolerance of ``LOGIT_TOLERANCE_STDS`` standard
      deviations, for networks with few detections in the example.

    The limit of 0.001 in float32 is thus a median edge error of 0.02 pixels, and the limit of 0.05
    in bfloat16 is 1 pixel. For YOLO11n and YOLO26n on three images, the result was below 0.0001 in
    float32. In bfloat16, the confidence error was 0.02, the edge error 0.4 pixels (median) and 52
    pixels (maximum), and the logit error 9 %.

    Args:
        actual: output of a runner.
        expected: output of torch.
        network: the network.
    """
    same_shapes = [output.shape for output in actual] == [output.shape for output in expected]
    if not same_shapes or not all(np.isfinite(output).all() for output in actual):
        return float("inf")
    compare = _difference_per_query if network.spec.family == QUERY_FAMILY else _grid_difference
    images = zip(zip(*actual, strict=True), zip(*expected, strict=True), strict=True)
    return max(compare(*pair, network) for pair in images)


def _grid_difference(actual: Outputs, expected: Outputs, network: DetectionNetwork) -> float:
    logits, expected_logits = actual[1], expected[1]
    confidence_error = np.abs(sigmoid(logits) - sigmoid(expected_logits)).max()
    logit_error = np.sqrt(np.square(logits - expected_logits).mean()) / max(
        float(expected_logits.std()), 1e-6
    )
    top_cells = np.argsort(-expected_logits.max(axis=0), kind="stable")[:COMPARED_BOX_COUNT]
    edges, expected_edges = (
        expected_distances(part[0][:, top_cells].astype(np.float32)) for part in (actual, expected)
    )
    strides = _cell_strides(expected_logits.shape[1], network.strides)
    edge_errors = np.abs((edges - expected_edges) * strides[top_cells, None])
    median_error = np.median(edge_errors) / MEDIAN_EDGE_TOLERANCE_PX
    max_error = edge_errors.max() / MAX_EDGE_TOLERANCE_PX
    return float(max(confidence_error, logit_error / LOGIT_TOLERANCE_STDS, median_error, max_error))


def _cell_strides(cells: int, strides: tuple[int, ...]) -> Floats:
    """Return the stride of each cell, (cells,); cell counts are proportional to 1 / stride²."""
    densities = np.array([1 / stride**2 for stride in strides])
    counts = np.rint(cells * densities / densities.sum()).astype(int)
    return np.repeat(np.array(strides, dtype=np.float32), counts)


def _difference_per_query(actual: Outputs, expected: Outputs, network: DetectionNetwork) -> float:
    """Compare each query with the nearest one, because the order of queries is unstable."""
    top_queries = np.argsort(-expected[1].max(axis=1), kind="stable")[:COMPARED_BOX_COUNT]
    edge_errors = np.abs(expected[0][top_queries, None] - actual[0][None]).max(axis=2)
    edge_errors = edge_errors * RTDETR_INPUT_PX / MEDIAN_EDGE_TOLERANCE_PX
    confidence_error = np.abs(expected[1][top_queries, None] - actual[1][None]).max(axis=2)
    return float(np.maximum(edge_errors, confidence_error).min(axis=1).max())


def architecture_hash(network: DetectionNetwork) -> str:
    """Return a hash of the layers of a network, without their weights."""
    description = json.dumps(dict(network.spec.yaml), sort_keys=True, default=str)
    return hashlib.sha256(description.encode()).hexdigest()[:16]


def _decode_grid(
    distances: Floats,
    logits: Floats,
    strides: tuple[int, ...],
    min_confidence: float,
    position: Letterbox,
) -> Detections:
    """Decode YOLO's outputs: distances from cell centres to box edges, and class logits."""
    best_logits = logits.max(axis=0)
    min_logit = float(np.log(min_confidence / (1 - min_confidence)))
    candidates = np.flatnonzero(best_logits > min_logit)
    if not len(candidates):
        return NO_DETECTIONS
    if len(candidates) > MAX_CANDIDATES:
        order = np.argpartition(-best_logits[candidates], MAX_CANDIDATES)
        candidates = candidates[order[:MAX_CANDIDATES]]
    centres, cell_strides = cell_centres(position.input_size, strides)
    edges = expected_distances(distances[:, candidates].astype(np.float32))
    low = (centres[candidates] - edges[:, :2]) * cell_strides[candidates, None]
    high = (centres[candidates] + edges[:, 2:]) * cell_strides[candidates, None]
    labels = logits[:, candidates].argmax(axis=0).astype(np.int64)
    confidence = sigmoid(best_logits[candidates])
    boxes = np.concatenate([low, high], axis=1).astype(np.float32)
    keep = suppress_per_label(boxes, confidence, labels, NMS_IOU_THRESHOLD)
    return Detections(position.to_image_boxes(boxes[keep]), confidence[keep], labels[keep])


def _decode_queries(
    query_boxes: Floats, confidence: Floats, min_confidence: float, position: Letterbox
) -> Detections:
    """Decode RT-DETR's outputs: centre and size, 0 to 1 of the input, and class confidence."""
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


def cell_centres(size: tuple[int, int], strides: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Return cell centres in units of the stride, (n, 2) x y, and the stride of each cell, (n,)."""
    centres, stride_map = [], []
    for stride in strides:
        w, h = size[0] // stride, size[1] // stride
        y, x = np.mgrid[0:h, 0:w].astype(np.float32) + 0.5
        centres.append(np.stack([x.ravel(), y.ravel()], axis=1))
        stride_map.append(np.full(h * w, stride, dtype=np.float32))
    return np.concatenate(centres), np.concatenate(stride_map)


def expected_distances(raw: Floats) -> Floats:
    """Return the expected distance to each edge, (4 · bins, n) → (n, 4) (DFL)."""
    bins = raw.shape[0] // 4
    if bins == 1:
        return raw.T
    bin_logits = raw.reshape(4, bins, -1)
    weights = np.exp(bin_logits - bin_logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray((weights * np.arange(bins, dtype=np.float32)[:, None]).sum(axis=1).T)


def sigmoid(values: Floats) -> Floats:
    """Return the sigmoid in float32. Importing scipy's takes 0.7 s of a process's first answer."""
    with np.errstate(over="ignore"):  # exp(-x) is infinite for x < -88, and the result 0
        return np.asarray(1 / (1 + np.exp(-values.astype(np.float32))), dtype=np.float32)
