"""Run a detection network up to its last layers, whose inputs serve as features.

A detector that only learns the last layer needs no further pass through the network: it trains on
these features in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.arrays import Floats, Indices
from backend.callbacks import LogCallback
from backend.vision.detection.letterbox import Letterbox
from backend.vision.detection.network import GRID_FAMILY, DetectionNetwork
from backend.vision.detection.network_runner import (
    architecture_hash,
    cell_centres,
    example_input,
    expected_distances,
    to_network_input,
)

if TYPE_CHECKING:
    from PIL import Image

    from backend.vision.runtime import Runner

FEATURE_BATCH_SIZE = 8
"""Images whose features, about 9 MB each, are held in memory at a time."""


@dataclass(frozen=True)
class ImageFeatures:
    """The features of one image.

    A cell is a position of the network's output grid; there are about 8,400 in 640 × 640 pixels.

    Attributes:
        distances: (4 · bins, cells) float32, the undecoded distances to the edges of the box.
        cells: (c, cells) float32, input of the last class layer.
        maps: feature maps of the backbone, (c, h, w) float32, finest first.
        position: position of the image in the input.
        strides: strides of the output levels in pixels.
    """

    distances: Floats
    cells: Floats
    maps: tuple[Floats, ...]
    position: Letterbox
    strides: tuple[int, ...]

    def boxes(self, cells: Indices) -> Floats:
        """Return the boxes of cells, (n, 4) float32 x0 y0 x1 y1 in pixels of the input."""
        centres, strides = cell_centres(self.position.input_size, self.strides)
        edges = expected_distances(self.distances[:, cells])
        low, high = centres[cells] - edges[:, :2], centres[cells] + edges[:, 2:]
        return np.asarray(np.concatenate([low, high], 1) * strides[cells, None], dtype=np.float32)

    def levels(self) -> Indices:
        """Return the output level of each cell, (cells,)."""
        _, strides = cell_centres(self.position.input_size, self.strides)
        return np.searchsorted(np.array(self.strides), strides)


@dataclass
class FeatureRunner:
    """Computes the features of images.

    Attributes:
        network: the network; its own classes are not used.
        input_size: longer edge of the input in pixels.
        runner: runner of the network without its last class layer.
    """

    network: DetectionNetwork
    input_size: int
    runner: Runner = field(repr=False)

    def features(self, images: Sequence[Image.Image]) -> Iterator[ImageFeatures]:
        """Yield the features of upright RGB images of any size."""
        for start in range(0, len(images), FEATURE_BATCH_SIZE):
            batch = images[start : start + FEATURE_BATCH_SIZE]
            inputs = [to_network_input(image, self.network, self.input_size) for image in batch]
            outputs = self.runner.run([pixels for pixels, _ in inputs])
            for (_, position), (distances, cells, *maps) in zip(inputs, outputs, strict=True):
                yield ImageFeatures(
                    distances[0].astype(np.float32),
                    cells[0].astype(np.float32),
                    tuple(feature_map[0].astype(np.float32) for feature_map in maps),
                    position,
                    self.network.strides,
                )


def has_features(network: DetectionNetwork) -> bool:
    """Return whether a network has features, which RT-DETR's queries are not."""
    return network.spec.family == GRID_FAMILY


def load_feature_runner(
    network: DetectionNetwork,
    size: int,
    key: str,
    folder: Path | None,
    log: LogCallback = lambda line: None,
) -> FeatureRunner:
    """Return a feature runner on the fastest runtime; arguments as of `load_network_runner`."""
    from backend.vision.runtime import RunnerSpec, select_fastest_runner

    def build_network() -> Any:
        from backend.vision.detection.raw_network import build_feature_network

        return build_feature_network(network)

    spec = RunnerSpec(
        build_network,
        partial(example_input, size),
        key=f"{key}-features",
        family=f"{architecture_hash(network)}-{size}-features",
        folder=folder,
        dynamic_size=True,
    )
    return FeatureRunner(network, size, select_fastest_runner(spec, log))
