"""Judging answers, and what is shown of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.arrays import Doubles
from backend.domain import ChoicePrediction, Control, ImageSize, Label, Region
from backend.inference.confidence import choice_confidence, detection_confidence
from backend.inference.detections import RegionSample
from backend.inference.model import Model, apply_thresholds
from backend.learning.intervals import proportion_estimate
from backend.loop.evaluate import metrics
from backend.loop.evaluate.metrics import ControlEvaluation
from backend.store.audit_predictions import AuditAnswer
from backend.training.head import ChoiceExamples
from backend.vision.detection.detections import Detections
from backend.vision.detection.trained_detector import ClassMapping
from backend.vision.heads.head import Head

SIZE = ImageSize(1, 1)
CONTROL = Control("c", "image", "image", (Label("a"), Label("b")))


def head() -> Head:
    """Says a to the right, b to the left, the surer the farther."""
    weight = np.array([[4, 0], [-4, 0]], dtype=np.float32)
    bias = np.zeros(2, dtype=np.float32)
    return Head(("a", "b"), False, weight, bias, 1.0, 0.0, "none", "none", "text", 0)


def examples() -> ChoiceExamples:
    vectors = np.array([[1, 0], [-1, 0], [0.9, 0.4], [0.1, 1], [-0.8, 0.6]], dtype=np.float32)
    answers = tuple(map(frozenset, "abaab"))
    asked = (frozenset("ab"),) * 5
    return ChoiceExamples(
        (10, 11, 12, 13, 14), vectors, answers, asked, np.array([1, 1, 1, 1, 0], bool)
    )


def test_answers_are_judged_on_the_rows_that_were_asked_for() -> None:
    found = metrics.evaluate_choices(Model({"c": head()}), CONTROL, examples(), [0, 1, 3])
    assert (found.figure.n, found.figure.value) == (3, 1.0)
    assert found.correct == {10: True, 11: True, 13: True}
    assert found.confidence[10] > 0.99 > found.confidence[13] > 0.5
    assert found.metrics["labels"]["a"]["recall"]["value"] == 1.0
    assert found.metrics["confusion"] == {"a": {"a": 2}, "b": {"b": 1}}
    assert found.evidence["a"][1] == [True, True]
    assert found.answers[11] == AuditAnswer(("b",), ("b",))
    assert all(answer.is_correct for answer in found.answers.values())


def test_without_a_head_every_answer_is_wrong_and_nothing_is_sure() -> None:
    found = metrics.evaluate_choices(Model({}), CONTROL, examples(), [0, 1])
    assert found.figure.value == 0.0
    assert found.confidence == {10: 0.0, 11: 0.0}
    assert found.thresholds(0.9) == {}
    assert found.answers == {}, "there are no predictions to show"


@pytest.mark.parametrize(
    ("row", "multiple", "sure"),
    [([0.7, 0.3], False, 0.7), ([0.9, 0.2], True, 0.8), ([0.5, 0.99], True, 0.5), ([], True, 0.0)],
)
def test_the_certainty_of_an_answer(row: list[float], multiple: bool, sure: float) -> None:
    found = choice_confidence(np.array(row, dtype=np.float32), multiple)
    assert found == pytest.approx(sure, abs=1e-6)


def test_finds_are_as_certain_as_the_least_decided_of_them() -> None:
    assert detection_confidence([0.9, 0.6, 0.1], min_confidence=0.25) == 0.6
    assert detection_confidence([0.9, 0.2], min_confidence=0.25) == 0.8, (
        "perhaps something is missing"
    )
    assert detection_confidence([], min_confidence=0.25) == 0.98


def test_a_task_is_right_when_all_its_controls_are_and_as_sure_as_the_least() -> None:
    figure = proportion_estimate(1, 1)
    one = ControlEvaluation(figure, {}, {1: True, 2: True, 3: True}, {1: 0.9, 2: 0.8, 3: 0.7})
    two = ControlEvaluation(figure, {}, {1: True, 2: False}, {1: 0.6, 2: 0.9})
    assert metrics.task_correctness([one, two]) == {1: (0.6, True), 2: (0.8, False)}
    assert metrics.task_correctness([]) == {}


def test_labels_below_their_threshold_are_left_out_of_what_is_shown() -> None:
    choice = ChoicePrediction("c", {"a": 0.8, "b": 0.6}, SIZE)
    assert apply_thresholds(choice, {"a": 0.9}).labels == {"b": 0.6}
    assert apply_thresholds(choice, {}).labels == choice.labels
    assert apply_thresholds(choice, {"a": 1.1, "b": 1.1}).labels == {}


@dataclass
class Dots:
    """Finds what it is told to."""

    class_mapping: ClassMapping
    places: list[Doubles]

    def detect(self, images: Sequence[Image.Image], least: float) -> list[Detections]:
        return [
            Detections(
                np.concatenate([xy, xy], axis=1).astype(np.float32),
                np.full(len(xy), 0.9, dtype=np.float32),
                np.zeros(len(xy), dtype=np.int64),
            )
            for xy in self.places
        ]

    def save(self, folder: Path) -> None:
        """Nothing."""


def dots(side: float, places: list[Doubles]) -> Dots:
    sides = {"a": side} if side else {}
    return Dots(ClassMapping(True, ("a",), {0: 0}, sides, 640, shown=0.25), places)


POINTS = Control("p", "image", "image", (Label("a"),), "points")


def marked(truth: list[Doubles], boxes: tuple[Region, ...] = ()) -> list[RegionSample]:
    image = Image.new("RGB", (64, 48))
    return [
        RegionSample(
            i,
            lambda: image,
            ImageSize(64, 48),
            tuple(Region("a", x, y, x, y) for x, y in xy),
            boxes,
        )
        for i, xy in enumerate(truth)
    ]


@pytest.fixture
def truth() -> list[Doubles]:
    random = np.random.default_rng(0)
    return [random.uniform(0.1, 0.9, (6, 2)) for _ in range(20)]


def test_the_same_points_are_as_good_whatever_side_the_finder_was_trained_with(
    truth: list[Doubles],
) -> None:
    random = np.random.default_rng(1)
    off = [xy + random.normal(0, 0.012, xy.shape) for xy in truth]
    samples = marked(truth)
    finders = [dots(side, off) for side in (0.1, 0.02, 0.0)]
    sizes = metrics.object_sizes(POINTS, samples, finders)
    assert sizes == {"a": 0.1}, "of the first, where nobody drew or told a size"
    found = [metrics.evaluate_regions(one, POINTS, samples, sizes) for one in finders]
    assert len({one.figure.value for one in found}) == 1
    assert {str(one.metrics["sizes"]) for one in found} == {str(sizes)}


def test_points_that_are_nearer_are_better_though_the_finder_was_trained_with_a_smaller_side(
    truth: list[Doubles],
) -> None:
    random = np.random.default_rng(1)
    live = dots(0.1, [xy + random.normal(0, 0.03, xy.shape) for xy in truth])
    new = dots(0.02, [xy + random.normal(0, 0.015, xy.shape) for xy in truth])
    samples = marked(truth)
    sizes = metrics.object_sizes(POINTS, samples, [new, live])
    was, now = (metrics.evaluate_regions(one, POINTS, samples, sizes) for one in (live, new))
    assert (now.figure.value or 0) > (was.figure.value or 0)


def test_real_boxes_tell_the_size_best_and_then_the_config(truth: list[Doubles]) -> None:
    square = Region("a", 0.1, 0.1, 0.2, 0.1 + 0.1 * 64 / 48)
    finder = dots(0.3, truth)
    assert metrics.object_sizes(POINTS, marked(truth, (square,)), [finder])["a"] == pytest.approx(
        0.1
    )
    told = replace(POINTS, labels=(Label("a", extent=0.05),))
    assert metrics.object_sizes(told, marked(truth), [finder]) == {"a": 0.05}
    assert metrics.object_sizes(POINTS, marked(truth), [None, finder]) == {"a": 0.3}
    assert metrics.object_sizes(replace(POINTS, kind="boxes"), marked(truth), [finder]) == {}
