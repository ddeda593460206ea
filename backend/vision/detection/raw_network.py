"""Detection networks without decoding layers; decoding only the candidates is cheaper."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from backend.vision.detection.network import QUERY_FAMILY, DetectionNetwork


def build_raw_network(network: DetectionNetwork) -> nn.Module:
    """Return a module that maps (b, 3, h, w) float32, 0 to 1, to undecoded outputs.

    YOLO: distance logits (b, 4 · bins, cells) and class logits (b, classes, cells). RT-DETR: boxes
    (b, queries, 4) as centre and size, 0 to 1, and confidence (b, queries, classes).
    """
    network_class = RawQueryNetwork if network.spec.family == QUERY_FAMILY else RawGridNetwork
    return network_class(deepcopy(network.module).fuse(verbose=False)).eval()


class _HeadlessNetwork(nn.Module):  # type: ignore[misc]
    """Base class that runs the layers before the head."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def feature_maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the input feature maps of the head."""
        layer_outputs: list[Any] = []
        for layer in self.module.model[:-1]:
            x = layer(self._layer_input(layer, x, layer_outputs))
            layer_outputs.append(x if layer.i in self.module.save else None)
        head = self.module.model[-1]
        return [x if j == -1 else layer_outputs[j] for j in head.f]

    @staticmethod
    def _layer_input(layer: Any, x: Any, layer_outputs: list[Any]) -> Any:
        if layer.f == -1:
            return x
        if isinstance(layer.f, int):
            return layer_outputs[layer.f]
        return [x if j == -1 else layer_outputs[j] for j in layer.f]


class RawGridNetwork(_HeadlessNetwork):
    """YOLO with the undecoded outputs of its head."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :func:`build_raw_network`."""
        head = self.module.model[-1]
        head_inputs = self.feature_maps(x)
        boxes = [layer(m).flatten(2) for layer, m in zip(head.cv2, head_inputs, strict=True)]
        logits = [layer(m).flatten(2) for layer, m in zip(head.cv3, head_inputs, strict=True)]
        return torch.cat(boxes, 2), torch.cat(logits, 2)


class RawQueryNetwork(_HeadlessNetwork):
    """RT-DETR with the outputs of its last decoder layer."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :func:`build_raw_network`."""
        _, raw = self.module.model[-1](self.feature_maps(x))
        query_boxes, logits = raw[:2]  # (layers, b, queries, 4) and (layers, b, queries, classes)
        return query_boxes[-1], logits[-1].sigmoid()
