"""Convert, compile and run networks with OpenVINO; save converted networks to disk."""

from __future__ import annotations

import io
import queue
import secrets
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from backend.arrays import Floats
from backend.vision.runtime.cache_files import prune_cache
from backend.vision.runtime.runner import Outputs, RunnerKind
from backend.vision.threads import count_threads

MAX_CACHED_NETWORKS = 24
"""Maximum converted networks in the cache folder; the least recently used are deleted."""
_import_lock = threading.Lock()
TELEMETRY_MODULE = "openvino_telemetry"


class OpenVinoRunner:
    """Run a network with OpenVINO on a CPU, with one inference stream per thread.

    A stream runs on one thread. Single inputs therefore use a second compiled network, whose only
    stream runs on all threads, unless the calling thread is limited to one thread.

    Args:
        kind: ``openvino`` (float32) or ``openvino-bf16``.
        threads: number of threads.
        multi_stream: the network, compiled for one stream per thread.
        load_single_stream: returns the network compiled for one stream; called at first use, as
            many runners never need it. None if single inputs use ``multi_stream`` too.
    """

    def __init__(
        self,
        kind: RunnerKind,
        threads: int,
        multi_stream: Any,
        load_single_stream: Callable[[], Any] | None = None,
    ) -> None:
        self.kind = kind
        self.threads = threads
        self._multi_stream = _RequestPool(multi_stream)
        self._load_single_stream = load_single_stream if threads > 1 else None
        self._single_stream: _RequestPool | None = None
        self._load_lock = threading.Lock()

    def __call__(self, batch: Floats) -> Outputs:
        """See :class:`Runner`."""
        use_all_threads = self._load_single_stream is not None and count_threads() > 1
        return (self._get_single_stream() if use_all_threads else self._multi_stream)(batch)

    def run_in_stream(self, batch: Floats) -> Outputs:
        """Run one batch in one stream, that is on one thread."""
        return self._multi_stream(batch)

    def run(self, inputs: Sequence[Floats]) -> list[Outputs]:
        """See :class:`Runner`."""
        if self.threads == 1 or len(inputs) < 2:
            return [self(batch) for batch in inputs]
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(self._multi_stream, inputs))

    def export(self) -> tuple[bytes, bytes]:
        """Return the compiled networks for several inputs and for single ones.

        They are for the same CPU and the same release of OpenVINO; see :func:`import_compiled`. The
        second is empty if single inputs use the first too.
        """
        multi_stream = self._multi_stream.export()
        return multi_stream, self._get_single_stream().export() if self._load_single_stream else b""

    def _get_single_stream(self) -> _RequestPool:
        with self._load_lock:
            if self._single_stream is None and self._load_single_stream is not None:
                compiled = self._load_single_stream()
                self._single_stream = _RequestPool(compiled) if compiled else self._multi_stream
            return self._single_stream or self._multi_stream


def reshape_model(model: Any, shape: Sequence[int]) -> Any:
    """Return a copy of a converted network with another input shape; -1 for dynamic axes.

    A network with dynamic height and width is at most 5 % slower than one compiled for each shape
    (measured).
    """
    reshaped = model.clone()
    reshaped.reshape(import_openvino().PartialShape(list(shape)))
    return reshaped


def compile_model(model: Any, kind: RunnerKind, threads: int, streams: int) -> Any:
    """Compile a converted network for this CPU."""
    return import_openvino().Core().compile_model(model, "CPU", _settings(kind, threads, streams))


def import_compiled(content: bytes, kind: RunnerKind, threads: int, streams: int) -> Any:
    """Return a network exported by :meth:`OpenVinoRunner.export`; raises OpenVINO's errors."""
    settings = _settings(kind, threads, streams)
    return import_openvino().Core().import_model(io.BytesIO(content), "CPU", settings)


def _settings(kind: RunnerKind, threads: int, streams: int) -> dict[str, str]:
    return {
        "INFERENCE_PRECISION_HINT": "bf16" if kind == "openvino-bf16" else "f32",
        "NUM_STREAMS": str(streams),
        "INFERENCE_NUM_THREADS": str(threads),
    }


class _RequestPool:
    """A compiled network with a thread-safe pool of inference requests."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def export(self) -> bytes:
        """Return the compiled network as bytes."""
        exported = self._compiled.export_model()
        return exported if isinstance(exported, bytes) else bytes(exported.getbuffer())

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
        prune_cache(file.parent, (".xml", ".bin"), MAX_CACHED_NETWORKS)
    except (OSError, RuntimeError):  # disk full, for example: not cached
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
            weights.unlink(missing_ok=True)
