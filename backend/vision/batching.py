"""Many items through a network, as fast as the device allows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import numpy as np

from backend.arrays import Floats

T = TypeVar("T")
CPU_BATCH_SIZE, GPU_BATCH_LIMIT = 16, 64
"""Items at once. A CPU gains little from more, and every one takes memory."""


def detect_device() -> str:
    """``cuda`` where there is one, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def supports_bf16() -> bool:
    """Whether the processor computes bfloat16 itself; emulated it is slower than float32."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def encode_in_batches(
    encode: Callable[[Sequence[T]], Floats], items: Sequence[T], dim: int, device: str
) -> Floats:
    """Encode items part by part.

    On a CPU each part is computed by one thread, several parts at once. The other way round, all
    threads on one part, they wait for each other many times per image: measured with a busy
    neighbour on 2 cores, 11–58 images a second instead of 124–160 (yolo11n-cls).

    Args:
        encode: some items → (k, dim); called from several threads.
        items: n of them.
        dim: length of a vector.
        device: that ``encode`` computes on.

    Returns:
        (n, dim) float32, full float32 on every device so that equal weights give equal vectors.
    """
    import torch

    threads = torch.get_num_threads() if device == "cpu" else 1
    batch_list = _split_batches(
        items, threads, CPU_BATCH_SIZE if device == "cpu" else GPU_BATCH_LIMIT
    )
    run = partial(_encode_batch, encode, _full_precision(device))
    if threads == 1 or len(batch_list) < 2:
        rows = [run(batch_items) for batch_items in batch_list]
    else:
        with single_thread_pool(threads) as pool:
            rows = list(pool.map(run, batch_list))
    return np.concatenate(rows) if rows else np.zeros((0, dim), dtype=np.float32)


def single_thread_pool(count: int) -> ThreadPoolExecutor:
    """As many threads as torch uses, in each of which torch computes alone.

    ``torch.set_num_threads`` tells the calling thread, and all that start later: without care the
    next thread of a server, and everything it trains and converts, would have one processor left.

    Args:
        count: ``torch.get_num_threads()`` of the caller; later threads keep it.
    """
    return ThreadPoolExecutor(count, initializer=partial(_use_one_thread, count))


def _use_one_thread(other_threads: int) -> None:
    import torch

    torch.get_num_threads()  # else the first operation sets the number once more
    torch.set_num_threads(1)
    restoring_thread = threading.Thread(target=torch.set_num_threads, args=(other_threads,))
    restoring_thread.start()
    restoring_thread.join()


def _split_batches(items: Sequence[T], threads: int, max_size: int) -> list[Sequence[T]]:
    size = max(1, min(max_size, -(-len(items) // threads)))
    return [items[start : start + size] for start in range(0, len(items), size)]


def _encode_batch(
    encode: Callable[[Sequence[T]], Floats],
    full_precision: Callable[[], AbstractContextManager[Any]],
    batch_items: Sequence[T],
) -> Floats:
    import torch

    with torch.inference_mode(), full_precision():
        return encode(batch_items)


def _full_precision(device: str) -> Callable[[], AbstractContextManager[Any]]:
    """On a GPU, without TF32, which convolutions use by default."""
    import torch

    if device == "cpu":
        return nullcontext
    return partial(torch.backends.cudnn.flags, enabled=True, allow_tf32=False)
