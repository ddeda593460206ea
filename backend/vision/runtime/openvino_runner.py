"""Convert, compile and run networks with OpenVINO; cache converted networks on disk."""

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
from backend.vision.runtime.runner import Outputs, RunnerKind, torch_thread_count

MAX_CACHED_NETWORKS = 24
"""Maximum converted networks in the cache folder; the least recently used are deleted."""
_import_lock = threading.Lock()
TELEMETRY_MODULE = "openvino_telemetry"


class OpenVinoRunner:
    """Run a network with OpenVINO on a CPU, with one inference stream per thread.

    A stream runs on one thread. Single inputs therefore use a second compiled model, whose only
    stream runs on all threads, unless the calling thread is limited to one torch thread.

    Args:
        model: converted network.
        kind: ``openvino`` (float32) or ``openvino-bf16``.
        threads: number of threads.
        shape: input shape, -1 for dynamic axes. A network with dynamic height and width is at most
            5 % slower than one compiled for each shape (measured).
        allow_second_copy: allow the second model for single inputs, with its copy of the weights.
    """

    def __init__(
        self,
        model: Any,
        kind: RunnerKind,
        threads: int,
        shape: Sequence[int],
        allow_second_copy: bool = False,
    ) -> None:
        self.kind = kind
        self._threads = threads
        self._model = model.clone()
        self._model.reshape(import_openvino().PartialShape(list(shape)))
        self._multi_stream = _RequestPool(self._compile(threads))
        self._allow_second_copy = allow_second_copy and threads > 1
        self._single_stream: _RequestPool | None = None
        self._compile_lock = threading.Lock()

    def __call__(self, batch: Floats) -> Outputs:
        """See :class:`Runner`."""
        use_all_threads = self._allow_second_copy and torch_thread_count() > 1
        return (self._get_single_stream() if use_all_threads else self._multi_stream)(batch)

    def run_in_stream(self, batch: Floats) -> Outputs:
        """Run one batch in one stream, that is on one thread."""
        return self._multi_stream(batch)

    def run(self, inputs: Sequence[Floats]) -> list[Outputs]:
        """See :class:`Runner`."""
        if self._threads == 1 or len(inputs) < 2:
            return [self(batch) for batch in inputs]
        with ThreadPoolExecutor(self._threads) as pool:
            return list(pool.map(self._multi_stream, inputs))

    def _get_single_stream(self) -> _RequestPool:
        """Compile the single-stream model at first use; many runners never need it."""
        with self._compile_lock:
            if self._single_stream is None:
                self._single_stream = _RequestPool(self._compile(1))
            return self._single_stream

    def _compile(self, streams: int) -> Any:
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.kind == "openvino-bf16" else "f32",
            "NUM_STREAMS": str(streams),
            "INFERENCE_NUM_THREADS": str(self._threads),
        }
        return import_openvino().Core().compile_model(self._model, "CPU", settings)


class _RequestPool:
    """A compiled network with a thread-safe pool of inference requests."""

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
        result = tuple(np.array(request.get_output_tensor(i).data) for i in outputs)
        self._idle.put(request)
        return result


def import_openvino() -> Any:
    """Import OpenVINO with telemetry disabled.

    ``openvino_telemetry``, a dependency of OpenVINO, sends a message at each import and conversion.
    OpenVINO uses a stub if that package cannot be imported.
    """
    with _import_lock:
        telemetry_module = sys.modules.get(TELEMETRY_MODULE)
        sys.modules[TELEMETRY_MODULE] = None  # type: ignore[assignment]
        try:
            import openvino
        finally:
            sys.modules.pop(TELEMETRY_MODULE)
            if telemetry_module is not None:
                sys.modules[TELEMETRY_MODULE] = telemetry_module
    return openvino


def convert_to_openvino(network: Any, example: Floats) -> Any:
    """Convert a torch network; the result does not share its weights."""
    import warnings

    import torch

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        image = torch.from_numpy(example[:1])
        traced = torch.jit.trace(network, image, check_trace=False, strict=False)
        frozen = torch.jit.freeze(traced.eval())
        try:
            return import_openvino().convert_model(frozen, example_input=image, share_weights=False)
        finally:
            _clear_torch_traces()


def _clear_torch_traces() -> None:
    """Free the traces that torch caches forever, 10 to 40 MB per round, as torch's own tests do."""
    import torch

    with suppress(AttributeError):  # private API of torch
        torch._C._jit_clear_class_registry()
        torch.jit._state._clear_class_state()
        torch.jit._recursive.concrete_type_store = torch.jit._recursive.ConcreteTypeStore()


def read_converted(file: Path) -> Any:
    """Load a network written by :func:`save_converted`; raises OpenVINO's errors."""
    model = import_openvino().Core().read_model(file)
    with suppress(OSError):  # the modification time records the last use
        file.touch()
    return model


def save_converted(model: Any, file: Path) -> None:
    """Save ``.bin`` and ``.xml`` atomically; the ``.xml`` is renamed last, so it implies both."""
    temporary = file.with_name(f".{secrets.token_hex(4)}-{file.name}")
    weights = temporary.with_suffix(".bin")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        import_openvino().save_model(model, temporary, compress_to_fp16=False)
        weights.replace(file.with_suffix(".bin"))
        temporary.replace(file)
        _prune_cache(file.parent)
    except (OSError, RuntimeError):  # disk full, for example: not cached
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
            weights.unlink(missing_ok=True)


def _prune_cache(folder: Path) -> None:
    """Delete the least recently used pairs, which include temporary files of killed processes."""
    used: dict[str, float] = {}
    for path in folder.iterdir():
        if path.suffix in (".xml", ".bin"):
            used[path.stem] = max(used.get(path.stem, 0.0), path.stat().st_mtime)
    for stem in sorted(used, key=lambda stem: used[stem])[:-MAX_CACHED_NETWORKS]:
        for suffix in (".xml", ".bin"):
            (folder / f"{stem}{suffix}").unlink(missing_ok=True)
