"""What has to be done to an image before a network sees it, as far as others can do the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from backend.errors import EncoderError
from backend.vision.onnx.export import Graph

HARMLESS = ("ToTensor", "MaybeToTensor", "MaybeConvertMode", "PILToTensor", "function")
"""Steps of torchvision and open_clip that only change how pixels are held."""


@dataclass(frozen=True)
class Preparation:
    """An image → (1, 3, side, side) float32 RGB, 0 to 1. What follows is part of the network.

    Attributes:
        side: pixels of the square.
        cut: the shorter edge is scaled to ``side`` and the middle cut out; else both edges are
            scaled, whatever becomes of the shape.
        filter: ``bilinear`` or ``bicubic``, as Pillow has them.
        gap: Pillow's ``reducing_gap``; None: none.
    """

    side: int
    cut: bool
    filter: str
    gap: float | None = None


@dataclass(frozen=True)
class PortableEncoder:
    """An encoder that others can run: images → embeddings of unit length."""

    graph: Graph
    preparation: Preparation


def encoder_graph(network: Any, side: int, mean: Sequence[float], std: Sequence[float]) -> Graph:
    """A network whose colours are shifted and scaled inside.

    Args:
        network: (n, 3, side, side) → (n, d).
        side: pixels.
        mean: by channel, of the pixels as it was trained; RGB, 0 to 1.
        std: the same, what the rest is divided by.
    """
    example = torch.full((1, 3, side, side), 0.5).numpy()
    return Graph(Unit(network, mean, std), example, "image", ["embedding"], {0: "images"})


class Unit(nn.Module):  # type: ignore[misc]
    """Colours shifted and scaled, then the network, then rows of unit length."""

    def __init__(self, network: Any, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, side, side), 0 to 1 → (n, d)."""
        rows = self.network((images - self.mean) / self.std)
        return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)


def read_steps(name: str, steps: Any) -> tuple[Preparation, Sequence[float], Sequence[float]]:
    """The steps of torchvision that belong to an encoder: how to prepare, mean, std.

    Args:
        name: of the encoder, for the error.
        steps: a ``Compose``.

    Raises:
        EncoderError: there is a step that others could not do the same way.
    """
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)
    side, cut, filter = 0, False, ""
    for step in getattr(steps, "transforms", [steps]):
        kind = type(step).__name__
        if kind == "Resize":
            size = step.size
            cut = isinstance(size, int) or len(size) == 1
            side = size if isinstance(size, int) else size[0]
            filter = str(step.interpolation.value)
        elif kind == "CenterCrop":
            if tuple(step.size) != (side, side):
                side = 0
        elif kind == "Normalize":
            mean, std = [float(v) for v in step.mean], [float(v) for v in step.std]
        elif kind not in HARMLESS:
            side = 0
    if not side or filter not in ("bilinear", "bicubic"):
        raise EncoderError(
            f"How {name} prepares its images cannot be exported: use `prelabel endpoint`, or "
            "train with another PRELABEL_ENCODER."
        )
    return Preparation(side, cut, filter), mean, std
