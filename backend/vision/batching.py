"""Run many items through a network in batches, on all CPU threads or on the GPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from backend.arrays import Floats

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
CPU_BATCH_SIZE, GPU_BATCH_LIMIT = 16, 64
"""Items per batch. Larger batches gain little on a CPU, and every item takes memory."""


def detect_device() -> str:
    """Return ``cuda`` if a GPU is available, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def supports_bf16() -> bool:
    """Return whether the CPU computes bfloat16 natively; emulated, it is slower than float32."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def encode_in_batches(
    encode: Callable[[Sequence[T]], Floats], items: Sequence[T], dim: int, device: str
) -> Floats:
    """Encode items in batches.

    On a CPU, each batch is computed by one thread and several batches run in parallel. With all
    threads on one batch, they wait for each other many times per image: measured on 2 cores with
    another busy process, 11 to 58 images a second instead of 124 to 160 (yolo11n-cls).

    Args:
        encode: k items → (k, dim); called from several threads.
        items: n of them.
        dim: length of a vector.
        device: device of ``encode``.

    Returns:
        (n, dim) float32, computed in full float32 on every device so that equal weights give equal
        vectors.
    """
    import torch

    threads, limit = 1, GPU_BATCH_LIMIT
    if device == "cpu":
        threads, limit = torch.get_num_threads(), CPU_BATCH_SIZE
    size = max(1, min(limit, -(-len(items) // threads)))
    batches = [items[start : start + size] for start in range(0, len(items), size)]
    run = partial(_encode_batch, encode, _full_precision(device))
    if threads == 1 or len(batches) < 2:
        rows = [run(batch) for batch in batches]
    else:
        with single_thread_pool(threads) as pool:
            rows = list(pool.map(run, batches))
    return np.concatenate(rows) if rows else np.zeros((0, dim), dtype=np.float32)


def single_thread_pool(count: int) -> ThreadPoolExecutor:
    """Return a pool of ``count`` threads in each of which torch uses one thread.

    ``torch.set_num_threads`` applies to the calling thread and to all threads that start later.
    Without the restore, later threads of a server would train and convert on one CPU.

    Args:
        count: ``torch.get_num_threads()`` of the caller, restored for threads that start later.
    """
    return ThreadPoolExecutor(count, initializer=partial(_use_one_thread, count))


def _use_one_thread(other_threads: int) -> None:
    import torch

    torch.get_num_threads()  # otherwise the first operation resets the number
    torch.set_num_threads(1)
    restoring_thread = threading.Thread(target=torch.set_num_threads, args=(other_threads,))
    restoring_thread.start()
    restoring_thread.join()


def _encode_batch(
    encode: Callable[[Sequence[T]], Floats],
    full_precision: Callable[[], AbstractContextManager[object]],
    batch: Sequence[T],
) -> Floats:
    import torch

    with torch.inference_mode(), full_precision():
        return encode(batch)


def _full_precision(device: str) -> Callable[[], AbstractContextManager[object]]:
    """Disable TF32, which convolutions on a GPU use by default."""
    import torch

    if device == "cpu":
        return nullcontext
    return partial(torch.backends.cudnn.flags, enabled=True, allow_tf32=False)


def to_array(tensor: torch.Tensor) -> Floats:
    """Copy a tensor of any device to a float32 array."""
    return np.asarray(tensor.float().cpu().numpy(), dtype=np.float32)
