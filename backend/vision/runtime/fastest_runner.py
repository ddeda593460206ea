"""The fastest way to run a network here that gives what torch gives: measured, not assumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
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
    "torch": 0.0,
    "openvino": 1e-3,
    "openvino-bf16": 0.05,
}
"""Largest difference from torch, by what the caller measures (detectors: ``detector.apart``). In
f32 only the order of additions differs (1e-6 to 1e-4 is usual); bfloat16 keeps eight bits."""
MAX_DUPLICATED_BYTES = 256 * 2**20
"""Bytes of weights up to which a second copy is worth a faster answer to a single input."""


def select_fastest_runner(
    network: Any,
    example: Floats,
    *,
    key: str,
    family: str,
    folder: Path | None,
    say: LogCallback,
    allow_bf16: bool = False,
    dynamic_size: bool = False,
    measure_difference: Callable[[Outputs, Outputs], float] | None = None,
    forced_kind: RunnerKind | None = None,
) -> Runner:
    """The fastest runner whose outputs equal torch's within ``MAX_DIFFERENCE_BY_KIND``.

    Args:
        network: torch module, float32: (b, 3, h, w) → a tensor or a tuple of tensors.
        example: (b, 3, h, w) float32; equality is judged on it and on a second input made of it.
        key: tells the weights from all others.
        family: tells the layers and the input's size from all others; networks of one family are
            equally fast, so they are timed once per machine.
        folder: where converted networks and times are kept; None: nowhere.
        say: told in a line why a faster way was not taken.
        allow_bf16: bfloat16 will do where the processor computes it itself.
        measure_difference: how far two outputs are apart; by default the largest difference as a share of an
            output's largest number.
        dynamic_size: height and width may be others than the example's.
        forced_kind: take this one, without timing.

    Returns:
        the runner; torch on a GPU, and wherever the others fail or differ.
    """
    if detect_device() != "cpu":
        return TorchRunner(network, "cuda")
    torch_runner = TorchRunner(network, "cpu")
    known_kind = forced_kind or timings.load_fastest_kind(folder, family)
    if known_kind == "torch":
        return torch_runner
    trial = _RunnerTrial(
        network,
        torch_runner,
        example,
        dynamic_size,
        measure_difference or _relative_difference,
        folder,
        key,
    )
    kinds = [known_kind] if known_kind else _candidate_kinds(allow_bf16)
    verified = _verified_runners(trial, kinds, say)
    if known_kind and verified:
        return verified[0]
    if forced_kind:
        return torch_runner
    if known_kind:  # these weights differ where others of the family did not
        verified = _verified_runners(
            trial, [kind for kind in _candidate_kinds(allow_bf16) if kind != known_kind], say
        )
    selected = min(
        [torch_runner, *verified], key=lambda runner: timings.measure_seconds(runner, example)
    )
    if not known_kind:
        timings.save_fastest_kind(folder, family, selected.kind)
    return selected


def _verified_runners(
    trial: _RunnerTrial, kinds: Sequence[RunnerKind], say: LogCallback
) -> list[Runner]:
    """Those that give what torch gives; of the others ``say`` is told why not."""
    verified: list[Runner] = []
    for kind in kinds:
        try:
            verified.append(trial.runner(kind))
        except _OutputMismatchError as error:
            say(f"{kind} is not used: {error}.")
        except Exception as error:  # openvino raises many kinds; torch can do it
            reason = " ".join(str(error).split())[:160].rstrip(".")
            say(f"OpenVINO is not used: {type(error).__name__}: {reason}.")
            break
    return verified


class _OutputMismatchError(Exception):
    """A runner does not give what torch gives."""


class _RunnerTrial:
    """A network in OpenVINO's form, and torch's answers that it must give."""

    def __init__(
        self,
        network: Any,
        reference_runner: Runner,
        example: Floats,
        dynamic_size: bool,
        measure_difference: Callable[[Outputs, Outputs], float],
        folder: Path | None,
        key: str,
    ) -> None:
        self._network, self._reference_runner, self._measure_difference = (
            network,
            reference_runner,
            measure_difference,
        )
        self._inputs = [example, _widen(example) if dynamic_size else _duplicate_flipped(example)]
        self._expected_outputs: list[Outputs] = []
        self._shape = (-1, 3, -1, -1) if dynamic_size else (-1, *example.shape[1:])
        self._allow_second_copy = (
            sum(part.nbytes for part in network.parameters()) <= MAX_DUPLICATED_BYTES
        )
        self._folder, self._key = folder, key
        self._model: Any = None

    def runner(self, kind: RunnerKind) -> Runner:
        """Of the file, where there is a sound one; else converted, and then kept.

        Raises:
            _OutputMismatchError: it does not give what torch gives.
            Exception: of many kinds: OpenVINO is missing or cannot do it.
        """
        openvino_runner.import_openvino()
        file = (
            self._folder
            and self._folder / f"{_safe_file_name(self._key)}-{version('openvino')}.xml"
        )
        if self._model is None and file and file.is_file():
            with suppress(Exception):  # damaged, or of another network: made anew
                return self._verify(openvino_runner.read_converted(file), kind)
        if self._model is None:
            self._model = openvino_runner.convert_to_openvino(self._network, self._inputs[0])
        runner = self._verify(self._model, kind)
        if file:
            openvino_runner.save_converted(self._model, file)
        return runner

    def _verify(self, model: Any, kind: RunnerKind) -> Runner:
        if not self._expected_outputs:
            self._expected_outputs = [self._reference_runner(batch) for batch in self._inputs]
        runner = openvino_runner.OpenVinoRunner(
            model, kind, torch_thread_count(), self._shape, self._allow_second_copy
        )
        for batch, expected in zip(self._inputs, self._expected_outputs, strict=True):
            output_error = self._measure_difference(runner.run_in_stream(batch), expected)
            if not output_error <= MAX_DIFFERENCE_BY_KIND[kind]:  # NaN is not
                raise _OutputMismatchError(f"it differs from torch by {output_error:.2g}")
        return runner


def _widen(example: Floats) -> Floats:
    """Another size that a network takes whose sizes are multiples of 32."""
    return np.concatenate([example, example[..., :32]], axis=3)


def _duplicate_flipped(example: Floats) -> Floats:
    """More images: a number of them that got fixed while converting shows here."""
    return np.concatenate([example, example[..., ::-1]])


def _candidate_kinds(allow_bf16: bool) -> list[RunnerKind]:
    return ["openvino", "openvino-bf16"] if allow_bf16 and supports_bf16() else ["openvino"]


def _relative_difference(actual: Outputs, expected: Outputs) -> float:
    """The largest difference as a share of the output's largest number."""
    if [a.shape for a in actual] != [a.shape for a in expected]:
        return float("inf")
    relative_errors = [
        float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-9))
        for a, b in zip(actual, expected, strict=True)
    ]
    return max((s if np.isfinite(s) else float("inf") for s in relative_errors), default=0.0)


def _safe_file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in ".-_" else "_" for letter in name)
