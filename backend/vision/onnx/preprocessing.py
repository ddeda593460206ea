"""The preprocessing of exported encoders, and networks that include the normalization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from backend.errors import EncoderError
from backend.vision.onnx.export import ExportGraph

FORMAT_ONLY_TRANSFORMS = "ToTensor MaybeToTensor MaybeConvertMode PILToTensor function".split()
"""Transforms of torchvision and open_clip that only convert the pixel format."""


@dataclass(frozen=True)
class Preprocessing:
    """How to convert an image to the network input (1, 3, side, side) float32 RGB, 0 to 1.

    Colour normalization is part of the exported network.

    Attributes:
        side: input size in pixels.
        cut: resize the shorter edge to ``side`` and centre-crop; else stretch to a square.
        filter: Pillow's resampling filter, ``bilinear`` or ``bicubic``.
        gap: Pillow's ``reducing_gap``, or None.
    """

    side: int
    cut: bool
    filter: str
    gap: float | None = None


@dataclass(frozen=True)
class PortableEncoder:
    """An encoder for ONNX export: preprocessed images → embeddings of unit length."""

    graph: ExportGraph
    preprocessing: Preprocessing


def build_encoder_graph(
    network: Any, side: int, mean: Sequence[float], std: Sequence[float]
) -> ExportGraph:
    """Return the graph of a network with colour normalization and unit-length output.

    Args:
        network: (n, 3, side, side) → (n, d).
        side: input size in pixels.
        mean: training mean per RGB channel, 0 to 1.
        std: training standard deviation per channel.
    """
    example = torch.full((1, 3, side, side), 0.5).numpy()
    module = NormalizedEncoderNetwork(network, mean, std)
    return ExportGraph(module, example, "image", ["embedding"], {0: "images"})


class NormalizedEncoderNetwork(nn.Module):  # type: ignore[misc]
    """A network between colour normalization and L2 normalization."""

    def __init__(self, network: Any, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Convert images (n, 3, side, side), 0 to 1, to embeddings (n, d)."""
        rows = self.network((images - self.mean) / self.std)
        return normalize_tensor_rows(rows, 1e-12)


def normalize_tensor_rows(rows: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Scale the rows of (n, d) to unit length; norms are clamped to at least ``epsilon``."""
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(epsilon)


def read_transforms(
    name: str, transform_pipeline: Any
) -> tuple[Preprocessing, Sequence[float], Sequence[float]]:
    """Convert torchvision transforms to preprocessing, mean and std.

    Args:
        name: name of the encoder, for the error message.
        transform_pipeline: a ``Compose``.

    Raises:
        EncoderError: a transform is not supported.
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
            f"The preprocessing of {name} cannot be exported: use `prelabel endpoint`, or train "
            "with another PRELABEL_ENCODER."
        )
    return Preprocessing(side, centre_crop, resize_filter), mean, std
