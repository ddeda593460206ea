"""Select the fastest runtime for a network by measurement, with the same outputs as torch."""

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
"""Largest accepted difference from torch, by the caller's measure. In f32 only the order of
additions differs (1e-6 to 1e-4 is usual); bfloat16 has eight bits."""
MAX_DUPLICATED_BYTES = 256 * 2**20
"""Size of the weights up to which a second copy is acceptable for faster single inputs."""


@dataclass(frozen=True)
class RunnerSpec:
    """A network to run, and how its outputs are compared with torch's.

    Attributes:
        network: torch module, float32: (b, 3, h, w) → a tensor or a tuple of tensors.
        example: (b, 3, h, w) float32. Outputs are compared on it and on an input derived from it.
        key: identifies the weights.
        family: identifies the layers and the input size. Networks of one family are equally fast,
            so one of them is timed per machine.
        folder: stores converted networks and timings; None stores nothing.
        allow_bf16: bfloat16 is acceptable where the processor computes it natively.
        dynamic_size: height and width may differ from the example's.
        measure_difference: distance of two outputs; by default the largest difference relative to
            the largest number of each output.
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
    spec: RunnerSpec, say: LogCallback, forced_kind: RunnerKind | None = None
) -> Runner:
    """Return the fastest runner whose outputs equal torch's within ``MAX_DIFFERENCE_BY_KIND``.

    Args:
        spec: the network.
        say: receives why a faster runtime is not used.
        forced_kind: use this runtime without timing it.

    Returns:
        the runner; torch on a GPU and wherever the others fail or differ.
    """
    if detect_device() != "cpu":
        return TorchRunner(spec.network, "cuda")
    torch_runner = TorchRunner(spec.network, "cpu")
    known_kind = forced_kind or timings.load_fastest_kind(spec.folder, spec.family)
    if known_kind == "torch":
        return torch_runner
    trial = _RunnerTrial(spec, torch_runner)
    kinds = [known_kind] if known_kind else _candidate_kinds(spec.allow_bf16)
    verified = _verified_runners(trial, kinds, say)
    if known_kind and verified:
        return verified[0]
    if forced_kind:
        return torch_runner
    if known_kind:  # these weights differ from torch although others of the family did not
        kinds = [kind for kind in _candidate_kinds(spec.allow_bf16) if kind != known_kind]
        verified = _verified_runners(trial, kinds, say)
    selected = min(
        [torch_runner, *verified],
        key=lambda runner: timings.measure_seconds(runner, spec.example),
    )
    if not known_kind:
        timings.save_fastest_kind(spec.folder, spec.family, selected.kind)
    return selected


def _verified_runners(
    trial: _RunnerTrial, kinds: Sequence[RunnerKind], say: LogCallback
) -> list[Runner]:
    """Return the runners with torch's outputs, and log why the others are not used."""
    verified: list[Runner] = []
    for kind in kinds:
        try:
            verified.append(trial.runner(kind))
        except _OutputMismatchError as error:
            say(f"{kind} is not used: {error}.")
        except Exception as error:  # openvino raises many kinds; torch runs every network
            reason = " ".join(str(error).split())[:160].rstrip(".")
            say(f"OpenVINO is not used: {type(error).__name__}: {reason}.")
            break
    return verified


class _OutputMismatchError(Exception):
    """A runner's outputs differ from torch's."""


class _RunnerTrial:
    """Converts a network to OpenVINO and compares its outputs with torch's."""

    def __init__(self, spec: RunnerSpec, reference_runner: Runner) -> None:
        self._spec, self._reference_runner = spec, reference_runner
        second = _widen(spec.example) if spec.dynamic_size else _duplicate_flipped(spec.example)
        self._inputs = [spec.example, second]
        self._expected_outputs: list[Outputs] = []
        self._model: Any = None

    def runner(self, kind: RunnerKind) -> Runner:
        """Return a verified runner, from the stored conversion where it is usable.

        Raises:
            _OutputMismatchError: its outputs differ from torch's.
            Exception: of many kinds: OpenVINO is missing or does not support the network.
        """
        openvino_runner.import_openvino()
        name = f"{_safe_file_name(self._spec.key)}-{version('openvino')}.xml"
        file = self._spec.folder / name if self._spec.folder else None
        if self._model is None and file and file.is_file():
            with suppress(Exception):  # damaged, or of another network: converted again
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
            if not output_error <= MAX_DIFFERENCE_BY_KIND[kind]:  # also refuses NaN
                raise _OutputMismatchError(f"it differs from torch by {output_error:.2g}")
        return runner


def _widen(example: Floats) -> Floats:
    """Return an input of another size, for networks that accept multiples of 32."""
    return np.concatenate([example, example[..., :32]], axis=3)


def _duplicate_flipped(example: Floats) -> Floats:
    """Return more images, to detect a batch size that was fixed by the conversion."""
    return np.concatenate([example, example[..., ::-1]])


def _candidate_kinds(allow_bf16: bool) -> list[RunnerKind]:
    return ["openvino", "openvino-bf16"] if allow_bf16 and supports_bf16() else ["openvino"]


def _relative_difference(actual: Outputs, expected: Outputs) -> float:
    """Return the largest difference relative to the largest number of each output."""
    if [a.shape for a in actual] != [a.shape for a in expected]:
        return float("inf")
    relative_errors = [
        float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-9))
        for a, b in zip(actual, expected, strict=True)
    ]
    return max((s if np.isfinite(s) else float("inf") for s in relative_errors), default=0.0)


def _safe_file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in ".-_" else "_" for letter in name)
