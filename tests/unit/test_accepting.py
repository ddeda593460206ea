"""Accepting without a person where confidences are equal, and over the versions of a project."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from backend.learning import auto_accept
from backend.learning.auto_accept import AcceptThreshold, SpotChecks, ThresholdTest


def test_equal_confidences_are_accepted_together_or_not_at_all() -> None:
    sure = [0.99] * 60 + [0.98] * 60
    # the first 60 are right, half of the others is wrong; the order among equals says nothing
    right = [True] * 60 + [True, False] * 30
    assert auto_accept.find_accept_threshold(sure, right, 0.05).value == 0.99
    tied = auto_accept.find_accept_threshold([0.98] * 120, right, 0.05)
    assert tied.value is None, "the first 60 of 120 equal ones prove nothing"


def test_what_is_proven_was_counted_on_all_that_would_be_accepted() -> None:
    decided = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        sure = random.integers(90, 100, 300) / 100
        found = auto_accept.find_accept_threshold(sure, random.random(300) < 0.99, 0.05)
        if found.value is not None:
            decided += 1
            assert found.images == int((sure >= found.value).sum())
    assert decided > 100


@pytest.mark.parametrize("n", [80, 120, 200])
def test_the_promise_holds_where_most_images_have_the_same_confidence(n: int) -> None:
    """As where nothing is found in most images, at times wrongly."""
    broken = 0
    for seed in range(300):
        random = np.random.default_rng(seed)
        empty = random.random(n) < 0.3
        sure = np.where(empty, 0.98, 0.99 + 0.01 * random.random(n))
        right = random.random(n) > np.where(empty, 0.3, 0.002)
        level = auto_accept.find_accept_threshold(sure, right, 0.05).value
        broken += level is not None and level <= 0.98  # then 9 % of all are wrong
    assert broken <= 0.05 * 300


def test_the_level_is_the_confidence_itself() -> None:
    """Rounded down it would let others in; rounded up it would shut out its own image."""
    sure = np.nextafter(np.float32(0.9), np.float32(1)) * np.ones(80, dtype=np.float32)
    found = auto_accept.find_accept_threshold(sure, [True] * 80, 0.05)
    assert found.value == float(sure[0])
    assert found.images == 80


def looks_of(seed: int, error: float, wrong: float, audit: int) -> list[AcceptThreshold]:
    """Twelve versions that keep most of their mistakes; the audit set grows by 20 for each."""
    random = np.random.default_rng(seed)
    hard = random.normal(size=audit + 12 * 20)
    cut = -NormalDist().inv_cdf(wrong)
    found: list[AcceptThreshold] = []
    looks: list[ThresholdTest] = []
    for number in range(1, 13):
        many = audit + 20 * number
        mistakes = np.sqrt(0.8) * hard + np.sqrt(0.2) * random.normal(size=len(hard))
        right = mistakes[:many] < cut
        found.append(auto_accept.find_budgeted_threshold(random.random(many), right, error, looks))
        if found[-1].alpha:
            looks.append(ThresholdTest(many, found[-1].alpha, found[-1].value is not None))
    return found


@pytest.mark.parametrize(("error", "wrong"), [(0.05, 0.055), (0.1, 0.11)])
def test_a_project_keeps_its_promise_over_all_its_versions(error: float, wrong: float) -> None:
    """Every version errs a little too often and none may ever accept: accepted answers stay."""
    projects = 300
    any_found = sum(
        any(level.value is not None for level in looks_of(seed, error, wrong, audit=40))
        for seed in range(projects)
    )
    assert any_found <= 0.05 * projects


def test_versions_that_are_good_are_accepted_from_the_first_look_on() -> None:
    found = looks_of(0, 0.05, wrong=0.001, audit=40)
    assert [level.value is not None for level in found] == [False, False] + [True] * 10
    assert len({level.alpha for level in found[2:]}) == 1, "what proves a level costs nothing"


def test_a_bound_that_was_not_proven_is_looked_at_anew_when_the_audit_set_grew_by_half() -> None:
    wrong = [True] * 70 + [False] * 30
    first = auto_accept.find_budgeted_threshold([0.9] * 100, wrong, 0.05)
    assert (first.value, first.missing_labels) == (None, 0)
    looks = [ThresholdTest(100, first.alpha, passed=False)]
    soon = auto_accept.find_budgeted_threshold([0.9] * 120, [True] * 120, 0.05, looks)
    assert (soon.value, soon.missing_labels, soon.alpha) == (None, 30, 0.0)
    assert "needs 150 labeled audit images, of which 30 are missing" in soon.reason
    later = auto_accept.find_budgeted_threshold([0.9] * 150, [True] * 150, 0.05, looks)
    assert later.value == 0.9
    assert later.alpha == pytest.approx(0.7 * first.alpha)


def test_the_first_look_needs_82_audit_labels_for_5_percent() -> None:
    assert auto_accept.find_budgeted_threshold([0.9] * 81, [True] * 81, 0.05).missing_labels == 1
    found = auto_accept.find_budgeted_threshold([0.9] * 82, [True] * 82, 0.05)
    assert found.value == 0.9
    assert "98.5% confidence" in found.reason


def test_a_broken_bound_is_noticed_and_a_kept_one_hardly_ever_called_broken() -> None:
    """Asked after every single check, as the loop asks after every round."""

    def noticed(seed: int, wrong: float) -> bool:
        right = (np.random.default_rng(seed).random(60) >= wrong).tolist()
        return any(auto_accept.explain_bound_violation(right[:many], 0.05) for many in range(61))

    assert sum(noticed(seed, 0.05) for seed in range(100)) <= 5
    assert sum(noticed(seed, 0.2) for seed in range(100)) >= 90
    assert auto_accept.explain_bound_violation([], 0.05) == ""


def test_checks_come_at_a_steady_rate_whatever_the_model_is_sure_of() -> None:
    order = list(range(100))
    checks = SpotChecks("p", pending=set(range(90, 100)))
    assert sum(task >= 90 for task in checks.interleave_into(order)[:50]) == 5
    served = 0
    for _ in range(50):  # a new order after every label
        task = checks.interleave_into(order)[0]
        served += task >= 90
        order.remove(task)
        checks.record_labeled([task])
    assert served == 5
    assert sorted(checks.interleave_into(order)) == order
