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

ONNX_OPSET_VERSION = 17
"""Of ONNX: the first with layer normalisation; every onnxruntime since 2022 reads it."""


@dataclass(frozen=True)
class ExportGraph:
    """A network that can be written down.

    Attributes:
        module: torch module, on the CPU, in evaluation mode.
        example: an input it is traced with.
        input_name: the input's name.
        output_names: the outputs' names.
        dynamic_axes: axes of the input that may have any length, and what to call them.
    """

    module: Any
    example: Floats
    input_name: str
    output_names: Sequence[str]
    dynamic_axes: Mapping[int, str]


def write_onnx(graph: ExportGraph, file: Path) -> None:
    """Write a network as one ONNX file.

    Raises:
        PrelabelError: it computes something that ONNX cannot express.
    """
    import torch

    axes_by_input = {graph.input_name: dict(graph.dynamic_axes)}
    try:
        with warnings.catch_warnings(), torch.no_grad(), _disable_attention_fastpath():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph.module.eval(),
                (torch.from_numpy(graph.example),),
                str(file),
                dynamo=False,  # the other exporter needs one more package, and several gigabytes
                opset_version=ONNX_OPSET_VERSION,
                input_names=[graph.input_name],
                output_names=list(graph.output_names),
                dynamic_axes=axes_by_input,
            )
    except OSError:
        raise
    except Exception as error:  # torch raises many kinds, some with the whole network as text
        reason = " ".join(str(error).split())[-160:]
        raise PrelabelError(
            f"{file.stem} cannot be expressed as ONNX ({reason}): use `prelabel endpoint` instead."
        ) from error


@contextmanager
def _disable_attention_fastpath() -> Iterator[None]:
    """Torch's fast path for attention is one operation that ONNX does not know."""
    import torch

    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)
