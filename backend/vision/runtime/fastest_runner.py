"""Benchmark the runtimes for a network and select the fastest whose outputs match torch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from backend.arrays import Floats
from backend.callbacks import LogCallback
from backend.vision.batching import detect_device, supports_bf16
from backend.vision.runtime import openvino_runner, timings
from backend.vision.runtime.compiled_networks import load_compiled_runner, save_compiled_runner
from backend.vision.runtime.openvino_runner import OpenVinoRunner
from backend.vision.runtime.runner import Outputs, Runner, RunnerKind, TorchRunner
from backend.vision.threads import count_threads

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
        load_network: returns the torch module, float32: (b, 3, h, w) → a tensor or a tuple of
            tensors. It is not called for a network that was verified on this machine before.
        make_example: returns a (b, 3, h, w) float32 input for conversion, benchmark and comparison.
        key: identifies the weights.
        family: identifies the architecture and the input size. Networks of one family are equally
            fast, so the benchmark runs once per family and machine.
        folder: cache folder of converted networks and timings; None disables caching.
        allow_bf16: allow bfloat16 on CPUs that support it natively.
        dynamic_size: inputs may differ from the example in height and width.
        measure_difference: (actual, expected) → difference; by default the maximum absolute
            difference divided by the maximum absolute expected value, over all outputs.
    """

    load_network: Callable[[], Any]
    make_example: Callable[[], Floats]
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
        return TorchRunner(spec.load_network(), "cuda")
    known_kind = forced_kind or timings.load_fastest_kind(spec.folder, spec.family)
    if known_kind and known_kind != "torch" and spec.folder:
        with suppress(ImportError):
            runner = load_compiled_runner(spec.folder, spec.key, known_kind)
            if runner is not None:
                return runner
    torch_runner = TorchRunner(spec.load_network(), "cpu")
    if known_kind == "torch":
        return torch_runner
    trial = _RunnerTrial(spec, torch_runner)
    kinds = [known_kind] if known_kind else _candidate_kinds(spec.allow_bf16)
    verified = _verified_runners(trial, kinds, log)
    if known_kind and verified:
        return trial.save(verified[0])
    if forced_kind:
        return torch_runner
    if known_kind:  # outputs of these weights mismatch, unlike those benchmarked before
        kinds = [kind for kind in _candidate_kinds(spec.allow_bf16) if kind != known_kind]
        verified = _verified_runners(trial, kinds, log)
    candidates: list[Runner] = [torch_runner, *verified]
    seconds = timings.measure_seconds(candidates, trial.example)
    selected = candidates[int(np.argmin(seconds))]
    if not known_kind:
        timings.save_fastest_kind(spec.folder, spec.family, selected.kind)
    return trial.save(selected) if isinstance(selected, OpenVinoRunner) else selected


def _verified_runners(
    trial: _RunnerTrial, kinds: Sequence[RunnerKind], log: LogCallback
) -> list[OpenVinoRunner]:
    """Return the runners whose outputs match torch's; log the reason for the others."""
    verified: list[OpenVinoRunner] = []
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

    def __init__(self, spec: RunnerSpec, reference_runner: TorchRunner) -> None:
        self._spec, self._reference_runner = spec, reference_runner
        self.example = spec.make_example()
        second = _widen(self.example) if spec.dynamic_size else _duplicate_flipped(self.example)
        self._inputs = [self.example, second]
        self._expected_outputs: list[Outputs] = []
        self._model: Any = None

    def runner(self, kind: RunnerKind) -> OpenVinoRunner:
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
                model = self._reshape(openvino_runner.read_converted(file))
                runner = self._compile(model, kind)
                self._model = model
                return runner
        if self._model is not None:
            return self._compile(self._model, kind)
        network = self._reference_runner.network
        converted = openvino_runner.convert_to_openvino(network, self.example)
        self._model = self._reshape(converted)
        runner = self._compile(self._model, kind)
        if file:
            openvino_runner.save_converted(converted, file)
        return runner

    def save(self, runner: OpenVinoRunner) -> Runner:
        """Save a verified runner for the next process, and return the one that was saved."""
        if self._spec.folder is None:
            return runner
        with suppress(Exception):  # disk full, for example: not cached
            return save_compiled_runner(self._spec.folder, self._spec.key, runner, self._verify)
        return runner

    def _reshape(self, model: Any) -> Any:
        is_dynamic = self._spec.dynamic_size
        shape = (-1, 3, -1, -1) if is_dynamic else (-1, *self.example.shape[1:])
        return openvino_runner.reshape_model(model, shape)

    def _compile(self, model: Any, kind: RunnerKind) -> OpenVinoRunner:
        threads = count_threads()
        compile_for = partial(openvino_runner.compile_model, model, kind, threads)
        load_single_stream = partial(compile_for, 1) if self._allows_second_copy() else None
        runner = OpenVinoRunner(kind, threads, compile_for(threads), load_single_stream)
        self._verify(runner)
        return runner

    def _allows_second_copy(self) -> bool:
        weights = self._reference_runner.network.parameters()
        return sum(int(part.nbytes) for part in weights) <= MAX_DUPLICATED_BYTES

    def _verify(self, runner: OpenVinoRunner) -> None:
        """Compare the outputs of a runner with torch's.

        Raises:
            _OutputMismatchError: they do not match.
        """
        if not self._expected_outputs:
            self._expected_outputs = [self._reference_runner(batch) for batch in self._inputs]
        compare = self._spec.measure_difference or _relative_difference
        for batch, expected in zip(self._inputs, self._expected_outputs, strict=True):
            output_error = compare(runner.run_in_stream(batch), expected)
            if not output_error <= MAX_DIFFERENCE_BY_KIND[runner.kind]:  # also true for NaN
                raise _OutputMismatchError(f"it differs from torch by {output_error:.2g}")


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
