"""What runs a network, and torch itself as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np

from backend.arrays import Floats
from backend.vision.batching import single_threads

Outputs = tuple[Floats, ...]
Kind = Literal["torch", "openvino", "openvino-bf16"]
AT_ONCE = 16
"""Images of one size that a GPU takes together."""


class Runner(Protocol):
    """Runs a network.

    Attributes:
        kind: which way.
    """

    kind: Kind

    def __call__(self, batch: Floats) -> Outputs:
        """(b, 3, h, w) float32 → the network's outputs; may be called from several threads."""
        ...

    def run(self, inputs: Sequence[Floats]) -> list[Outputs]:
        """Several batches, whose shapes may differ, as fast as the machine allows; in order."""
        ...


class TorchRunner:
    """Torch itself. On a CPU each batch is computed by one thread, several at once.

    Args:
        network: (b, 3, h, w) → a tensor or a tuple of tensors.
        device: ``cpu`` or ``cuda``.
    """

    kind: Kind = "torch"

    def __init__(self, network: Any, device: str) -> None:
        self._network = network.eval().to(device)
        self._device = device

    def __call__(self, batch: Floats) -> Outputs:
        """See :class:`Runner`."""
        import torch

        with torch.inference_mode():
            outputs = self._network(torch.from_numpy(batch).to(self._device))
        several = outputs if isinstance(outputs, tuple) else (outputs,)
        return tuple(output.float().cpu().numpy() for output in several)

    def run(self, inputs: Sequence[Floats]) -> list[Outputs]:
        """See :class:`Runner`."""
        import torch

        if self._device != "cpu":
            return self._in_groups(inputs)
        threads = torch.get_num_threads()
        if threads == 1 or len(inputs) == 1:
            return [self(batch) for batch in inputs]
        with single_threads(threads) as pool:
            return list(pool.map(self, inputs))

    def _in_groups(self, inputs: Sequence[Floats]) -> list[Outputs]:
        """On a GPU, batches of one shape together."""
        found: list[Outputs | None] = [None] * len(inputs)
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for number, batch in enumerate(inputs):
            by_shape.setdefault(batch.shape, []).append(number)
        for shape, numbers in by_shape.items():
            step = max(1, AT_ONCE // shape[0])
            for start in range(0, len(numbers), step):
                part = numbers[start : start + step]
                outputs = self(np.concatenate([inputs[i] for i in part]))
                pieces = [np.split(output, len(part)) for output in outputs]
                for place, number in enumerate(part):
                    found[number] = tuple(piece[place] for piece in pieces)
        return [outputs for outputs in found if outputs is not None]


def threads_here() -> int:
    """That torch uses in this thread."""
    import torch

    return int(torch.get_num_threads())
