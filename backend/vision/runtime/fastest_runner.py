"""Benchmark the runtimes for a network and select the fastest whose outputs match torch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from backend.arrays import Floats
from backend.callbacks import LogCallback
from backend.vision.batching import detect_device, supports_bf16
from backend.vision.runtime import openvino_runner, timings
from backend.vision.runtime.runner import (
    Outputs,
    Runner,
    RunnerKind,
    TorchRunner,
    torch_thread_count,
)

MAX_DIFFERENCE_BY_KIND: dict[RunnerKind, float] = {
    "torch": 0,
    "openvino": 1e-3,
    "openvino-bf16": 0.05,
}
"""Maximum difference from torch, as computed by ``RunnerSpec.measure_difference``. In float32 only
the order of additions differs (typically 1e-6 to 1e-4); bfloat16 has 8 bits of precision."""
MAX_DUPLICATED_BYTES = 256 * 2**20
"""Maximum size of weights that are kept in memory twice to speed up single inputs."""


@dataclass(frozen=True)
class RunnerSpec:
    """A network to run and how to compare its outputs with torch's.

    Attributes:
        network: torch module, float32: (b, 3, h, w) → a tensor or a tuple of tensors.
        example: (b, 3, h, w) float32 input for conversion, benchmark and comparison.
        key: identifies the weights.
        family: identifies the architecture and the input size. Networks of one family are equally
            fast, so the benchmark runs once per family and machine.
        folder: cache folder of converted networks and timings; None disables caching.
        allow_bf16: allow bfloat16 on CPUs that support it natively.
        dynamic_size: inputs may differ from the example in height and width.
        measure_difference: (actual, expected) → difference; by default the maximum absolute
            difference divided by the maximum absolute expected value, over all outputs.
    """

    network: Any
    example: Floats
    key: str
    family: str
    folder: Path | None
    allow_bf16: bool = False
    dynamic_size: bool = False
    measure_difference: Callable[[Outputs, Outputs], float] | None = None


def select_fastest_runner(
    spec: RunnerSpec, log: LogCallback, forced_kind: RunnerKind | None = None
) -> Runner:
    """Return the fastest runner whose outputs match torch's within ``MAX_DIFFERENCE_BY_KIND``.

    Args:
        spec: the network.
        log: receives the reason when OpenVINO is rejected.
        forced_kind: use this runtime without a benchmark.

    Returns:
        the runner; torch on a GPU, or if no other runtime works and matches.
    """
    if detect_device() != "cpu":
        return TorchRunner(spec.network, "cuda")
    torch_runner = TorchRunner(spec.network, "cpu")
    known_kind = forced_kind or timings.load_fastest_kind(spec.folder, spec.family)
    if known_kind == "torch":
        return torch_runner
    trial = _RunnerTrial(spec, torch_runner)
    kinds = [known_kind] if known_kind else _candidate_kinds(spec.allow_bf16)
    verified = _verified_runners(trial, kinds, log)
    if known_kind and verified:
        return verified[0]
    if forced_kind:
        return torch_runner
    if known_kind:  # outputs of these weights mismatch, unlike those benchmarked before
        kinds = [kind for kind in _candidate_kinds(spec.allow_bf16) if kind != known_kind]
        verified = _verified_runners(trial, kinds, log)
    selected = min(
        [torch_runner, *verified],
        key=lambda runner: timings.measure_seconds(runner, spec.example),
    )
    if not known_kind:
        timings.save_fastest_kind(spec.folder, spec.family, selected.kind)
    return selected


def _verified_runners(
    trial: _RunnerTrial, kinds: Sequence[RunnerKind], log: LogCallback
) -> list[Runner]:
    """Return the runners whose outputs match torch's; log the reason for the others."""
    verified: list[Runner] = []
    for kind in kinds:
        try:
            verified.append(trial.runner(kind))
        except _OutputMismatchError as error:
            log(f"{kind} is not used: {error}.")
        except Exception as error:  # OpenVINO raises many exception types
            reason = " ".join(str(error).split())[:160].rstrip(".")
            log(f"OpenVINO is not used: {type(error).__name__}: {reason}.")
            break
    return verified


class _OutputMismatchError(Exception):
    """The outputs of a runner do not match torch's."""


class _RunnerTrial:
    """Convert a network to OpenVINO and compare its outputs with torch's."""

    def __init__(self, spec: RunnerSpec, reference_runner: Runner) -> None:
        self._spec, self._reference_runner = spec, reference_runner
        second = _widen(spec.example) if spec.dynamic_size else _duplicate_flipped(spec.example)
        self._inputs = [spec.example, second]
        self._expected_outputs: list[Outputs] = []
        self._model: Any = None

    def runner(self, kind: RunnerKind) -> Runner:
        """Return a verified runner, using the cached conversion if possible.

        Raises:
            _OutputMismatchError: the outputs do not match torch's.
            Exception: OpenVINO is missing or does not support the network.
        """
        openvino_runner.import_openvino()
        name = f"{_safe_file_name(self._spec.key)}-{version('openvino')}.xml"
        file = self._spec.folder / name if self._spec.folder else None
        if self._model is None and file and file.is_file():
            with suppress(Exception):  # damaged or outdated: convert again
                return self._verify(openvino_runner.read_converted(file), kind)
        if self._model is None:
            self._model = openvino_runner.convert_to_openvino(self._spec.network, self._inputs[0])
        runner = self._verify(self._model, kind)
        if file:
            openvino_runner.save_converted(self._model, file)
        return runner

    def _verify(self, model: Any, kind: RunnerKind) -> Runner:
        if not self._expected_outputs:
            self._expected_outputs = [self._reference_runner(batch) for batch in self._inputs]
        spec = self._spec
        shape = (-1, 3, -1, -1) if spec.dynamic_size else (-1, *spec.example.shape[1:])
        weight_bytes = sum(part.nbytes for part in spec.network.parameters())
        runner = openvino_runner.OpenVinoRunner(
            model, kind, torch_thread_count(), shape, weight_bytes <= MAX_DUPLICATED_BYTES
        )
        compare = spec.measure_difference or _relative_difference
        for batch, expected in zip(self._inputs, self._expected_outputs, strict=True):
            output_error = compare(runner.run_in_stream(batch), expected)
            if not output_error <= MAX_DIFFERENCE_BY_KIND[kind]:  # also true for NaN
                raise _OutputMismatchError(f"it differs from torch by {output_error:.2g}")
        return runner


def _widen(example: Floats) -> Floats:
    """Return the input widened by 32 pixels, to test that the converted size is dynamic."""
    return np.concatenate([example, example[..., :32]], axis=3)


def _duplicate_flipped(example: Floats) -> Floats:
    """Return the input with a mirrored copy, to test that the converted batch size is dynamic."""
    return np.concatenate([example, example[..., ::-1]])


def _candidate_kinds(allow_bf16: bool) -> list[RunnerKind]:
    return ["openvino", "openvino-bf16"] if allow_bf16 and supports_bf16() else ["openvino"]


def _relative_difference(actual: Outputs, expected: Outputs) -> float:
    """Return the maximum absolute error of any output relative to its maximum absolute value."""
    if [a.shape for a in actual] != [a.shape for a in expected]:
        return float("inf")
    relative_errors = [
        float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-9))
        for a, b in zip(actual, expected, strict=True)
    ]
    return max((e if np.isfinite(e) else float("inf") for e in relative_errors), default=0.0)


def _safe_file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in ".-_" else "_" for letter in name)
