"""What stands behind embeddings and detectors: heads and finders as networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from backend.vision.detection.network import QUERIES
from backend.vision.detection.network_runner import OVERLAP
from backend.vision.detection.raw_network import raw_outputs
from backend.vision.detection.trained_detector import TWO_CLASSES, Finder
from backend.vision.heads.head import Head
from backend.vision.onnx.export import Graph

LEAST = 0.02
"""Confidence below which a candidate is not looked at; as in ``backend.training.detector``."""


def head_graph(head: Head) -> Graph:
    """(n, d) embeddings of unit length → (n, K) calibrated confidence."""
    example = np.zeros((1, head.weight.shape[1]), dtype=np.float32)
    return Graph(HeadNetwork(head), example, "embedding", ["confidence"], {0: "images"})


class HeadNetwork(nn.Module):  # type: ignore[misc]
    """See :func:`head_graph`."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.multiple = head.multiple
        self.register_buffer("weight", torch.tensor(head.weight / head.temperature))
        self.register_buffer("bias", torch.tensor(head.bias / head.temperature))

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """See :func:`head_graph`."""
        logits = embedding @ self.weight.T + self.bias
        return logits.sigmoid() if self.multiple else logits.softmax(1)


def finder_graph(finder: Finder) -> Graph:
    """(1, 3, h, w) float32 RGB, 0 to 1 → objects, best first.

    Three outputs: ``boxes`` (n, 4) x0 y0 x1 y1 in pixels of the input, ``confidence`` (n),
    ``label`` (n) index into the control's labels. Height and width are free, multiples of the
    largest cell; an RT-DETR takes squares of its size alone.
    """
    queries = finder.network.plan.family == QUERIES
    size = finder.meaning.size
    shape = (1, 3, size, size) if queries else (1, 3, size, size // 2 // 32 * 32 or 32)
    example = np.random.default_rng(0).random(shape, dtype=np.float32)
    free = {} if queries else {2: "height", 3: "width"}
    gives = ["boxes", "confidence", "label"]
    return Graph(FinderNetwork(finder, queries), example, "image", gives, free)


class FinderNetwork(nn.Module):  # type: ignore[misc]
    """See :func:`finder_graph`."""

    def __init__(self, finder: Finder, queries: bool) -> None:
        import torchvision  # noqa: F401 - now: what it does when imported must not be traced

        super().__init__()
        self.raw = raw_outputs(finder.network)
        self.queries = queries
        self.strides = [int(s) for s in finder.network.module.stride] if not queries else []
        classes = finder.meaning.classes
        meant = [classes.get(c, -1) for c in range(len(finder.network.plan.classes))]
        several = len(set(meant) - {-1}) < sum(one >= 0 for one in meant)
        self.twice = (several or queries) and not finder.meaning.points
        self.register_buffer("meant", torch.tensor(meant))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See :func:`finder_graph`."""
        first, second = self.raw(image)
        decode = self._of_queries if self.queries else self._of_grid
        boxes, table = decode(image, first[0], second[0])
        best, classes = table.max(1)
        rows = torch.nonzero(best > LEAST)[:, 0]
        boxes, confidence, classes = boxes[rows], best[rows], classes[rows]
        if not self.queries:
            boxes, confidence, classes = _apart(boxes, confidence, classes, OVERLAP)
        label = self.meant[classes]
        known = torch.nonzero(label >= 0)[:, 0]
        boxes, confidence, label = boxes[known], confidence[known], label[known]
        if self.twice:
            boxes, confidence, label = _apart(boxes, confidence, label, TWO_CLASSES)
        return boxes, confidence, label

    def _of_grid(self, image: Any, raw: Any, logits: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """(cells, 4) boxes and (cells, classes) confidence; raw are distances to the edges."""
        middles, strides = [], []
        for stride in self.strides:
            down = torch.arange(image.shape[2] // stride) + 0.5
            across = torch.arange(image.shape[3] // stride) + 0.5
            y, x = torch.meshgrid(down, across, indexing="ij")
            cells = torch.stack([x.flatten(), y.flatten()], 1)
            middles.append(cells)
            strides.append(torch.zeros_like(cells) + stride)
        middle, stride = torch.cat(middles), torch.cat(strides)
        edges = _expected(raw)
        low, high = (middle - edges[:, :2]) * stride, (middle + edges[:, 2:]) * stride
        return torch.cat([low, high], 1), logits.T.sigmoid()

    def _of_queries(self, image: Any, raw: Any, table: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """(queries, 4) boxes, best first, and (queries, classes) confidence."""
        order = table.max(1).values.argsort(descending=True)
        raw, table = raw[order] * self.strides_of(image), table[order]
        half = raw[:, 2:] / 2
        return torch.cat([raw[:, :2] - half, raw[:, :2] + half], 1), table

    @staticmethod
    def strides_of(image: torch.Tensor) -> torch.Tensor:
        """Pixels of the input's width, height, width, height."""
        return torch.tensor([image.shape[3], image.shape[2]] * 2, dtype=torch.float32)


def _expected(raw: torch.Tensor) -> torch.Tensor:
    """(4 · bins, cells) → (cells, 4): the mean of each edge's distribution over distances."""
    bins = raw.shape[0] // 4
    if bins == 1:
        return raw.T
    shares = raw.view(4, bins, -1).softmax(1)
    return (shares * torch.arange(bins, dtype=torch.float32)[:, None]).sum(1).T


def _apart(
    boxes: torch.Tensor, confidence: torch.Tensor, labels: torch.Tensor, most: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of boxes of one label that overlap by more, only the most certain stays; best first."""
    from torchvision.ops import nms

    far = labels.to(boxes.dtype)[:, None] * 10_000.0
    kept = nms(boxes + far, confidence, most)
    return boxes[kept], confidence[kept], labels[kept]
