"""What a training job on Modal writes and tells, over a folder; nothing of Modal is needed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.training.head import ChoiceExamples, HeadTrainingJob
from backend.vision.heads.head import load_head
from serverless import jobs, serialization
from tests.support.published_models import COLOUR_CONTROL

ID = "an-order"


def untold(done: int, of: int) -> None:
    """Nobody wants to know."""


def never() -> None:
    """Nothing is to be committed."""


@pytest.fixture
def order(tmp_path: Path) -> Path:
    """Two colours, told apart by the first of two numbers; the order's folder."""
    names = [COLOUR_CONTROL.label_names[i % 2] for i in range(12)]
    vectors = np.array([[float(name == "red"), 1.0] for name in names], dtype=np.float32)
    answers = tuple(frozenset([name]) for name in names)
    asked = (frozenset(COLOUR_CONTROL.label_names),) * 12
    examples = ChoiceExamples(tuple(range(12)), vectors, answers, asked, np.zeros(12, dtype=bool))
    job = HeadTrainingJob(COLOUR_CONTROL, examples, vectors, None, 1.0, 0.0, None, 0)
    row, files = serialization.encode_head_job(job)
    folder = tmp_path / "orders" / ID
    folder.mkdir(parents=True)
    serialization.write_files({**files, "order.json": json.dumps(row).encode()}, folder)
    return folder


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_result_is_committed_under_another_name_then_renamed_and_marked_done_last(
    order: Path, tmp_path: Path
) -> None:
    seen: list[set[str]] = []
    told = jobs.run_training_order(ID, tmp_path, untold, lambda: seen.append(names(order)), "fc-1")
    sent = {"order.json", "arrays.npz", "begun.json"}
    made = set(told["files"])
    assert made
    assert seen == [
        sent,
        sent | {f"result.partial/{name}" for name in made},
        sent | {f"result/{name}" for name in made} | {"done.json"},
    ]
    assert load_head(order / "result").labels == COLOUR_CONTROL.label_names


def test_what_cannot_be_renamed_is_not_marked_done(order: Path, tmp_path: Path) -> None:
    (order / "result").write_text("a file is in the way")
    with pytest.raises(OSError, match="directory"):
        jobs.run_training_order(ID, tmp_path, untold, never)
    assert "done.json" not in names(order)
    assert "result.partial" in {name.split("/")[0] for name in names(order)}
    (order / "result").unlink()
    assert jobs.run_training_order(ID, tmp_path, untold, never)["files"]


def test_who_asks_again_gets_the_same_result_and_learns_that_another_call_did_it(
    order: Path, tmp_path: Path
) -> None:
    first = jobs.run_training_order(ID, tmp_path, untold, never, "fc-1")
    marked = (order / "done.json").stat().st_mtime_ns
    retried = jobs.run_training_order(ID, tmp_path, untold, never, "fc-1")
    other = jobs.run_training_order(ID, tmp_path, untold, never, "fc-2")
    assert (order / "done.json").stat().st_mtime_ns == marked
    assert first["files"] == retried["files"] == other["files"]
    assert [first["again"], retried["again"], other["again"]] == [False, False, True]
    (file,) = (order / "result").glob("*.safetensors")
    file.write_bytes(b"damaged")
    assert jobs.run_training_order(ID, tmp_path, untold, never, "fc-3")["again"] is False


def test_the_seconds_of_an_attempt_that_died_are_told_by_the_next_one(
    order: Path, tmp_path: Path
) -> None:
    first = {"call": "fc-1", "at": time.time() - 50}
    (order / "begun.json").write_text(json.dumps(first))
    assert jobs.run_training_order(ID, tmp_path, untold, never, "fc-1")["seconds"] >= 50
    (order / "done.json").unlink()
    assert jobs.run_training_order(ID, tmp_path, untold, never, "fc-2")["seconds"] < 50


def test_an_error_that_would_come_again_is_told_and_not_raised(order: Path, tmp_path: Path) -> None:
    row = {"kind": "finder", "base": "no-such-thing.txt", "previous": None}
    (order / "order.json").write_text(json.dumps(row))
    told = jobs.run_training_order(ID, tmp_path, untold, never)
    assert told["error"]["kind"] == "DetectorError"
    assert "There is no detector" in told["error"]["text"]
    assert told["seconds"] >= 0
    assert told["device"]


def test_what_breaks_otherwise_is_raised_to_be_tried_again(order: Path, tmp_path: Path) -> None:
    (order / "order.json").write_text("{")
    with pytest.raises(RuntimeError, match="JSONDecodeError"):
        jobs.run_training_order(ID, tmp_path, untold, never)


def test_a_training_goes_on_where_its_progress_cannot_be_told(order: Path, tmp_path: Path) -> None:
    def cut_off(done: int, of: int) -> None:
        raise ConnectionError("no way out")

    assert jobs.run_training_order(ID, tmp_path, cut_off, never)["files"]


def test_a_network_that_came_since_is_seen_and_one_that_did_not_is_not(tmp_path: Path) -> None:
    reloads: list[Any] = []
    looked = jobs.detect_packed_images("k", 32, tmp_path, [], 0.5, lambda: reloads.append(1))
    assert looked is None
    assert reloads == [1]


def test_a_look_says_what_it_took() -> None:
    looked = jobs.run_timed(lambda a, b: a + b, 1, 2)
    assert looked["told"] == 3
    assert looked["seconds"] >= 0
    assert looked["device"]
