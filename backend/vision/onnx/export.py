"""A torch network → an ONNX file: quietly, and with nothing but torch and onnx."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.arrays import Floats
from backend.errors import PrelabelError

OPSET = 17
"""Of ONNX: the first with layer normalisation; every onnxruntime since 2022 reads it."""


@dataclass(frozen=True)
class Graph:
    """A network that can be written down.

    Attributes:
        module: torch module, on the CPU, in evaluation mode.
        example: an input it is traced with.
        takes: the input's name.
        gives: the outputs' names.
        free: axes of the input that may have any length, and what to call them.
    """

    module: Any
    example: Floats
    takes: str
    gives: Sequence[str]
    free: Mapping[int, str]


def write_graph(graph: Graph, file: Path) -> None:
    """Write a network as one ONNX file.

    Raises:
        PrelabelError: it computes something that ONNX cannot express.
    """
    import torch

    free = {graph.takes: dict(graph.free)}
    try:
        with warnings.catch_warnings(), torch.no_grad(), _plain_attention():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph.module.eval(),
                (torch.from_numpy(graph.example),),
                str(file),
                dynamo=False,  # the other exporter needs one more package, and several gigabytes
                opset_version=OPSET,
                input_names=[graph.takes],
                output_names=list(graph.gives),
                dynamic_axes=free,
            )
    except OSError:
        raise
    except Exception as error:  # torch raises many kinds, some with the whole network as text
        why = " ".join(str(error).split())[-160:]
        raise PrelabelError(
            f"{file.stem} cannot be expressed as ONNX ({why}): use `prelabel endpoint` instead."
        ) from error


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Torch's fast path for attention is one operation that ONNX does not know."""
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
