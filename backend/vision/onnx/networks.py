"""Heads and detectors as torch networks with post-processing, for export to ONNX."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from backend.vision.detection.detections import MIN_DETECTION_CONFIDENCE
from backend.vision.detection.network import QUERY_FAMILY
from backend.vision.detection.network_runner import NMS_IOU_THRESHOLD
from backend.vision.detection.raw_network import build_raw_network
from backend.vision.detection.trained_detector import CROSS_CLASS_IOU_THRESHOLD, TrainedDetector
from backend.vision.heads.head import Head
from backend.vision.onnx.export import ExportGraph


def build_head_graph(head: Head) -> ExportGraph:
    """Return the graph (n, d) embeddings of unit length → (n, K) calibrated confidence."""
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
    """Return the graph (1, 3, h, w) float32 RGB, 0 to 1 → detections, most confident first.

    The outputs are ``boxes`` (n, 4) x0 y0 x1 y1 in pixels of the input, ``confidence`` (n,) and
    ``label`` (n,), an index into the control's labels. Height and width are multiples of the
    stride; RT-DETR accepts only squares of its input size.
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
        import torchvision  # noqa: F401 - imported here so that the import is not traced

        super().__init__()
        self.raw_network = build_raw_network(detector.network)
        self.is_query_based = is_rtdetr
        self.strides = [*detector.network.strides] if not is_rtdetr else []
        classes = detector.class_mapping.classes
        class_labels = [classes.get(c, -1) for c in range(len(detector.network.spec.classes))]
        shares_labels = len(set(class_labels) - {-1}) < sum(label >= 0 for label in class_labels)
        points = detector.class_mapping.points
        self.suppress_across_classes = (shares_labels or is_rtdetr) and not points
        self.register_buffer("class_labels", torch.tensor(class_labels))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See :func:`build_detector_graph`."""
        first, second = self.raw_network(image)
        decode = self._decode_queries if self.is_query_based else self._decode_grid
        boxes, class_confidence = decode(image, first[0], second[0])
        best_confidence, classes = class_confidence.max(1)
        rows = torch.nonzero(best_confidence > MIN_DETECTION_CONFIDENCE)[:, 0]
        detections = boxes[rows], best_confidence[rows], classes[rows]
        if not self.is_query_based:
            detections = _nms_per_label(*detections, NMS_IOU_THRESHOLD)
        boxes, confidence, classes = detections
        label = self.class_labels[classes]
        rows = torch.nonzero(label >= 0)[:, 0]
        detections = boxes[rows], confidence[rows], label[rows]
        if self.suppress_across_classes:
            detections = _nms_per_label(*detections, CROSS_CLASS_IOU_THRESHOLD)
        return detections

    def _decode_grid(
        self, image: torch.Tensor, raw: torch.Tensor, logits: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode YOLO's edge distances: (cells, 4) boxes and (cells, classes) confidence."""
        level_centres, strides = [], []
        for stride in self.strides:
            down = torch.arange(image.shape[2] // stride) + 0.5
            across = torch.arange(image.shape[3] // stride) + 0.5
            y, x = torch.meshgrid(down, across, indexing="ij")
            cells = torch.stack([x.flatten(), y.flatten()], 1)
            level_centres.append(cells)
            strides.append(torch.zeros_like(cells) + stride)
        cell_centres, stride = torch.cat(level_centres), torch.cat(strides)
        edges = _expected_distances(raw)
        top_left = (cell_centres - edges[:, :2]) * stride
        bottom_right = (cell_centres + edges[:, 2:]) * stride
        return torch.cat([top_left, bottom_right], 1), logits.T.sigmoid()

    def _decode_queries(
        self, image: torch.Tensor, raw: torch.Tensor, confidence: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode RT-DETR's queries, most confident first: (queries, 4) boxes and confidence."""
        order = confidence.max(1).values.argsort(descending=True)
        input_size = torch.tensor([image.shape[3], image.shape[2]] * 2, dtype=torch.float32)
        raw, confidence = raw[order] * input_size, confidence[order]
        half = raw[:, 2:] / 2
        return torch.cat([raw[:, :2] - half, raw[:, :2] + half], 1), confidence


def _expected_distances(raw: torch.Tensor) -> torch.Tensor:
    """Return the expected distance to each edge, (4 · bins, cells) → (cells, 4) (DFL)."""
    bins = raw.shape[0] // 4
    if bins == 1:
        return raw.T
    weights = raw.view(4, bins, -1).softmax(1)
    return (weights * torch.arange(bins, dtype=torch.float32)[:, None]).sum(1).T


def _nms_per_label(
    boxes: torch.Tensor, confidence: torch.Tensor, labels: torch.Tensor, iou_threshold: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Apply non-maximum suppression per label and sort by descending confidence."""
    from torchvision.ops import nms

    label_offsets = labels.to(boxes.dtype)[:, None] * 10_000.0
    keep = nms(boxes + label_offsets, confidence, iou_threshold)
    return boxes[keep], confidence[keep], labels[keep]
