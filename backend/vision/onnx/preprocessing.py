"""What has to be done to an image before a network sees it, as far as others can do the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from backend.errors import EncoderError
from backend.vision.onnx.export import ExportGraph

FORMAT_ONLY_TRANSFORMS = (
    "ToTensor",
    "MaybeToTensor",
    "MaybeConvertMode",
    "PILToTensor",
    "function",
)
"""Steps of torchvision and open_clip that only change how pixels are held."""


@dataclass(frozen=True)
class Preprocessing:
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

    graph: ExportGraph
    preprocessing: Preprocessing


def build_encoder_graph(
    network: Any, side: int, mean: Sequence[float], std: Sequence[float]
) -> ExportGraph:
    """A network whose colours are shifted and scaled inside.

    Args:
        network: (n, 3, side, side) → (n, d).
        side: pixels.
        mean: by channel, of the pixels as it was trained; RGB, 0 to 1.
        std: the same, what the rest is divided by.
    """
    example = torch.full((1, 3, side, side), 0.5).numpy()
    return ExportGraph(
        NormalizedEncoderNetwork(network, mean, std), example, "image", ["embedding"], {0: "images"}
    )


class NormalizedEncoderNetwork(nn.Module):  # type: ignore[misc]
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


def read_transforms(
    name: str, transform_pipeline: Any
) -> tuple[Preprocessing, Sequence[float], Sequence[float]]:
    """The steps of torchvision that belong to an encoder: how to prepare, mean, std.

    Args:
        name: of the encoder, for the error.
        transform_pipeline: a ``Compose``.

    Raises:
        EncoderError: there is a step that others could not do the same way.
    """
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)
    side, centre_crop, resize_filter = 0, False, ""
    for step in getattr(transform_pipeline, "transforms", [transform_pipeline]):
        step_type = type(step).__name__
        if step_type == "Resize":
            size = step.size
            centre_crop = isinstance(size, int) or len(size) == 1
            side = size if isinstance(size, int) else size[0]
            resize_filter = str(step.interpolation.value)
        elif step_type == "CenterCrop":
            if tuple(step.size) != (side, side):
                side = 0
        elif step_type == "Normalize":
            mean, std = [float(v) for v in step.mean], [float(v) for v in step.std]
        elif step_type not in FORMAT_ONLY_TRANSFORMS:
            side = 0
    if not side or resize_filter not in ("bilinear", "bicubic"):
        raise EncoderError(
            f"How {name} prepares its images cannot be exported: use `prelabel endpoint`, or "
            "train with another PRELABEL_ENCODER."
        )
    return Preprocessing(side, centre_crop, resize_filter), mean, std
