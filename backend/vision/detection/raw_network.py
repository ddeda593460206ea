"""A network without its last arithmetic, which is cheaper on the few candidates that matter."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from backend.vision.detection.network import QUERIES, Network


def raw_outputs(network: Network) -> nn.Module:
    """A module: (b, 3, h, w) float32, 0 to 1 → two tensors.

    For a grid: distances (b, 4 · bins, cells) and logits (b, classes, cells). For queries: places
    (b, queries, 4) as middle and size, 0 to 1, and confidence (b, queries, classes).
    """
    kind = Queries if network.plan.family == QUERIES else Grid
    return kind(deepcopy(network.module).fuse(verbose=False)).eval()


class _Through(nn.Module):  # type: ignore[misc]
    """Runs the layers up to the head."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """What the head looks at."""
        kept: list[Any] = []
        for layer in self.module.model[:-1]:
            x = layer(self._input(layer, x, kept))
            kept.append(x if layer.i in self.module.save else None)
        head = self.module.model[-1]
        return [x if j == -1 else kept[j] for j in head.f]

    @staticmethod
    def _input(layer: Any, x: Any, kept: list[Any]) -> Any:
        if layer.f == -1:
            return x
        if isinstance(layer.f, int):
            return kept[layer.f]
        return [x if j == -1 else kept[j] for j in layer.f]


class Grid(_Through):
    """YOLO: the raw numbers of each cell."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :func:`raw_outputs`."""
        head = self.module.model[-1]
        maps = self.features(x)
        boxes = [layer(m).flatten(2) for layer, m in zip(head.cv2, maps, strict=True)]
        logits = [layer(m).flatten(2) for layer, m in zip(head.cv3, maps, strict=True)]
        return torch.cat(boxes, 2), torch.cat(logits, 2)


class Queries(_Through):
    """RT-DETR: the last decoder layer's answers."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :func:`raw_outputs`."""
        _, raw = self.module.model[-1](self.features(x))
        places, logits = raw[:2]  # (layers, b, queries, 4) and (layers, b, queries, classes)
        return places[-1], logits[-1].sigmoid()
