"""Run a network on batches of items, using all CPU threads or the GPU."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from backend.arrays import Floats
from backend.vision.threads import count_threads, imported_torch, single_thread_pool

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
Precision = Literal["bf16", "fp16", "fp32"]
FP16_CAPABILITY = 7
"""Compute capability from which GPUs have tensor cores for float16."""
CPU_BATCH_SIZE, GPU_BATCH_LIMIT = 16, 64
"""Maximum items per batch. Larger batches are hardly faster on a CPU and take more memory."""
NVIDIA_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
AMD_DRIVER_DEVICE = Path("/dev/kfd")


def detect_device() -> str:
    """Return ``cuda`` if a GPU is available, else ``cpu``; torch is only imported with a driver."""
    if not _has_gpu_driver():
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _has_gpu_driver() -> bool:
    """Return whether a driver is installed, without which torch has no GPU."""
    if AMD_DRIVER_DEVICE.exists():
        return True
    try:
        ctypes.CDLL(NVIDIA_DRIVER)
    except OSError:
        return False
    return True


def supports_bf16() -> bool:
    """Return whether the CPU supports bfloat16 natively; emulation is slower than float32."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def training_precision() -> Precision:
    """Return the fastest precision for training on this machine's device.

    bfloat16 needs compute capability 8 (Ampere). GPUs of capability 7 have float16 tensor cores,
    except the GeForce GTX 16 series, on which float16 training gives NaN. A CPU trains in float32
    for ultralytics; its forward pass may be bfloat16, see :func:`supports_bf16`.
    """
    import torch

    if detect_device() == "cpu":
        return "fp32"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16"
    has_fp16 = torch.cuda.get_device_capability()[0] >= FP16_CAPABILITY
    return "fp16" if has_fp16 and "GTX 16" not in torch.cuda.get_device_name() else "fp32"


def encode_in_batches(
    encode: Callable[[Sequence[T]], Floats], items: Sequence[T], dim: int, device: str
) -> Floats:
    """Encode items in batches.

    On a CPU, batches run in parallel with one thread each. Splitting one batch over all threads
    synchronizes them many times per image: yolo11n-cls on 2 cores, next to another busy process,
    encoded 11 to 58 images per second instead of 124 to 160.

    Args:
        encode: k items → (k, dim); must be thread-safe.
        items: n items.
        dim: embedding dimension.
        device: device of the network, ``cpu`` or ``cuda``.

    Returns:
        (n, dim) float32. TF32 is disabled on a GPU so that embeddings agree with those of a CPU.
    """
    threads, limit = 1, GPU_BATCH_LIMIT
    if device == "cpu":
        threads, limit = count_threads(), CPU_BATCH_SIZE
    size = max(1, min(limit, -(-len(items) // threads)))
    batches = [items[start : start + size] for start in range(0, len(items), size)]
    run = partial(_encode_batch, encode, _full_precision(device))
    if threads == 1 or len(batches) < 2:
        rows = [run(batch) for batch in batches]
    else:
        with single_thread_pool(threads) as pool:
            rows = list(pool.map(run, batches))
    return np.concatenate(rows) if rows else np.zeros((0, dim), dtype=np.float32)


def _encode_batch(
    encode: Callable[[Sequence[T]], Floats],
    full_precision: Callable[[], AbstractContextManager[object]],
    batch: Sequence[T],
) -> Floats:
    torch = imported_torch()
    if torch is None:  # of a converted network
        return encode(batch)
    with torch.inference_mode(), full_precision():
        return encode(batch)


def _full_precision(device: str) -> Callable[[], AbstractContextManager[object]]:
    """Return a context manager that disables TF32, the default of convolutions on a GPU."""
    if device == "cpu":
        return nullcontext
    import torch

    return partial(torch.backends.cudnn.flags, enabled=True, allow_tf32=False)


def to_array(tensor: torch.Tensor) -> Floats:
    """Convert a tensor on any device to a float32 array."""
    return np.asarray(tensor.float().cpu().numpy(), dtype=np.float32)
