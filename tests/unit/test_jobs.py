"""The bodies of Modal's functions: what a training job writes to a folder, and what it returns."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from backend.training.head import ChoiceExamples, HeadTrainingJob
from backend.vision.heads.head import load_head
from serverless import modal_jobs, serialization
from tests.support.published_models import BOXES_CONTROL, COLOUR_CONTROL

ORDER_ID = "an-order"


def ignore_progress(done: int, total: int) -> None:
    """Progress is not tested here."""


def skip_commit() -> None:
    """A local folder needs no commit."""


@pytest.fixture
def order(tmp_path: Path) -> Path:
    """The folder of an order: two colours that differ in the first of two numbers."""
    names = [COLOUR_CONTROL.label_names[i % 2] for i in range(12)]
    vectors = np.array([[float(name == "red"), 1.0] for name in names], dtype=np.float32)
    answers = tuple(frozenset([name]) for name in names)
    available = (frozenset(COLOUR_CONTROL.label_names),) * 12
    no_audit = np.zeros(12, dtype=bool)
    examples = ChoiceExamples(tuple(range(12)), vectors, answers, available, no_audit)
    job = HeadTrainingJob(COLOUR_CONTROL, examples, vectors, None, 1.0, 0.0, None, 0)
    head_order, files = serialization.encode_head_job(job)
    folder = tmp_path / "orders" / ORDER_ID
    folder.mkdir(parents=True)
    content = head_order.model_dump_json().encode()
    serialization.write_files({**files, "order.json": content}, folder)
    return folder


def file_names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def run(folder: Path, call_id: str = "") -> serialization.TrainingResult:
    return modal_jobs.run_training_order(ORDER_ID, folder, ignore_progress, skip_commit, call_id)


def test_an_order_survives_its_encoding_as_json(order: Path) -> None:
    text = (order / "order.json").read_bytes()
    decoded = serialization.ORDER_ADAPTER.validate_json(text)
    assert isinstance(decoded, serialization.HeadOrder)
    assert decoded.control == COLOUR_CONTROL
    assert decoded.answers[:2] == (("red",), ("blue",))
    assert decoded.model_dump_json().encode() == text


def test_a_result_is_committed_under_another_name_then_renamed_and_marked_done_last(
    order: Path, tmp_path: Path
) -> None:
    committed: list[set[str]] = []
    result = modal_jobs.run_training_order(
        ORDER_ID, tmp_path, ignore_progress, lambda: committed.append(file_names(order)), "fc-1"
    )
    inputs = {"order.json", "arrays.npz", "begun.json"}
    outputs = set(result.files)
    assert outputs
    assert committed == [
        inputs,
        inputs | {f"result.partial/{name}" for name in outputs},
        inputs | {f"result/{name}" for name in outputs} | {"done.json"},
    ]
    assert load_head(order / "result").labels == COLOUR_CONTROL.label_names


def test_a_result_that_cannot_be_renamed_is_not_marked_done(order: Path, tmp_path: Path) -> None:
    (order / "result").write_text("a file is in the way")
    with pytest.raises(OSError, match="directory"):
        run(tmp_path)
    assert "done.json" not in file_names(order)
    assert "result.partial" in {name.split("/")[0] for name in file_names(order)}
    (order / "result").unlink()
    assert run(tmp_path).files


def test_a_second_call_returns_the_same_result_and_reports_that_another_call_trained_it(
    order: Path, tmp_path: Path
) -> None:
    first = run(tmp_path, "fc-1")
    marked = (order / "done.json").stat().st_mtime_ns
    retried = run(tmp_path, "fc-1")
    other = run(tmp_path, "fc-2")
    assert (order / "done.json").stat().st_mtime_ns == marked
    assert first.files == retried.files == other.files
    assert [first.again, retried.again, other.again] == [False, False, True]
    (file,) = (order / "result").glob("*.safetensors")
    file.write_bytes(b"damaged")
    assert run(tmp_path, "fc-3").again is False


def test_the_next_attempt_reports_the_seconds_of_one_that_died(order: Path, tmp_path: Path) -> None:
    first = {"call": "fc-1", "at": time.time() - 50}
    (order / "begun.json").write_text(json.dumps(first))
    assert run(tmp_path, "fc-1").seconds >= 50
    (order / "done.json").unlink()
    assert run(tmp_path, "fc-2").seconds < 50


def test_an_error_that_a_retry_would_repeat_is_returned_and_not_raised(
    order: Path, tmp_path: Path
) -> None:
    detector_order = serialization.DetectorOrder(
        control=BOXES_CONTROL, samples=(), base="no-such-thing.txt", size=0, seconds=1.0, seed=0
    )
    (order / "order.json").write_text(detector_order.model_dump_json())
    result = run(tmp_path)
    assert result.error is not None
    assert result.error.kind == "DetectorError"
    assert "There is no detector" in result.error.text
    assert result.seconds >= 0
    assert result.device


def test_any_other_failure_is_raised_so_that_it_is_retried(order: Path, tmp_path: Path) -> None:
    (order / "order.json").write_text("{")
    with pytest.raises(RuntimeError, match=r"ValidationError: [\s\S]*Invalid JSON"):
        run(tmp_path)


def test_a_training_continues_when_its_progress_cannot_be_reported(
    order: Path, tmp_path: Path
) -> None:
    def fail(done: int, total: int) -> None:
        raise ConnectionError("no network")

    assert modal_jobs.run_training_order(ORDER_ID, tmp_path, fail, skip_commit).files


def test_a_missing_network_is_looked_for_once_more_after_a_reload(tmp_path: Path) -> None:
    reloads: list[int] = []
    found = modal_jobs.detect_packed_images("k", 32, tmp_path, [], 0.5, lambda: reloads.append(1))
    assert found is None
    assert reloads == [1]


def test_a_timed_call_returns_its_value_with_device_and_seconds() -> None:
    result = modal_jobs.run_timed(lambda a, b: a + b, 1, 2)
    assert result.value == 3
    assert result.seconds >= 0
    assert result.device
