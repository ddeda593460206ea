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
from backend.vision.batching import computes_bf16, device_here
from backend.vision.runtime import openvino_runner, timings
from backend.vision.runtime.runner import Kind, Outputs, Runner, TorchRunner, threads_here

TOLERANCE: dict[Kind, float] = {"torch": 0.0, "openvino": 1e-3, "openvino-bf16": 0.05}
"""Largest difference from torch, by what the caller measures (detectors: ``detector.apart``). In
f32 only the order of additions differs (1e-6 to 1e-4 is usual); bfloat16 keeps eight bits."""
TWICE = 256 * 2**20
"""Bytes of weights up to which a second copy is worth a faster answer to a single input."""


def fastest(
    network: Any,
    example: Floats,
    *,
    key: str,
    family: str,
    folder: Path | None,
    say: LogCallback,
    half: bool = False,
    any_size: bool = False,
    differ: Callable[[Outputs, Outputs], float] | None = None,
    only: Kind | None = None,
) -> Runner:
    """The fastest runner whose outputs equal torch's within ``TOLERANCE``.

    Args:
        network: torch module, float32: (b, 3, h, w) → a tensor or a tuple of tensors.
        example: (b, 3, h, w) float32; equality is judged on it and on a second input made of it.
        key: tells the weights from all others.
        family: tells the layers and the input's size from all others; networks of one family are
            equally fast, so they are timed once per machine.
        folder: where converted networks and times are kept; None: nowhere.
        say: told in a line why a faster way was not taken.
        half: bfloat16 will do where the processor computes it itself.
        differ: how far two outputs are apart; by default the largest difference as a share of an
            output's largest number.
        any_size: height and width may be others than the example's.
        only: take this one, without timing.

    Returns:
        the runner; torch on a GPU, and wherever the others fail or differ.
    """
    if device_here() != "cpu":
        return TorchRunner(network, "cuda")
    plain = TorchRunner(network, "cpu")
    known = only or timings.remembered(folder, family)
    if known == "torch":
        return plain
    trial = _Trial(network, plain, example, any_size, differ or _difference, folder, key)
    kinds = [known] if known else _kinds(half)
    found = _proven(trial, kinds, say)
    if known and found:
        return found[0]
    if only:
        return plain
    if known:  # these weights differ where others of the family did not
        found = _proven(trial, [kind for kind in _kinds(half) if kind != known], say)
    chosen = min([plain, *found], key=lambda runner: timings.seconds(runner, example))
    if not known:
        timings.remember(folder, family, chosen.kind)
    return chosen


def _proven(trial: _Trial, kinds: Sequence[Kind], say: LogCallback) -> list[Runner]:
    """Those that give what torch gives; of the others ``say`` is told why not."""
    found: list[Runner] = []
    for kind in kinds:
        try:
            found.append(trial.runner(kind))
        except _DiffersError as error:
            say(f"{kind} is not used: {error}.")
        except Exception as error:  # openvino raises many kinds; torch can do it
            why = " ".join(str(error).split())[:160].rstrip(".")
            say(f"OpenVINO is not used: {type(error).__name__}: {why}.")
            break
    return found


class _DiffersError(Exception):
    """A runner does not give what torch gives."""


class _Trial:
    """A network in OpenVINO's form, and torch's answers that it must give."""

    def __init__(
        self,
        network: Any,
        plain: Runner,
        example: Floats,
        any_size: bool,
        differ: Callable[[Outputs, Outputs], float],
        folder: Path | None,
        key: str,
    ) -> None:
        self._network, self._plain, self._differ = network, plain, differ
        self._inputs = [example, _wider(example) if any_size else _two(example)]
        self._expected: list[Outputs] = []
        self._shape = (-1, 3, -1, -1) if any_size else (-1, *example.shape[1:])
        self._twice = sum(part.nbytes for part in network.parameters()) <= TWICE
        self._folder, self._key = folder, key
        self._model: Any = None

    def runner(self, kind: Kind) -> Runner:
        """Of the file, where there is a sound one; else converted, and then kept.

        Raises:
            _DiffersError: it does not give what torch gives.
            Exception: of many kinds: OpenVINO is missing or cannot do it.
        """
        openvino_runner.openvino_itself()
        file = self._folder and self._folder / f"{_plain(self._key)}-{version('openvino')}.xml"
        if self._model is None and file and file.is_file():
            with suppress(Exception):  # damaged, or of another network: made anew
                return self._checked(openvino_runner.read(file), kind)
        if self._model is None:
            self._model = openvino_runner.convert(self._network, self._inputs[0])
        runner = self._checked(self._model, kind)
        if file:
            openvino_runner.keep(self._model, file)
        return runner

    def _checked(self, model: Any, kind: Kind) -> Runner:
        if not self._expected:
            self._expected = [self._plain(batch) for batch in self._inputs]
        runner = openvino_runner.OpenVinoRunner(
            model, kind, threads_here(), self._shape, self._twice
        )
        for batch, expected in zip(self._inputs, self._expected, strict=True):
            off = self._differ(runner.stream(batch), expected)
            if not off <= TOLERANCE[kind]:  # NaN is not
                raise _DiffersError(f"it differs from torch by {off:.2g}")
        return runner


def _wider(example: Floats) -> Floats:
    """Another size that a network takes whose sizes are multiples of 32."""
    return np.concatenate([example, example[..., :32]], axis=3)


def _two(example: Floats) -> Floats:
    """More images: a number of them that got fixed while converting shows here."""
    return np.concatenate([example, example[..., ::-1]])


def _kinds(half: bool) -> list[Kind]:
    return ["openvino", "openvino-bf16"] if half and computes_bf16() else ["openvino"]


def _difference(given: Outputs, expected: Outputs) -> float:
    """The largest difference as a share of the output's largest number."""
    if [a.shape for a in given] != [a.shape for a in expected]:
        return float("inf")
    shares = [
        float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-9))
        for a, b in zip(given, expected, strict=True)
    ]
    return max((s if np.isfinite(s) else float("inf") for s in shares), default=0.0)


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in ".-_" else "_" for letter in name)
