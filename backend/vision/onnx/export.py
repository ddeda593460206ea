"""Export a torch network to an ONNX file."""

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
"""The first opset with LayerNormalization; supported by onnxruntime since 2022."""


@dataclass(frozen=True)
class ExportGraph:
    """A network to export.

    Attributes:
        module: torch module on the CPU.
        example: example input for tracing.
        input_name: name of the input.
        output_names: names of the outputs.
        dynamic_axes: dynamic axis of the input → its name.
    """

    module: Any
    example: Floats
    input_name: str
    output_names: Sequence[str]
    dynamic_axes: Mapping[int, str]


def write_onnx(graph: ExportGraph, file: Path) -> None:
    """Export a network to one ONNX file.

    Raises:
        PrelabelError: the network uses an operation that ONNX does not support.
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
                dynamo=False,  # the dynamo exporter needs onnxscript and several gigabytes
                opset_version=ONNX_OPSET_VERSION,
                input_names=[graph.input_name],
                output_names=list(graph.output_names),
                dynamic_axes=axes_by_input,
            )
    except OSError:
        raise
    except Exception as error:  # torch raises many types, some include the network
        reason = " ".join(str(error).split())[-160:]
        raise PrelabelError(
            f"{file.stem} cannot be exported to ONNX ({reason}): use `prelabel endpoint` instead."
        ) from error


@contextmanager
def _disable_attention_fastpath() -> Iterator[None]:
    """Disable torch's attention fast path, a fused operation that ONNX does not support."""
    import torch

    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)
