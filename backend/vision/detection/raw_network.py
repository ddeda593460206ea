"""Detection networks without decoding layers; decoding only the candidates is cheaper."""

from __future__ import annotations

from collections.abc import Sequence
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


def build_feature_network(network: DetectionNetwork) -> nn.Module:
    """Return a module that maps (b, 3, h, w) float32, 0 to 1, to features.

    They are the distance logits (b, 4 · bins, cells), the inputs of the last class layers (b, c,
    cells), and feature maps of the backbone (b, c, h, w), finest first.
    """
    return GridFeatureNetwork(deepcopy(network.module).fuse(verbose=False)).eval()


class _HeadlessNetwork(nn.Module):  # type: ignore[misc]
    """Base class that runs the layers before the head."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def feature_maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the input feature maps of the head."""
        layer_outputs = self.layer_outputs(x)
        return [layer_outputs[j] for j in self.module.model[-1].f]

    def layer_outputs(self, x: torch.Tensor, kept: Sequence[int] = ()) -> list[Any]:
        """Return the outputs of the layers before the head, None for those that are not needed.

        Args:
            x: the input.
            kept: layers whose outputs are needed besides those that other layers read.
        """
        layer_outputs: list[Any] = []
        for layer in self.module.model[:-1]:
            x = layer(self._layer_input(layer, x, layer_outputs))
            is_needed = layer.i in self.module.save or layer.i in kept
            layer_outputs.append(x if is_needed else None)
        layer_outputs[-1] = x
        return layer_outputs

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


class GridFeatureNetwork(_HeadlessNetwork):
    """YOLO with the inputs of its last class layers, and feature maps of its backbone."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self._map_layers = _backbone_layers(module)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See :func:`build_feature_network`."""
        head = self.module.model[-1]
        layer_outputs = self.layer_outputs(x, self._map_layers)
        head_inputs = [layer_outputs[j] for j in head.f]
        boxes = [layer(m).flatten(2) for layer, m in zip(head.cv2, head_inputs, strict=True)]
        cells = [branch[:-1](m).flatten(2) for branch, m in zip(head.cv3, head_inputs, strict=True)]
        maps = [layer_outputs[layer] for layer in self._map_layers]
        return torch.cat(boxes, 2), torch.cat(cells, 2), *maps


def _backbone_layers(module: Any) -> tuple[int, ...]:
    """Return the last layer of each stride before the first upsampling, for the head's strides."""
    strides: dict[int, int] = {}
    edge = 4 * int(module.stride.max())
    network = _HeadlessNetwork(module)
    with torch.inference_mode():
        outputs = network.layer_outputs(torch.zeros(1, 3, edge, edge), range(len(module.model)))
    for layer, output in zip(module.model, outputs, strict=False):
        if isinstance(layer, nn.Upsample):
            break
        strides[edge // output.shape[-1]] = layer.i
    return tuple(strides[int(s)] for s in module.stride if int(s) in strides)


class RawQueryNetwork(_HeadlessNetwork):
    """RT-DETR with the outputs of its last decoder layer."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :func:`build_raw_network`."""
        _, raw = self.module.model[-1](self.feature_maps(x))
        query_boxes, logits = raw[:2]  # (layers, b, queries, 4) and (layers, b, queries, classes)
        return query_boxes[-1], logits[-1].sigmoid()
