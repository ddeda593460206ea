"""The learning curve: known curves are recovered and extrapolated within their band."""

from __future__ import annotations

import doctest
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from backend.estimate import IntervalEstimate
from backend.learning import learning_curve
from backend.learning.intervals import proportion_estimate
from backend.learning.learning_curve import CurvePoint, LabelMisses


def curve(seed: int = 0, a: float = 0.05, b: float = 1.5, c: float = 0.5, n: int = 200) -> object:
    rng = np.random.default_rng(seed)
    labels = [20, 40, 60, 80, 100]
    errors = [a + b * k**-c for k in labels]
    points = [CurvePoint(k, rng.binomial(n, e) / n, n) for k, e in zip(labels, errors, strict=True)]
    return learning_curve.fit_learning_curve(points, rng)


def measured(value: float, n: int = 2000, metric: str = "accuracy") -> IntervalEstimate:
    """Return a figure that is measured on many images."""
    return replace(proportion_estimate(round(value * n), n), metric=metric)


def fitted(curve: learning_curve.LearningCurve) -> IntervalEstimate:
    """Return a measured figure that is on the curve."""
    return measured(1 - curve.predict_error(curve.label_count)[0])


def test_the_examples_in_the_docstrings_hold() -> None:
    found = doctest.testmod(learning_curve)
    assert found.attempted
    assert not found.failed


def test_the_band_covers_the_error_with_twice_the_labels() -> None:
    covered = known = 0
    for seed in range(60):
        found = curve(seed)
        if isinstance(found, learning_curve.LearningCurve):
            known += 1
            _, low, high = found.predict_error(200)
            covered += low <= 0.05 + 1.5 * 200**-0.5 <= high
    assert known >= 50
    assert covered >= 0.8 * known


def test_the_number_of_labels_needed_covers_the_true_number() -> None:
    """0.05 + 1.5 / √n = 0.15 at n = 225: 125 more than 100."""
    covers_truth = []
    for seed in range(40):
        found = curve(seed, n=2000)
        assert isinstance(found, learning_curve.LearningCurve)
        more = found.labels_needed(0.15)
        if more:
            covers_truth.append(more[0] <= 125 <= (more[1] or 10**6))
    assert len(covers_truth) >= 20
    assert np.mean(covers_truth) >= 0.8


def test_too_few_points_and_errors_that_grow_give_no_forecast() -> None:
    rng = np.random.default_rng(0)
    assert (
        learning_curve.fit_learning_curve([CurvePoint(10, 0.3, 50), CurvePoint(20, 0.2, 50)], rng)
        is None
    )
    rising = [CurvePoint(10, 0.1, 500), CurvePoint(20, 0.2, 500), CurvePoint(30, 0.3, 500)]
    assert learning_curve.fit_learning_curve(rising, rng) is None
    assert learning_curve.describe_forecast(None, measured(0.7), 0.9, 500) == ""
    assert not learning_curve.should_stop_labeling(None, 1.0)


def plateau(
    seed: int, error: float, n: int, labels: Sequence[int]
) -> learning_curve.LearningCurve | None:
    """Fit the curve of a project whose error does not change with its labels."""
    rng = np.random.default_rng(seed)
    return learning_curve.fit_learning_curve(
        [CurvePoint(k, rng.binomial(n, error) / n, n) for k in labels], rng
    )


def test_a_plateau_gives_a_flat_curve_with_a_band_and_a_stop_hint() -> None:
    found = [plateau(seed, 0.03, 150, range(200, 601, 100)) for seed in range(60)]
    known = [curve for curve in found if curve is not None]
    assert len(known) >= 57
    assert sum(learning_curve.should_stop_labeling(curve, 0.99) for curve in known) >= 55
    middle, low, high = np.mean([curve.predict_error(900) for curve in known], axis=0)
    assert low < middle <= 0.03 < high
    exact = learning_curve.fit_learning_curve(
        [CurvePoint(k, 0.03, 3000) for k in (200, 400, 600)], np.random.default_rng(0)
    )
    assert exact is not None
    assert "not within reach" in learning_curve.describe_forecast(exact, measured(0.97), 0.99, 500)


def test_no_error_on_few_images_is_not_certainty() -> None:
    curve = plateau(0, 0.0, 20, (20, 40, 60))
    assert curve is not None
    assert curve.predict_error(60)[2] > 0.02
    assert not learning_curve.should_stop_labeling(plateau(0, 0.0, 20, (10, 20, 30)), None), (
        "130 labels are beyond three times 30"
    )


def test_no_stop_hint_on_a_steep_curve_or_unstable_versions() -> None:
    rng = np.random.default_rng(0)
    falling = [CurvePoint(k, 0.05 + 1.5 / k, 3000) for k in (50, 100, 200, 400, 800)]
    found = learning_curve.fit_learning_curve(falling, rng)
    assert learning_curve.should_stop_labeling(found, 0.99)
    assert not learning_curve.should_stop_labeling(found, 0.8), "the versions still differ"
    steep = curve(0, n=2000)
    assert isinstance(steep, learning_curve.LearningCurve)
    assert not learning_curve.should_stop_labeling(steep, 0.99)


def test_the_forecast_names_labels_and_target_accuracy() -> None:
    found = curve(1, n=5000)
    assert isinstance(found, learning_curve.LearningCurve)
    sentence = learning_curve.describe_forecast(found, measured(0.8), 0.82, 500)
    assert "more labels" in sentence
    assert "the accuracy from 80% to 82%" in sentence
    assert "not within reach" in learning_curve.describe_forecast(found, measured(0.8), 0.99, 500)


def project(c: float) -> learning_curve.LearningCurve:
    """Return a curve without uncertainty: error = labels^−c."""
    return learning_curve.LearningCurve(np.tile([0.0, 1.0, c], (200, 1)), label_count=100)


def test_the_examples_a_label_needs_follow_from_the_exponent_of_the_curve() -> None:
    """Half the error takes 2^(1/c) times the examples: 2 with c = 1, 4 with c = 0.5."""
    rng = np.random.default_rng(0)
    errors = {"wilting": LabelMisses(2000, 10_000, 40)}
    (steep,) = learning_curve.rank_weakest_labels(project(1.0), errors, 0.9, rng)
    assert steep[1] <= 40 <= (steep[2] or 0)
    (slow,) = learning_curve.rank_weakest_labels(project(0.5), errors, 0.9, rng)
    assert slow == ("wilting", 80, None), "no upper end beyond three times today's examples"


def test_the_band_is_wider_for_a_label_with_few_evaluated_examples() -> None:
    rng = np.random.default_rng(0)
    few, many = (
        learning_curve.rank_weakest_labels(
            project(1.0), {"a": LabelMisses(n // 7, n, 100)}, 0.9, rng
        )[0]
        for n in (14, 7000)
    )
    assert few[1] < many[1]
    assert few[2] is None or few[2] > (many[2] or 0)


def test_labels_with_the_lowest_recall_come_first_and_none_without_a_curve() -> None:
    rng = np.random.default_rng(0)
    errors = {
        name: LabelMisses(w, 100, 50) for name, w in zip("abcde", (12, 40, 30, 5, 20), strict=True)
    }
    assert [
        name for name, _, _ in learning_curve.rank_weakest_labels(project(1.0), errors, 0.9, rng)
    ] == list("bce")
    assert learning_curve.rank_weakest_labels(None, errors, 0.9, rng) == []


def numbers_of_labels(sentence: str) -> list[int]:
    """Return the numbers in a sentence that are not percentages."""
    return [int(number) for number in re.findall(r"\b(\d+)\b(?!%)", sentence)]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("measured", [12, 60, 2000])
def test_a_forecast_requests_at_least_one_label_and_no_more_than_there_are_images(
    seed: int, measured: int
) -> None:
    found = curve(seed, n=measured)
    if not isinstance(found, learning_curve.LearningCurve):
        return
    for open_images in (0, 1, 7, 40, 1000):
        for goal in learning_goals(found):
            sentence = learning_curve.describe_forecast(found, fitted(found), goal, open_images)
            assert bool(sentence) == (open_images > 0), sentence
            assert "at least 0" not in sentence.lower()
            assert all(1 <= number <= open_images for number in numbers_of_labels(sentence))


def learning_goals(found: learning_curve.LearningCurve) -> list[float]:
    """Return targets just above the current accuracy and far from it."""
    accuracy = 1 - found.predict_error(found.label_count)[0]
    return [accuracy + 0.011, min(0.99, accuracy + 0.05), 0.999]


def test_a_forecast_for_objects_is_about_f1() -> None:
    found = curve(1, n=5000)
    assert isinstance(found, learning_curve.LearningCurve)
    f1 = measured(0.78, metric="F1")
    assert "the F1 from 78% to 81%" in learning_curve.describe_forecast(found, f1, 0.81, 500)
    assert "bring the F1 to" in learning_curve.describe_forecast(found, f1, 0.99, 500)


@pytest.mark.parametrize("goal", [0.98, 0.99, 1.0])
def test_a_goal_that_is_reached_is_said_also_without_a_curve(goal: float) -> None:
    twelve = proportion_estimate(12, 12)
    for found in (None, plateau(0, 0.17, 60, (20, 40, 60))):
        sentence = learning_curve.describe_forecast(found, twelve, goal, 50)
        assert f"has reached the goal of {goal:.0%}" in sentence
        assert "not" not in sentence
        assert learning_curve.describe_forecast(found, twelve, goal, 0) == ""


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("right", range(8, 20))
def test_a_forecast_does_not_contradict_the_figure_beside_it(seed: int, right: int) -> None:
    """On few images the last figure is far from the curve of all versions."""
    figure = proportion_estimate(right, 19)
    found = plateau(seed, 0.2, 19, (20, 40, 60))
    if found is None:
        return
    for goal in (0.9, 0.95, 0.99):
        if round(figure.value or 0, 2) >= goal:
            continue
        sentence = learning_curve.describe_forecast(found, figure, goal, 500)
        percentages = [int(one) / 100 for one in re.findall(r"(\d+)%", sentence)]
        if "not within reach" in sentence:
            assert round(figure.high, 2) < goal
            assert all(one < goal for one in percentages[1:]), sentence
        brought = re.search(r"bring the accuracy to (\d+)%", sentence)
        assert brought is None or int(brought[1]) / 100 > (figure.value or 0) - 0.005
        before = re.search(r"from (\d+)% to", sentence)
        assert before is None or int(before[1]) / 100 == round(figure.value or 0, 2)


def test_no_more_examples_of_a_label_are_requested_than_there_are_images() -> None:
    rng = np.random.default_rng(0)
    misses = {
        "few": LabelMisses(2000, 10_000, 40, max_more=7),
        "none": LabelMisses(2000, 10_000, 40, max_more=0),
    }
    assert learning_curve.rank_weakest_labels(project(1.0), misses, 0.9, rng) == [("few", 7, None)]
