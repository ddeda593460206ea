"""The EfficientNet-Lite network, built from plain torch layers.

Source: Tan and Le 2019 (EfficientNet), and the Lite variants of the TensorFlow TPU repository: no
squeeze-and-excitation, ReLU6, and stem and head that are not scaled. The libraries that have it
import torchvision, which takes several seconds and 200 MB in each process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

STEM_CHANNELS = 32
BATCH_NORM_EPSILON = 1e-3
"""Epsilon of the TensorFlow training code; torch's own default is 1e-5."""


@dataclass(frozen=True)
class Stage:
    """A stage of inverted residual blocks, before scaling.

    Attributes:
        repeats: number of blocks.
        kernel: side of the depthwise kernel in pixels.
        stride: stride of the first block.
        expansion: ratio of inner to input channels.
        channels: output channels.
    """

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


@dataclass(frozen=True)
class Scaling:
    """The size of a variant.

    Attributes:
        width: factor of the channels of all stages.
        depth: factor of the repeats, except in the first and the last stage.
        side: input size in pixels.
        embedding_dim: output channels; no variant scales them.
    """

    width: float
    depth: float
    side: int
    embedding_dim: int


def build_network(scaling: Scaling) -> nn.Sequential:
    """Return the network up to its pooled features: (n, 3, side, side) → (n, embedding_dim)."""
    side = scaling.side
    layers: list[Any] = [_convolution(3, STEM_CHANNELS, 3, 2, side), nn.ReLU6()]
    side, channels = math.ceil(side / 2), STEM_CHANNELS
    for stage in STAGES:
        is_scaled = stage not in (STAGES[0], STAGES[-1])
        repeats = math.ceil(stage.repeats * scaling.depth) if is_scaled else stage.repeats
        for block in range(repeats):
            output = _scale_channels(stage.channels, scaling.width)
            stride = stage.stride if block == 0 else 1
            layers.append(InvertedResidual(stage, channels, output, stride, side))
            side, channels = math.ceil(side / stride), output
    layers += [_convolution(channels, scaling.embedding_dim, 1, 1, side), nn.ReLU6()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class InvertedResidual(nn.Module):  # type: ignore[misc]
    """Expand, filter each channel, project; add the input where the shapes are equal."""

    def __init__(self, stage: Stage, channels: int, output: int, stride: int, side: int) -> None:
        super().__init__()
        inner = channels * stage.expansion
        expand = [_convolution(channels, inner, 1, 1, side), nn.ReLU6()]
        self.layers = nn.Sequential(
            *(expand if stage.expansion > 1 else []),
            _convolution(inner, inner, stage.kernel, stride, side, groups=inner),
            nn.ReLU6(),
            _convolution(inner, output, 1, 1, side),
        )
        self.has_shortcut = stride == 1 and channels == output

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Convert features (n, channels, h, w) to (n, output, h / stride, w / stride)."""
        filtered = self.layers(features)
        return features + filtered if self.has_shortcut else filtered


def _convolution(
    channels: int, output: int, kernel: int, stride: int, side: int, groups: int = 1
) -> nn.Sequential:
    """Return a convolution with TensorFlow's padding *same*, and its batch normalization."""
    total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
    before, after = total // 2, total - total // 2
    padding = before if before == after else 0
    convolution = nn.Conv2d(channels, output, kernel, stride, padding, groups=groups, bias=False)
    uneven = [] if before == after else [nn.ZeroPad2d((before, after, before, after))]
    return nn.Sequential(*uneven, convolution, nn.BatchNorm2d(output, eps=BATCH_NORM_EPSILON))


def _scale_channels(channels: int, width: float) -> int:
    """Return the scaled number of channels: a multiple of 8 that is at least 90 % of it."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded
