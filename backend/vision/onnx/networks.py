"""What stands behind embeddings and detectors: heads and finders as networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from backend.vision.detection.network import QUERY_FAMILY
from backend.vision.detection.network_runner import NMS_IOU_THRESHOLD
from backend.vision.detection.raw_network import build_raw_network
from backend.vision.detection.trained_detector import CROSS_CLASS_IOU_THRESHOLD, TrainedDetector
from backend.vision.heads.head import Head
from backend.vision.onnx.export import ExportGraph

MIN_CANDIDATE_CONFIDENCE = 0.02
"""Confidence below which a candidate is not looked at; as in ``backend.training.detector``."""


def build_head_graph(head: Head) -> ExportGraph:
    """(n, d) embeddings of unit length → (n, K) calibrated confidence."""
    example = np.zeros((1, head.weight.shape[1]), dtype=np.float32)
    return ExportGraph(
        ExportedHeadNetwork(head), example, "embedding", ["confidence"], {0: "images"}
    )


class ExportedHeadNetwork(nn.Module):  # type: ignore[misc]
    """See :func:`build_head_graph`."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.multiple = head.multiple
        self.register_buffer("weight", torch.tensor(head.weight / head.temperature))
        self.register_buffer("bias", torch.tensor(head.bias / head.temperature))

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """See :func:`build_head_graph`."""
        logits = embedding @ self.weight.T + self.bias
        return logits.sigmoid() if self.multiple else logits.softmax(1)


def build_detector_graph(detector: TrainedDetector) -> ExportGraph:
    """(1, 3, h, w) float32 RGB, 0 to 1 → objects, best first.

    Three outputs: ``boxes`` (n, 4) x0 y0 x1 y1 in pixels of the input, ``confidence`` (n),
    ``label`` (n) index into the control's labels. Height and width are free, multiples of the
    largest cell; an RT-DETR takes squares of its size alone.
    """
    is_rtdetr = detector.network.spec.family == QUERY_FAMILY
    size = detector.class_mapping.size
    shape = (1, 3, size, size) if is_rtdetr else (1, 3, size, size // 2 // 32 * 32 or 32)
    example = np.random.default_rng(0).random(shape, dtype=np.float32)
    dynamic_axes = {} if is_rtdetr else {2: "height", 3: "width"}
    output_names = ["boxes", "confidence", "label"]
    return ExportGraph(
        ExportedDetectorNetwork(detector, is_rtdetr), example, "image", output_names, dynamic_axes
    )


class ExportedDetectorNetwork(nn.Module):  # type: ignore[misc]
    """See :func:`build_detector_graph`."""

    def __init__(self, detector: TrainedDetector, is_rtdetr: bool) -> None:
        import torchvision  # noqa: F401 - now: what it does when imported must not be traced

        super().__init__()
        self.raw_network = build_raw_network(detector.network)
        self.is_query_based = is_rtdetr
        self.strides = [int(s) for s in detector.network.module.stride] if not is_rtdetr else []
        classes = detector.class_mapping.classes
        class_labels = [classes.get(c, -1) for c in range(len(detector.network.spec.classes))]
        shares_labels = len(set(class_labels) - {-1}) < sum(one >= 0 for one in class_labels)
        self.suppress_across_classes = (
            shares_labels or is_rtdetr
        ) and not detector.class_mapping.points
        self.register_buffer("meant", torch.tensor(class_labels))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See :func:`build_detector_graph`."""
        first, second = self.raw_network(image)
        decode = self._decode_queries if self.is_query_based else self._decode_grid
        boxes, class_confidence = decode(image, first[0], second[0])
        best_confidence, classes = class_confidence.max(1)
        rows = torch.nonzero(best_confidence > MIN_CANDIDATE_CONFIDENCE)[:, 0]
        boxes, confidence, classes = boxes[rows], best_confidence[rows], classes[rows]
        if not self.is_query_based:
            boxes, confidence, classes = _nms_per_label(
                boxes, confidence, classes, NMS_IOU_THRESHOLD
            )
        label = self.meant[classes]
        labeled_rows = torch.nonzero(label >= 0)[:, 0]
        boxes, confidence, label = (
            boxes[labeled_rows],
            confidence[labeled_rows],
            label[labeled_rows],
        )
        if self.suppress_across_classes:
            boxes, confidence, label = _nms_per_label(
                boxes, confidence, label, CROSS_CLASS_IOU_THRESHOLD
            )
        return boxes, confidence, label

    def _decode_grid(self, image: Any, raw: Any, logits: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """(cells, 4) boxes and (cells, classes) confidence; raw are distances to the edges."""
        centre_list, strides = [], []
        for stride in self.strides:
            down = torch.arange(image.shape[2] // stride) + 0.5
            across = torch.arange(image.shape[3] // stride) + 0.5
            y, x = torch.meshgrid(down, across, indexing="ij")
            cells = torch.stack([x.flatten(), y.flatten()], 1)
            centre_list.append(cells)
            strides.append(torch.zeros_like(cells) + stride)
        cell_centres, stride = torch.cat(centre_list), torch.cat(strides)
        edges = _expected_distances(raw)
        top_left, bottom_right = (
            (cell_centres - edges[:, :2]) * stride,
            (cell_centres + edges[:, 2:]) * stride,
        )
        return torch.cat([top_left, bottom_right], 1), logits.T.sigmoid()

    def _decode_queries(
        self, image: Any, raw: Any, table: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(queries, 4) boxes, best first, and (queries, classes) confidence."""
        order = table.max(1).values.argsort(descending=True)
        raw, table = raw[order] * self.input_scale(image), table[order]
        half = raw[:, 2:] / 2
        return torch.cat([raw[:, :2] - half, raw[:, :2] + half], 1), table

    @staticmethod
    def input_scale(image: torch.Tensor) -> torch.Tensor:
        """Pixels of the input's width, height, width, height."""
        return torch.tensor([image.shape[3], image.shape[2]] * 2, dtype=torch.float32)


def _expected_distances(raw: torch.Tensor) -> torch.Tensor:
    """(4 · bins, cells) → (cells, 4): the mean of each edge's distribution over distances."""
    bins = raw.shape[0] // 4
    if bins == 1:
        return raw.T
    shares = raw.view(4, bins, -1).softmax(1)
    return (shares * torch.arange(bins, dtype=torch.float32)[:, None]).sum(1).T


def _nms_per_label(
    boxes: torch.Tensor, confidence: torch.Tensor, labels: torch.Tensor, iou_threshold: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of boxes of one label that overlap by more, only the most certain stays; best first."""
    from torchvision.ops import nms

    label_offsets = labels.to(boxes.dtype)[:, None] * 10_000.0
    keep = nms(boxes + label_offsets, confidence, iou_threshold)
    return boxes[keep], confidence[keep], labels[keep]
