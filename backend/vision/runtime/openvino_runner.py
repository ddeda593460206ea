"""The only owner of OpenVINO: converting, running, and what is kept of it."""

from __future__ import annotations

import queue
import secrets
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from backend.arrays import Floats
from backend.vision.runtime.runner import Kind, Outputs, threads_here

KEPT = 24
"""Converted networks that are kept; those not used for longest go first."""
_importing = threading.Lock()
TELEMETRY = "openvino_telemetry"


class OpenVinoRunner:
    """OpenVINO on a CPU: as many streams as threads, one thread each.

    A thread that torch would give several processors, and that brings one input, gets them here
    too, by one stream of all threads: else a single image would wait for one processor.

    Args:
        model: converted.
        kind: ``openvino`` in float32, or ``openvino-bf16``.
        threads: to use.
        shape: of the input, -1 where it is free. One compiled network with free height and width
            is as fast as one for each shape (measured: within 5 %), and is compiled once.
        twice: the weights may be held a second time, for single inputs.
    """

    def __init__(
        self, model: Any, kind: Kind, threads: int, shape: Sequence[int], twice: bool = False
    ) -> None:
        self.kind = kind
        self._threads = threads
        self._model = model.clone()
        self._model.reshape(openvino_itself().PartialShape(list(shape)))
        self._many = _Requests(self._compile(threads))
        self._twice = twice and threads > 1
        self._one: _Requests | None = None
        self._making = threading.Lock()

    def __call__(self, batch: Floats) -> Outputs:
        """See :class:`Runner`."""
        wide = self._twice and threads_here() > 1
        return (self._single() if wide else self._many)(batch)

    def stream(self, batch: Floats) -> Outputs:
        """One batch by one thread, whoever asks."""
        return self._many(batch)

    def run(self, inputs: Sequence[Floats]) -> list[Outputs]:
        """See :class:`Runner`."""
        if self._threads == 1 or len(inputs) < 2:
            return [self(batch) for batch in inputs]
        with ThreadPoolExecutor(self._threads) as pool:
            return list(pool.map(self._many, inputs))

    def _single(self) -> _Requests:
        """Compiled by who asks first: many runners never see a single input."""
        with self._making:
            if self._one is None:
                self._one = _Requests(self._compile(1))
            return self._one

    def _compile(self, streams: int) -> Any:
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.kind == "openvino-bf16" else "f32",
            "NUM_STREAMS": str(streams),
            "INFERENCE_NUM_THREADS": str(self._threads),
        }
        return openvino_itself().Core().compile_model(self._model, "CPU", settings)


class _Requests:
    """A compiled network and its places to compute; each is used by one thread at a time."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def __call__(self, batch: Floats) -> Outputs:
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self._compiled.create_infer_request()
        request.infer([batch])
        outputs = range(len(self._compiled.outputs))
        found = tuple(np.array(request.get_output_tensor(i).data) for i in outputs)
        self._idle.put(request)
        return found


def openvino_itself() -> Any:
    """OpenVINO without the package that reports its use.

    That one comes along when pip installs OpenVINO; importing OpenVINO, and each conversion, would
    send a line over the network. Without the package OpenVINO takes a stand-in of its own.
    """
    with _importing:
        known = sys.modules.get(TELEMETRY)
        sys.modules[TELEMETRY] = None  # type: ignore[assignment]
        try:
            import openvino
        finally:
            sys.modules.pop(TELEMETRY)
            if known is not None:
                sys.modules[TELEMETRY] = known
    return openvino


def convert(network: Any, example: Floats) -> Any:
    """With weights of its own: who changes the network's later does not change the runner."""
    import warnings

    import torch

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        image = torch.from_numpy(example[:1])
        traced = torch.jit.trace(network, image, check_trace=False, strict=False)
        frozen = torch.jit.freeze(traced.eval())
        try:
            return openvino_itself().convert_model(frozen, example_input=image, share_weights=False)
        finally:
            _forget_traces()


def _forget_traces() -> None:
    """Torch keeps all it ever traced, weights too: 10 to 40 MB a round (as its own tests do it)."""
    import torch

    with suppress(AttributeError):  # none of it is promised
        torch._C._jit_clear_class_registry()
        torch.jit._state._clear_class_state()
        torch.jit._recursive.concrete_type_store = torch.jit._recursive.ConcreteTypeStore()


def read(file: Path) -> Any:
    """A converted network of ``keep``. OpenVINO's own errors, of many kinds, pass through."""
    model = openvino_itself().Core().read_model(file)
    with suppress(OSError):  # its date tells when it was used last
        file.touch()
    return model


def keep(model: Any, file: Path) -> None:
    """Both files appear under temporary names first; the ``.xml``, which is looked for, last."""
    temporary = file.with_name(f".{secrets.token_hex(4)}-{file.name}")
    weights = temporary.with_suffix(".bin")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        openvino_itself().save_model(model, temporary, compress_to_fp16=False)
        weights.replace(file.with_suffix(".bin"))
        temporary.replace(file)
        _drop_old(file.parent)
    except (OSError, RuntimeError):  # a full disk costs the conversion at the next start, no more
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
            weights.unlink(missing_ok=True)


def _drop_old(folder: Path) -> None:
    """Keep the pairs that were used last; what a killed process left half made goes with time."""
    used: dict[str, float] = {}
    for path in folder.iterdir():
        if path.suffix in (".xml", ".bin"):
            used[path.stem] = max(used.get(path.stem, 0.0), path.stat().st_mtime)
    for stem in sorted(used, key=lambda stem: used[stem])[:-KEPT]:
        for suffix in (".xml", ".bin"):
            (folder / f"{stem}{suffix}").unlink(missing_ok=True)
