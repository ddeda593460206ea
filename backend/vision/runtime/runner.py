"""The interface of network runners, and the torch implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np

from backend.arrays import Floats
from backend.vision.batching import to_array
from backend.vision.threads import single_thread_pool

Outputs = tuple[Floats, ...]
RunnerKind = Literal["torch", "openvino", "openvino-bf16"]
GPU_BATCH_SIZE = 16
"""Maximum images per batch on a GPU."""


class Runner(Protocol):
    """Interface for running a network.

    Attributes:
        kind: the runtime.
    """

    kind: RunnerKind

    def __call__(self, batch: Floats) -> Outputs:
        """Run one batch, (b, 3, h, w) float32; thread-safe."""
        ...

    def run(self, inputs: Sequence[Floats]) -> list[Outputs]:
        """Run several batches, which may differ in shape, in parallel."""
        ...


class TorchRunner:
    """Run a network with torch; on a CPU, batches run in parallel with one thread each.

    Args:
        network: (b, 3, h, w) → a tensor or a tuple of tensors.
        device: ``cpu`` or ``cuda``.

    Attributes:
        network: the network on the device, in evaluation mode.
    """

    kind: RunnerKind = "torch"

    def __init__(self, network: Any, device: str) -> None:
        self.network = network.eval().to(device)
        self._device = device

    def __call__(self, batch: Floats) -> Outputs:
        """See :class:`Runner`."""
        import torch

        with torch.inference_mode():
            outputs = self.network(torch.from_numpy(batch).to(self._device))
        output_tuple = outputs if isinstance(outputs, tuple) else (outputs,)
        return tuple(to_array(output) for output in output_tuple)

    def run(self, inputs: Sequence[Floats]) -> list[Outputs]:
        """See :class:`Runner`."""
        import torch

        if self._device != "cpu":
            return self._run_by_shape(inputs)
        threads = torch.get_num_threads()
        if threads == 1 or len(inputs) == 1:
            return [self(batch) for batch in inputs]
        with single_thread_pool(threads) as pool:
            return list(pool.map(self, inputs))

    def _run_by_shape(self, inputs: Sequence[Floats]) -> list[Outputs]:
        """Concatenate batches of equal shape, up to ``GPU_BATCH_SIZE`` images."""
        results: list[Outputs | None] = [None] * len(inputs)
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for position, batch in enumerate(inputs):
            by_shape.setdefault(batch.shape, []).append(position)
        for shape, positions in by_shape.items():
            step = max(1, GPU_BATCH_SIZE // shape[0])
            for start in range(0, len(positions), step):
                group_positions = positions[start : start + step]
                outputs = self(np.concatenate([inputs[i] for i in group_positions]))
                split_outputs = [np.split(output, len(group_positions)) for output in outputs]
                for offset, position in enumerate(group_positions):
                    results[position] = tuple(piece[offset] for piece in split_outputs)
        return [outputs for outputs in results if outputs is not None]
