"""Splitting work into batches, with work whose answer can be worked out by hand."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from backend.vision.batching import CPU_BATCH_SIZE, encode_in_batches, training_precision


def doubled(items: Sequence[int]) -> npt.NDArray[np.float32]:
    assert len(items) <= CPU_BATCH_SIZE
    return np.array([[2 * item, 1] for item in items], dtype=np.float32)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 15, 16, 17, 100])
def test_rows_are_in_the_order_of_the_items(count: int) -> None:
    found = encode_in_batches(doubled, range(count), 2, "cpu")
    assert found.shape == (count, 2)
    np.testing.assert_array_equal(found[:, 0], np.arange(count) * 2)


def test_batches_are_computed_by_one_thread_each() -> None:
    import torch

    before, seen = torch.get_num_threads(), set()

    def note(items: Sequence[int]) -> npt.NDArray[np.float32]:
        seen.add((threading.get_ident(), torch.get_num_threads()))
        assert torch.is_inference_mode_enabled()
        return doubled(items)

    encode_in_batches(note, range(200), 2, "cpu")
    if before > 1:
        assert {threads for _, threads in seen} == {1}
        assert threading.get_ident() not in {thread for thread, _ in seen}
    assert torch.get_num_threads() == before


def test_an_error_in_a_batch_reaches_the_caller() -> None:
    def fail(items: Sequence[int]) -> npt.NDArray[np.float32]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        encode_in_batches(fail, range(50), 2, "cpu")


@pytest.mark.parametrize(
    ("name", "capability", "precision"),
    [
        ("NVIDIA H100", (9, 0), "bf16"),
        ("NVIDIA A10G", (8, 6), "bf16"),
        ("Tesla T4", (7, 5), "fp16"),
        ("Tesla V100-SXM2-16GB", (7, 0), "fp16"),
        ("NVIDIA GeForce GTX 1660 Ti", (7, 5), "fp32"),
        ("Tesla P100-PCIE-16GB", (6, 0), "fp32"),
    ],
)
def test_training_uses_a_precision_that_the_gpu_has(
    monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int], precision: str
) -> None:
    import torch

    monkeypatch.setattr("backend.vision.batching.detect_device", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *device: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: capability)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: capability >= (8, 0)
    )
    assert training_precision() == precision


def test_a_cpu_trains_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.vision.batching.detect_device", lambda: "cpu")
    assert training_precision() == "fp32"
