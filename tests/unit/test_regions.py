"""Annotations → answers, predictions → regions."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from backend.domain import ChoicePrediction, Control, ImageSize, Label, Prediction
from backend.label_studio.task_results import format_prediction, parse_task

LABELS = (Label("a"), Label("b"), Label("c"))
ONE = Control("c", "image", "image", LABELS)
MANY = Control("c", "image", "image", LABELS, multiple=True)


def annotation(*choices: str, **more: Any) -> dict[str, Any]:
    region = {"from_name": "c", "type": "choices", "value": {"choices": list(choices)}}
    return {"result": [region] if choices else [], "updated_at": "2026-01-02", **more}


def answer(control: Control, *annotations: dict[str, Any]) -> frozenset[str] | None:
    row = {"id": 1, "data": {"image": "x"}, "is_labeled": True, "annotations": list(annotations)}
    task = parse_task(row, [control], {}, Counter())
    return (task.choices or {}).get("c")


@pytest.mark.parametrize(
    ("control", "annotations", "expected"),
    [
        # one of many: what was chosen; nothing chosen is no answer
        (ONE, [annotation("a")], {"a"}),
        (ONE, [annotation()], None),
        # several of many: nothing chosen means none of them
        (MANY, [annotation("a", "c")], {"a", "c"}),
        (MANY, [annotation()], set()),
        # nobody answered
        (ONE, [], None),
        (MANY, [], None),
        # skipped
        (ONE, [annotation("a", was_cancelled=True)], None),
        (MANY, [annotation(was_cancelled=True)], None),
        # a label that is gone from the config
        (ONE, [annotation("gone")], None),
        (MANY, [annotation("gone", "a")], {"a"}),
        (MANY, [annotation("gone")], None),
        # several people: the majority; a ground truth outranks it; the latest among equals
        (ONE, [annotation("a"), annotation("b"), annotation("b")], {"b"}),
        (ONE, [annotation("a", ground_truth=True), annotation("b"), annotation("b")], {"a"}),
        (ONE, [annotation("a"), annotation("b", updated_at="2026-01-03")], {"b"}),
    ],
)
def test_the_answer_that_stands(
    control: Control, annotations: list[dict[str, Any]], expected: set[str] | None
) -> None:
    found = answer(control, *annotations)
    assert found == (None if expected is None else frozenset(expected))


def test_what_is_left_out_is_counted_by_reason() -> None:
    left: Counter[str] = Counter()
    row = {
        "id": 1,
        "data": {"image": "x"},
        "annotations": [annotation("gone"), annotation("a", was_cancelled=True)],
    }
    assert parse_task(row, [ONE], {}, left).skipped
    assert not parse_task({**row, "annotations": [annotation("a")]}, [ONE], {}, Counter()).skipped
    assert left == {"label no longer in the labeling config": 1, "skipped by the annotator": 1}


@pytest.mark.parametrize(
    ("control", "annotations", "is_empty"),
    [
        (ONE, [annotation()], True),
        (ONE, [annotation(), annotation("a")], False),
        (ONE, [annotation("gone")], False),
        (ONE, [annotation(was_cancelled=True)], False),
        (ONE, [annotation(updated_at="2025-12-31")], False),
        (ONE, [], False),
        (MANY, [annotation()], False),
    ],
)
def test_a_task_submitted_without_a_choice_is_counted_and_named(
    control: Control, annotations: list[dict[str, Any]], is_empty: bool
) -> None:
    left: Counter[str] = Counter()
    added = {"c": dict.fromkeys("abc", "2026-01-01")}
    row = {"id": 1, "data": {"image": "x"}, "is_labeled": True, "annotations": annotations}
    task = parse_task(row, [control], added, left)
    assert task.unanswered == (frozenset({"c"}) if is_empty else frozenset())
    assert left["submitted without a choice for c"] == int(is_empty)


def test_an_answer_older_than_a_label_says_nothing_about_it() -> None:
    added = {"c": {"a": "", "b": "", "c": "2026-01-02T12:00"}}
    row = {"id": 1, "data": {}, "annotations": [annotation("a", updated_at="2026-01-01")]}
    task = parse_task(row, [MANY], added, Counter())
    assert task.available_labels == {"c": frozenset({"a", "b"})}


def test_a_prediction_becomes_the_regions_label_studio_wants() -> None:
    choice = ChoicePrediction("c", {"b": 0.9, "a": 0.2}, ImageSize(640, 480))
    control = Control("c", "image", "image", LABELS, multiple=True, threshold=0.5)
    made = format_prediction(Prediction(7, (choice,), 0.25), {"c": control}, "v1-x")
    (region,) = made["result"]
    assert {k: made[k] for k in ("task", "score", "model_version")} == {
        "task": 7,
        "score": 0.25,
        "model_version": "v1-x",
    }
    assert region["value"] == {"choices": ["b"]}
    assert region["score"] == 0.9
    assert (region["original_width"], region["original_height"]) == (640, 480)
    assert (region["from_name"], region["to_name"], region["type"]) == ("c", "image", "choices")
    assert region["id"]


def test_nothing_above_the_threshold_gives_no_region() -> None:
    control = Control("c", "image", "image", LABELS, threshold=0.95)
    choice = ChoicePrediction("c", {"b": 0.9}, ImageSize(1, 1))
    assert format_prediction(Prediction(7, (choice,), 0.1), {"c": control}, "v")["result"] == []
