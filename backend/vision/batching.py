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
MOST_CPU, MOST_GPU = 16, 64
"""Items at once. A CPU gains little from more, and every one takes memory."""


def device_here() -> str:
    """``cuda`` where there is one, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def computes_bf16() -> bool:
    """Whether the processor computes bfloat16 itself; emulated it is slower than float32."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def in_batches(
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
    parts = _parts(items, threads, MOST_CPU if device == "cpu" else MOST_GPU)
    run = partial(_run, encode, _exact(device))
    if threads == 1 or len(parts) < 2:
        rows = [run(part) for part in parts]
    else:
        with single_threads(threads) as pool:
            rows = list(pool.map(run, parts))
    return np.concatenate(rows) if rows else np.zeros((0, dim), dtype=np.float32)


def single_threads(count: int) -> ThreadPoolExecutor:
    """As many threads as torch uses, in each of which torch computes alone.

    ``torch.set_num_threads`` tells the calling thread, and all that start later: without care the
    next thread of a server, and everything it trains and converts, would have one processor left.

    Args:
        count: ``torch.get_num_threads()`` of the caller; later threads keep it.
    """
    return ThreadPoolExecutor(count, initializer=partial(_compute_alone, count))


def _compute_alone(others: int) -> None:
    import torch

    torch.get_num_threads()  # else the first operation sets the number once more
    torch.set_num_threads(1)
    later = threading.Thread(target=torch.set_num_threads, args=(others,))
    later.start()
    later.join()


def _parts(items: Sequence[T], threads: int, most: int) -> list[Sequence[T]]:
    size = max(1, min(most, -(-len(items) // threads)))
    return [items[start : start + size] for start in range(0, len(items), size)]


def _run(
    encode: Callable[[Sequence[T]], Floats],
    exact: Callable[[], AbstractContextManager[Any]],
    part: Sequence[T],
) -> Floats:
    import torch

    with torch.inference_mode(), exact():
        return encode(part)


def _exact(device: str) -> Callable[[], AbstractContextManager[Any]]:
    """On a GPU, without TF32, which convolutions use by default."""
    import torch

    if device == "cpu":
        return nullcontext
    return partial(torch.backends.cudnn.flags, enabled=True, allow_tf32=False)
