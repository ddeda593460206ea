"""Precision thresholds and auto-accept: cases worked out by hand, and simulated projects."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from backend.learning import auto_accept, intervals, thresholds, version_comparison


@pytest.mark.parametrize("module", [auto_accept, version_comparison, thresholds])
def test_the_examples_in_the_docstrings_hold(module: object) -> None:
    found = doctest.testmod(module)  # type: ignore[arg-type]
    assert found.attempted
    assert not found.failed


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [  # scipy.stats.binomtest(right, n).proportion_ci(0.90, "exact")
        (0, 10, 0.0, 0.25887),
        (10, 10, 0.74113, 1.0),
        (8, 10, 0.49310, 0.96323),
        (95, 100, 0.89775, 0.98016),
    ],
)
def test_the_bounds_are_those_of_scipys_exact_test(
    right: int, n: int, low: float, high: float
) -> None:
    bounds = intervals.clopper_pearson_bounds(right, n)
    assert [float(bound) for bound in bounds] == pytest.approx([low, high], abs=2e-3)


def test_uncertain_predictions_are_hidden_once_that_is_proven_to_raise_precision() -> None:
    confidence = [0.95] * 60 + [0.7] * 40
    right = [True] * 60 + [True, False] * 20
    assert thresholds.precision_threshold(confidence, right, 0.9) == 0.95
    assert (
        thresholds.precision_threshold(confidence[60:], right[60:], 0.9)
        == thresholds.UNREACHABLE_THRESHOLD
    )
    assert thresholds.precision_threshold(confidence[:9], right[:9], 0.9) == 0.0, (
        "too few predictions"
    )
    assert thresholds.precision_threshold([], [], 0.9) == 0.0


def test_equal_confidences_are_on_one_side_of_a_threshold() -> None:
    confidence = [0.9] * 100 + [0.8] * 100
    right = [True] * 150 + [False] * 50
    assert thresholds.precision_threshold(confidence, right, 0.95) == 0.9


def test_shown_predictions_reach_the_precision_in_most_projects() -> None:
    reached = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        confidence = random.random(150)
        right = random.random(150) < confidence
        threshold = thresholds.precision_threshold(confidence, right, 0.8)
        # right with probability c: those above t are right (1 + t) / 2 of the time
        reached += (
            threshold in (0.0, thresholds.UNREACHABLE_THRESHOLD) or (1 + threshold) / 2 >= 0.8
        )
    assert reached >= 180


def test_without_enough_audit_labels_the_missing_number_is_reported() -> None:
    found = auto_accept.find_accept_threshold([0.99] * 40, [True] * 40, 0.05)
    assert found.value is None
    assert found.missing_labels == 19
    assert "59" in found.reason
    assert "19" in found.reason


def test_one_error_among_the_most_confident_needs_more_labels() -> None:
    sure = np.linspace(1, 0.9, 80)
    assert auto_accept.find_accept_threshold(sure, [True] * 80, 0.05).value is not None
    assert auto_accept.find_accept_threshold(sure, [False] + [True] * 79, 0.05).value is None
    many = np.linspace(1, 0.5, 300)
    found = auto_accept.find_accept_threshold(many, [False] + [True] * 149 + [False] * 150, 0.05)
    assert found.value is not None
    assert found.value > 0.7, "below 0.7 half of them are wrong"


def test_the_error_bound_holds_in_19_of_20_projects_for_any_confidence() -> None:
    """The error rate above the threshold is known from each project's error curve."""
    exceeded = decided = 0
    for seed in range(1000):
        random = np.random.default_rng(seed)
        confidence = random.random(int(random.integers(59, 400)))
        steep, floor = random.uniform(0.02, 0.5), random.uniform(0, 0.02)
        right = random.random(len(confidence)) > floor + steep * (1 - confidence) ** 2
        found = auto_accept.find_accept_threshold(confidence, right, 0.05)
        if found.value is not None:
            decided += 1
            above = np.linspace(found.value, 1, 500)
            exceeded += float((floor + steep * (1 - above) ** 2).mean()) > 0.05
    assert decided > 150
    assert exceeded <= 0.05 * decided


def test_a_fixed_tenth_of_the_acceptable_tasks_is_reviewed() -> None:
    one = {t for t in range(10_000) if auto_accept.is_held_for_review("1.17", t)}
    assert one == {t for t in range(10_000) if auto_accept.is_held_for_review("1.17", t)}
    assert 900 < len(one) < 1100
