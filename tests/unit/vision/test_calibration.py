"""Folds, log-loss and temperature on cases that can be worked out by hand."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest

from backend.vision.heads import calibration
from backend.vision.heads.calibration import (
    HeldOutLogits,
    assign_folds,
    fit_temperature,
    log_loss,
    select_best_candidate,
    to_probabilities,
)
from backend.vision.heads.logistic_regression import IMPOSSIBLE_LOGIT


def test_the_examples_in_the_docstrings_hold() -> None:
    found = doctest.testmod(calibration)
    assert found.attempted >= 3
    assert not found.failed


def test_every_label_is_spread_evenly_over_the_folds() -> None:
    truth = np.repeat([0, 1, 2], [50, 10, 5])
    dealt = assign_folds(np.eye(3, dtype=np.float32)[truth], 5, np.random.default_rng(0))
    for k, each in ((0, 10), (1, 2), (2, 1)):
        assert np.bincount(dealt[truth == k], minlength=5).tolist() == [each] * 5


def test_a_row_of_several_labels_counts_for_its_rarest() -> None:
    targets = np.zeros((40, 2), dtype=np.float32)
    targets[:, 0] = 1
    targets[::8, 1] = 1  # five of forty
    dealt = assign_folds(targets, 5, np.random.default_rng(0))
    assert sorted(dealt[::8]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("logits", "targets", "multiple", "loss"),
    [
        ([[0, 0]], [[1, 0]], False, math.log(2)),
        (
            [[0, 0, IMPOSSIBLE_LOGIT]],
            [[1, 0, 0]],
            False,
            math.log(2),
        ),  # a barred label takes nothing
        ([[math.log(3), 0]], [[1, 0]], False, math.log(4 / 3)),  # p = 3/4
        ([[0, 0]], [[0.5, 0.5]], False, math.log(2)),
        ([[math.log(3), 0]], [[0, np.nan]], True, math.log(4)),  # only what was asked
        ([[math.log(3), 0]], [[1, 0]], True, (math.log(4 / 3) + math.log(2)) / 2),
    ],
)
def test_log_loss_by_hand(
    logits: list[list[float]], targets: list[list[float]], multiple: bool, loss: float
) -> None:
    judged = HeldOutLogits(np.array(logits, "f4"), np.array(targets, "f4"), multiple)
    assert log_loss(judged) == pytest.approx(loss, rel=1e-4)


def test_three_of_four_correct_at_equal_logits_calibrate_to_odds_of_three_to_one() -> None:
    """Logits ±2 right in 75 % of many rows: confidence 3/4 needs 4 / t = log 3."""
    logits = np.tile(np.array([[2, -2]], "f4"), (4000, 1))
    targets = np.tile(np.array([[1, 0]], "f4"), (4000, 1))
    targets[::4] = [0, 1]
    assert fit_temperature(HeldOutLogits(logits, targets, False)) == pytest.approx(
        4 / math.log(3), rel=0.01
    )


def test_one_correct_row_does_not_justify_certainty() -> None:
    """One row smoothed by one row of equal labels: the truth is 3/4, so 2 / t = log 3."""
    judged = HeldOutLogits(np.array([[1, -1]], "f4"), np.array([[1, 0]], "f4"), False)
    assert fit_temperature(judged) == pytest.approx(2 / math.log(3), rel=0.01)


@pytest.mark.parametrize("multiple", [False, True])
@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_temperature_of_sampled_targets_is_recovered(multiple: bool, true: float) -> None:
    found = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        logits = rng.normal(size=(3000, 4)).astype(np.float32) * 3
        p = to_probabilities(logits / np.float32(true), multiple)
        if multiple:
            targets = (rng.random(p.shape) < p).astype(np.float32)
        else:
            drawn = (rng.random((3000, 1)) > p.cumsum(axis=1)).sum(axis=1).clip(max=3)
            targets = np.eye(4, dtype=np.float32)[drawn]
        found.append(fit_temperature(HeldOutLogits(logits, targets, multiple)))
    assert np.mean(found) == pytest.approx(true, rel=0.1)


def test_the_best_candidate_is_compared_at_its_own_temperature() -> None:
    """The second orders the rows better and is only much too sure."""
    truth = np.eye(2, dtype=np.float32)[np.arange(100) % 2]
    sign = truth * 2 - 1
    weak, sure = sign.copy(), sign * 40
    weak[:30] *= -1
    sure[:10] *= -1
    place, found = select_best_candidate(
        [HeldOutLogits(weak, truth, False), HeldOutLogits(sure, truth, False)]
    )
    assert place == 1
    assert found > 10


def test_no_held_out_rows_do_not_fail() -> None:
    empty = HeldOutLogits(np.zeros((0, 3), "f4"), np.zeros((0, 3), "f4"), False)
    assert math.isfinite(fit_temperature(empty))
    assert log_loss(empty) == 0


def test_extreme_logits_stay_finite() -> None:
    extreme = np.array(
        [[1e5, IMPOSSIBLE_LOGIT, -1e5], [IMPOSSIBLE_LOGIT, IMPOSSIBLE_LOGIT, IMPOSSIBLE_LOGIT]],
        "f4",
    )
    one, several = np.array([[1, 0, 0], [1 / 3] * 3]), np.array([[1, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(to_probabilities(extreme, False), one, rtol=1e-6)
    np.testing.assert_allclose(to_probabilities(extreme, True), several)
