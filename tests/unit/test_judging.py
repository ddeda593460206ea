"""Judging answers, and what is shown of them."""

from __future__ import annotations

import numpy as np
import pytest

from backend.domain import Choice, Control, ImageSize, Label
from backend.learning.evaluation import share
from backend.loop import judging
from backend.loop.judging import Judgement
from backend.loop.model import Model, confident
from backend.loop.training import Examples
from backend.vision.head import Head

SIZE = ImageSize(1, 1)
CONTROL = Control("c", "image", "image", (Label("a"), Label("b")))


def head() -> Head:
    """Says a to the right, b to the left, the surer the farther."""
    weight = np.array([[4, 0], [-4, 0]], dtype=np.float32)
    bias = np.zeros(2, dtype=np.float32)
    return Head(("a", "b"), False, weight, bias, 1.0, 0.0, "none", "none", "text", 0)


def examples() -> Examples:
    vectors = np.array([[1, 0], [-1, 0], [0.9, 0.4], [0.1, 1], [-0.8, 0.6]], dtype=np.float32)
    answers = tuple(map(frozenset, "abaab"))
    asked = (frozenset("ab"),) * 5
    return Examples((10, 11, 12, 13, 14), vectors, answers, asked, np.array([1, 1, 1, 1, 0], bool))


def test_answers_are_judged_on_the_rows_that_were_asked_for() -> None:
    found = judging.judge_choices(Model({"c": head()}), CONTROL, examples(), [0, 1, 3])
    assert (found.figure.n, found.figure.value) == (3, 1.0)
    assert found.right == {10: True, 11: True, 13: True}
    assert found.sure[10] > 0.99 > found.sure[13] > 0.5
    assert found.told["labels"]["a"]["recall"]["value"] == 1.0
    assert found.told["confusion"] == {"a": {"a": 2}, "b": {"b": 1}}
    assert found.evidence["a"][1] == [True, True]


def test_without_a_head_every_answer_is_wrong_and_nothing_is_sure() -> None:
    found = judging.judge_choices(Model({}), CONTROL, examples(), [0, 1])
    assert found.figure.value == 0.0
    assert found.sure == {10: 0.0, 11: 0.0}
    assert found.thresholds(0.9) == {}


@pytest.mark.parametrize(
    ("row", "multiple", "sure"),
    [([0.7, 0.3], False, 0.7), ([0.9, 0.2], True, 0.8), ([0.5, 0.99], True, 0.5), ([], True, 0.0)],
)
def test_the_certainty_of_an_answer(row: list[float], multiple: bool, sure: float) -> None:
    found = judging.certainty(np.array(row, dtype=np.float32), multiple)
    assert found == pytest.approx(sure, abs=1e-6)


def test_finds_are_as_certain_as_the_least_decided_of_them() -> None:
    assert judging.find_certainty([0.9, 0.6, 0.1], shown=0.25) == 0.6
    assert judging.find_certainty([0.9, 0.2], shown=0.25) == 0.8, "perhaps something is missing"
    assert judging.find_certainty([], shown=0.25) == 0.98


def test_a_task_is_right_when_all_its_controls_are_and_as_sure_as_the_least() -> None:
    figure = share(1, 1)
    one = Judgement(figure, {}, {1: True, 2: True, 3: True}, {1: 0.9, 2: 0.8, 3: 0.7})
    two = Judgement(figure, {}, {1: True, 2: False}, {1: 0.6, 2: 0.9})
    assert judging.together([one, two]) == {1: (0.6, True), 2: (0.8, False)}
    assert judging.together([]) == {}


def test_labels_below_their_threshold_are_left_out_of_what_is_shown() -> None:
    choice = Choice("c", {"a": 0.8, "b": 0.6}, SIZE)
    assert confident(choice, {"a": 0.9}).labels == {"b": 0.6}
    assert confident(choice, {}).labels == choice.labels
    assert confident(choice, {"a": 1.1, "b": 1.1}).labels == {}
