"""The fastest way to run a network here that gives what torch gives: measured, not assumed."""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from backend.vision.batches import device_here

Floats = npt.NDArray[np.float32]
Outputs = tuple[Floats, ...]
Say = Callable[[str], None]
Kind = Literal["torch", "openvino", "openvino-bf16"]
TOLERANCE: dict[Kind, float] = {"torch": 0.0, "openvino": 1e-3, "openvino-bf16": 0.05}
"""Largest difference from torch, by what the caller measures. In f32 only the order of additions
differs (1e-6 to 1e-4 is usual); bfloat16 keeps eight bits."""
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
        with ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1)) as pool:
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


class OpenVinoRunner:
    """OpenVINO on a CPU: as many streams as threads, one thread each.

    Args:
        model: converted.
        kind: ``openvino`` in float32, or ``openvino-bf16``.
        threads: to use.
        shape: of the input, -1 where it is free. One compiled network with free height and width
            is faster than one for each shape (measured: 24 instead of 36 ms an image).
    """

    def __init__(self, model: Any, kind: Kind, threads: int, shape: Sequence[int]) -> None:
        import openvino as ov

        self.kind = kind
        self._threads = threads
        model = model.clone()
        model.reshape(ov.PartialShape(list(shape)))
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if kind == "openvino-bf16" else "f32",
            "NUM_STREAMS": str(threads),
            "INFERENCE_NUM_THREADS": str(threads),
        }
        self._compiled = ov.Core().compile_model(model, "CPU", settings)
        self._here = threading.local()

    def __call__(self, batch: Floats) -> Outputs:
        """See :class:`Runner`."""
        request = self._here.__dict__.get("request")
        if request is None:
            request = self._here.request = self._compiled.create_infer_request()
        request.infer([batch])
        count = len(self._compiled.outputs)
        return tuple(np.array(request.get_output_tensor(i).data) for i in range(count))

    def run(self, inputs: Sequence[Floats]) -> list[Outputs]:
        """See :class:`Runner`."""
        if self._threads == 1 or len(inputs) == 1:
            return [self(batch) for batch in inputs]
        with ThreadPoolExecutor(self._threads) as pool:
            return list(pool.map(self, inputs))


def fastest(
    network: Any,
    example: Floats,
    *,
    key: str,
    family: str,
    folder: Path | None,
    say: Say,
    half: bool = False,
    any_size: bool = False,
    differ: Callable[[Outputs, Outputs], float] | None = None,
    only: Kind | None = None,
) -> Runner:
    """The fastest runner whose outputs equal torch's within ``TOLERANCE``.

    Args:
        network: torch module, float32: (b, 3, h, w) → a tensor or a tuple of tensors.
        example: (b, 3, h, w) float32; its noise is what equality is judged on.
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
    kinds = [only] if only else _kinds(half)
    known = None if only else _remembered(folder, family)
    if known:
        kinds = [known]
    expected = plain(example)
    model = None
    found: list[Runner] = [plain]
    for kind in kinds:
        if kind == "torch":
            continue
        try:
            model = model or _converted(network, example, key, folder)
            shape = (-1, 3, -1, -1) if any_size else (-1, *example.shape[1:])
            runner = OpenVinoRunner(model, kind, _threads(), shape)
            off = (differ or _difference)(runner(example), expected)
        except Exception as error:  # openvino raises many kinds; torch can do it
            say(f"OpenVINO is not used: {type(error).__name__}: {str(error).splitlines()[0][:160]}")
            break
        if off > TOLERANCE[kind]:
            say(f"{kind} is not used: it differs from torch by {off:.2g}.")
        else:
            found.append(runner)
    if known or only:
        return found[-1]
    chosen = min(found, key=lambda runner: _seconds(runner, example))
    _remember(folder, family, chosen.kind)
    return chosen


def _kinds(half: bool) -> list[Kind]:
    return ["torch", "openvino", "openvino-bf16"] if half and _computes_bf16() else ["openvino"]


def _computes_bf16() -> bool:
    """Whether the processor computes bfloat16 itself; emulated it is slower."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _threads() -> int:
    import torch

    return int(torch.get_num_threads())


def _difference(given: Outputs, expected: Outputs) -> float:
    """The largest difference as a share of the output's largest number."""
    if [a.shape for a in given] != [a.shape for a in expected]:
        return float("inf")
    shares = [
        float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-9))
        for a, b in zip(given, expected, strict=True)
    ]
    return max((s if np.isfinite(s) else float("inf") for s in shares), default=0.0)


def _seconds(runner: Runner, example: Floats) -> float:
    """For as many inputs as there are threads, twice; the better of two."""
    inputs = [example] * _threads()
    runner.run(inputs)
    times = []
    for _ in range(2):
        start = time.perf_counter()
        runner.run(inputs)
        times.append(time.perf_counter() - start)
    return min(times)


# -- converting, and what is kept of it ------------------------------------------------------


KEPT = 24
"""Converted networks that are kept; the oldest go first."""


def _converted(network: Any, example: Floats, key: str, folder: Path | None) -> Any:
    import openvino as ov

    file = folder / f"{_plain(key)}-{_plain(version('openvino'))}.xml" if folder else None
    if file is not None and file.is_file():
        try:
            return ov.Core().read_model(file)
        except Exception:  # damaged: made anew
            file.unlink(missing_ok=True)
    model = _convert(network, example)
    if file is not None:
        _keep(model, file)
    return model


def _convert(network: Any, example: Floats) -> Any:
    import warnings

    import torch

    convert_model = _quiet_converter()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        image = torch.from_numpy(example[:1])
        traced = torch.jit.trace(network, image, check_trace=False, strict=False)
        return convert_model(torch.jit.freeze(traced.eval()), example_input=image)


def _quiet_converter() -> Callable[..., Any]:
    """OpenVINO's converter without the package that reports its use."""
    import sys

    if "openvino.tools.ovc.convert_impl" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino as ov

    converter: Callable[..., Any] = ov.convert_model
    return converter


def _keep(model: Any, file: Path) -> None:
    """Both files appear under temporary names first; the ``.xml``, which is looked for, last."""
    import openvino as ov

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f"{os.getpid()}-{file.name}")
        ov.save_model(model, temporary, compress_to_fp16=False)
        temporary.with_suffix(".bin").replace(file.with_suffix(".bin"))
        temporary.replace(file)
        stored = sorted(file.parent.glob("*.xml"), key=lambda path: path.stat().st_mtime)
        for old in stored[:-KEPT]:
            old.unlink(missing_ok=True)
            old.with_suffix(".bin").unlink(missing_ok=True)
    except OSError:  # a full disk costs the conversion at the next start, nothing else
        return


def _remembered(folder: Path | None, family: str) -> Kind | None:
    kind = _times(folder).get(f"{_machine()} {family}") if folder else None
    return kind if kind in ("torch", "openvino", "openvino-bf16") else None


def _remember(folder: Path | None, family: str, kind: Kind) -> None:
    if folder is None:
        return
    file = folder / TIMES
    try:
        folder.mkdir(parents=True, exist_ok=True)
        known = {**_times(folder), f"{_machine()} {family}": kind}
        temporary = file.with_name(f"{os.getpid()}-{TIMES}")
        temporary.write_text(json.dumps(known, indent=1), encoding="utf-8")
        temporary.replace(file)
    except OSError:  # timed again at the next start
        return


def _times(folder: Path) -> dict[str, Any]:
    """What was measured before; nothing where the file is missing or damaged."""
    try:
        times = json.loads((folder / TIMES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return times if isinstance(times, dict) else {}


TIMES = "fastest.json"


def _machine() -> str:
    """What the times depend on besides the network."""
    names = [platform.machine(), platform.processor(), f"{_threads()} threads"]
    for package in ("torch", "openvino"):
        try:
            names.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return " ".join(name for name in names if name)


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in ".-_" else "_" for letter in name)
