"""Detectors that only learned a linear last layer on the features of a frozen network.

They are trained in seconds (linear probing). The frozen network proposes a box per cell. A linear
layer on the cell's features scores it, either once per label or once as an object of any label. In
the second case another linear layer on the features inside the box decides on the label, which
distinguishes similar labels better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backend.arrays import Floats
from backend.vision.detection.box_features import box_features
from backend.vision.detection.detections import NO_DETECTIONS, Detections, suppress_per_label
from backend.vision.detection.feature_network import FeatureRunner, ImageFeatures
from backend.vision.detection.network import (
    DetectionNetwork,
    damaged_detector_error,
    load_network,
    save_network,
)
from backend.vision.detection.network_runner import NMS_IOU_THRESHOLD, sigmoid
from backend.vision.detection.trained_detector import (
    ClassMapping,
    map_to_labels,
    read_class_mapping,
    write_class_mapping,
)

if TYPE_CHECKING:
    from PIL import Image

PROBE_FILE = "probe.npz"
MAX_CANDIDATES = 1000
"""Maximum number of cells per image before NMS."""

FeatureRunnerLoader = Callable[[DetectionNetwork, int, str], FeatureRunner]
"""(network, input size in pixels, hash of the weights) → a runner, which may be shared."""


@dataclass(frozen=True)
class Probe:
    """The learned layers.

    Attributes:
        cell_weights: (levels, S, c) float32, S scores per cell: one per label, or 1 for any label.
        cell_biases: (levels, S) float32.
        label_weights: (K, r) float32 weights of each label on the features inside a box; (0, 0) if
            the cells are scored per label.
        label_biases: (K,) float32.
    """

    cell_weights: Floats
    cell_biases: Floats
    label_weights: Floats
    label_biases: Floats

    def cell_logits(self, features: ImageFeatures) -> Floats:
        """Return the logits of all cells, (cells, S) float32."""
        levels = features.levels()
        logits = np.empty((len(levels), self.cell_weights.shape[1]), dtype=np.float32)
        for level, (weights, biases) in enumerate(
            zip(self.cell_weights, self.cell_biases, strict=True)
        ):
            rows = np.flatnonzero(levels == level)
            logits[rows] = features.cells[:, rows].T @ weights.T + biases
        return logits

    def label_probabilities(self, rows: Floats) -> Floats:
        """Return the probability of each label, (n, K), for (n, r) features inside boxes."""
        logits = rows @ self.label_weights.T + self.label_biases
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True), dtype=np.float32)

    def detect(
        self, features: ImageFeatures, min_confidence: float, square_px: float = 0.0
    ) -> Detections:
        """Return the detections of an image, with boxes that may exceed it.

        Args:
            features: features of the image.
            min_confidence: confidence threshold, 0 to 1.
            square_px: side of the squares that replace the boxes of points, in pixels of the
                input; 0 keeps the boxes.
        """
        logits = self.cell_logits(features)
        best = logits.max(axis=1)
        cells = np.flatnonzero(best > np.log(min_confidence / (1 - min_confidence)))
        cells = cells[np.argsort(-best[cells], kind="stable")[:MAX_CANDIDATES]]
        if not len(cells):
            return NO_DETECTIONS
        boxes, confidence = to_squares(features.boxes(cells), square_px), sigmoid(best[cells])
        labels = logits[cells].argmax(axis=1).astype(np.int64)
        keep = suppress_per_label(boxes, confidence, labels, NMS_IOU_THRESHOLD)
        boxes, confidence, labels = boxes[keep], confidence[keep], labels[keep]
        if len(self.label_weights):
            shares = self.label_probabilities(box_features(features.maps, boxes, features.position))
            scores = confidence[:, None] * shares
            rows, labels = np.nonzero(scores > min_confidence)
            boxes, confidence = boxes[rows], scores[rows, labels]
            order = np.argsort(-confidence, kind="stable")
            boxes, confidence, labels = boxes[order], confidence[order], labels[order]
        return Detections(features.position.to_image_boxes(boxes), confidence, labels)


def to_squares(boxes: Floats, square_px: float) -> Floats:
    """Return squares with the centres of boxes, (n, 4); the boxes themselves if the side is 0."""
    if not square_px:
        return boxes
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.concatenate([centres - square_px / 2, centres + square_px / 2], axis=1)


def square_side_px(mapping: ClassMapping) -> float:
    """Return the side of squares around points in pixels of the input; 0 for boxes."""
    return float(np.median(list(mapping.sides.values()))) * mapping.size if mapping.points else 0.0


@dataclass
class ProbeDetector:
    """A detector with a frozen network and a probe.

    Attributes:
        network: the frozen network.
        class_mapping: maps the labels of the probe to those of the control.
        key: hash of the network's weights; detectors with equal keys share a runner.
        probe: the learned layers.
        load_feature_runner: returns the runner.
    """

    network: DetectionNetwork
    class_mapping: ClassMapping
    key: str
    probe: Probe
    load_feature_runner: FeatureRunnerLoader

    def detect(self, images: Sequence[Image.Image], min_confidence: float) -> list[Detections]:
        """See :meth:`TrainedDetector.detect`."""
        runner = self.load_feature_runner(self.network, self.class_mapping.size, self.key)
        pairs = zip(runner.features(images), images, strict=True)
        mapping = self.class_mapping
        return [
            probe_detections(
                self.probe, mapping, features, image.width / image.height, min_confidence
            )
            for features, image in pairs
        ]

    def save(self, folder: Path) -> None:
        """Save the detector to an empty folder."""
        save_network(self.network, folder)
        arrays = vars(self.probe)
        with (folder / PROBE_FILE).open("wb") as file:
            np.savez(file, **arrays)
        write_class_mapping(self.class_mapping, folder, key=self.key)


def probe_detections(
    probe: Probe,
    mapping: ClassMapping,
    features: ImageFeatures,
    aspect_ratio: float,
    min_confidence: float,
) -> Detections:
    """Return the detections of a probe, as :func:`map_to_labels` does.

    Args:
        probe: the probe.
        mapping: maps its labels to those of the control.
        features: features of the image.
        aspect_ratio: width / height of the image.
        min_confidence: confidence threshold, 0 to 1.
    """
    raw = probe.detect(features, min_confidence, square_side_px(mapping))
    return map_to_labels(raw, mapping, aspect_ratio)


def is_probe(folder: Path) -> bool:
    """Return whether the folder holds a detector saved by :meth:`ProbeDetector.save`."""
    return (folder / PROBE_FILE).is_file()


def load_probe_detector(folder: Path, load_feature_runner: FeatureRunnerLoader) -> ProbeDetector:
    """Load a detector saved by :meth:`ProbeDetector.save`.

    Raises:
        DetectorError: a file is missing or damaged.
    """
    mapping, extra = read_class_mapping(folder)
    try:
        with np.load(folder / PROBE_FILE, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in Probe.__dataclass_fields__}
        probe, key = Probe(**arrays), extra["key"]
    except Exception as error:  # numpy raises many exception types
        raise damaged_detector_error(folder, error) from error
    return ProbeDetector(load_network(folder), mapping, key, probe, load_feature_runner)
