"""The solver against cases worked out by hand, and against scikit-learn on the same objective."""

from __future__ import annotations

import math

import numpy as np
import pytest

from backend.arrays import Floats
from backend.vision.heads.calibration import to_probabilities
from backend.vision.heads.logistic_regression import (
    IMPOSSIBLE_LOGIT,
    LogisticProblems,
    solve_problems,
)


def problems(
    features: Floats,
    targets: Floats,
    ridges: tuple[float, ...] = (0.1,),
    *,
    rows: Floats | None = None,
    prior: Floats | None = None,
    closed: tuple[int, ...] = (),
    multiple: bool = False,
) -> LogisticProblems:
    rows = np.ones((1, len(features)), np.float32) if rows is None else rows
    shape = (len(rows), targets.shape[1], features.shape[1])
    shut = np.zeros(shape[:2], dtype=np.bool_)
    shut[:, list(closed)] = True
    prior = np.zeros(shape, np.float32) if prior is None else prior
    return LogisticProblems(features, targets, rows, prior, shut, ridges, multiple)


def cloud(n: int, d: int, labels: int, seed: int) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(labels, size=n)
    means = rng.normal(size=(labels, d))
    spread = np.arange(1, d + 1) ** -0.5
    features = (means[truth] * 0.6 + rng.normal(size=(n, d))) * spread
    targets = np.eye(labels, dtype=np.float32)[truth]
    return np.concatenate([features, np.ones((n, 1))], axis=1, dtype=np.float32), targets


@pytest.mark.parametrize("ridge", [0.01, 0.1, 1.0, 10.0])
def test_one_row_and_one_sigmoid_end_where_the_derivative_is_zero(ridge: float) -> None:
    """z = 1, y = 1: the optimum of log(1 + e^-w) + ridge / 2 · w² has σ(−w) = ridge · w."""
    one = np.ones((1, 1), np.float32)
    weight = float(solve_problems(problems(one, one, (ridge,), multiple=True))[0, 0, 0, 0])
    assert 1 / (1 + math.exp(weight)) == pytest.approx(ridge * weight, rel=0.02)


@pytest.mark.parametrize("ridge", [0.01, 1.0])
def test_a_softmax_of_two_is_a_sigmoid_of_their_difference(ridge: float) -> None:
    """By symmetry w_1 = −w_0; the derivative is zero where σ(−2 w) = ridge · w."""
    one, first = np.ones((1, 1), np.float32), np.array([[1, 0]], np.float32)
    weights = solve_problems(problems(one, first, (ridge,)))[0, 0, :, 0]
    assert weights[1] == pytest.approx(-weights[0], rel=1e-3)
    assert 1 / (1 + math.exp(2 * weights[0])) == pytest.approx(ridge * weights[0], rel=0.02)


def test_without_rows_the_weights_stay_at_their_prior() -> None:
    features, targets = cloud(5, 3, 2, seed=0)
    prior = np.arange(8, dtype=np.float32).reshape(1, 2, 4)
    weights = solve_problems(
        problems(features, targets, rows=np.zeros((1, 5), np.float32), prior=prior)
    )
    np.testing.assert_array_equal(weights[0], prior)


def test_the_optimum_equals_that_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    features, targets = cloud(300, 20, 4, seed=1)
    ours = solve_problems(problems(features, targets, (0.3,)), tolerance=1e-9)[0, 0]
    theirs = LogisticRegression(C=1 / 0.3, fit_intercept=False, tol=1e-8, max_iter=2000)
    theirs.fit(features, targets.argmax(1))
    np.testing.assert_allclose(ours, theirs.coef_, atol=0.01)


def test_every_sigmoid_is_a_separate_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    features, _ = cloud(300, 10, 3, seed=2)
    rng = np.random.default_rng(0)
    targets = (features @ rng.normal(size=(11, 3)) + rng.normal(size=(300, 3)) > 0).astype("f4")
    targets[:100, 1] = np.nan  # nobody was asked about the second label there
    ours = solve_problems(problems(features, targets, (0.3,), multiple=True), tolerance=1e-9)[0, 0]
    for k, asked in ((0, slice(None)), (1, slice(100, None)), (2, slice(None))):
        theirs = LogisticRegression(C=1 / 0.3, fit_intercept=False, tol=1e-8, max_iter=2000)
        theirs.fit(features[asked], targets[asked, k])
        np.testing.assert_allclose(ours[k], theirs.coef_[0], atol=0.01)


def test_problems_solved_together_have_the_solutions_of_separate_ones() -> None:
    features, targets = cloud(120, 30, 3, seed=3)
    rows = np.ones((3, 120), np.float32)
    for fold in range(3):
        rows[fold, fold::3] = 0
    together = solve_problems(problems(features, targets, (1.0, 0.1), rows=rows), tolerance=1e-8)
    for r, ridge in enumerate((1.0, 0.1)):
        for f in range(3):
            seen = rows[f] > 0
            alone = solve_problems(
                problems(features[seen], targets[seen], (ridge,)), tolerance=1e-8
            )
            np.testing.assert_allclose(together[r, f], alone[0, 0], atol=0.02)


def test_an_excluded_label_does_not_affect_the_others() -> None:
    features, targets = cloud(60, 8, 2, seed=4)
    wider = np.concatenate([targets, np.zeros((60, 1), np.float32)], axis=1)
    closed = solve_problems(problems(features, wider, closed=(2,)), tolerance=1e-8)[0, 0]
    open_ = solve_problems(problems(features, targets), tolerance=1e-8)[0, 0]
    np.testing.assert_allclose(closed[:2], open_, atol=0.01)
    np.testing.assert_array_equal(closed[2], 0)


def test_the_start_does_not_change_the_solution() -> None:
    features, targets = cloud(200, 40, 5, seed=5)
    case = problems(features, targets, (0.05,))
    cold = solve_problems(case, tolerance=1e-8)[0, 0]
    far = np.random.default_rng(0).normal(size=cold.shape).astype(np.float32)
    warm = solve_problems(case, far, tolerance=1e-8)[0, 0]
    np.testing.assert_allclose(
        to_probabilities(features @ warm.T, False),
        to_probabilities(features @ cold.T, False),
        atol=0.003,
    )
    blank = np.full_like(cold, np.nan)
    np.testing.assert_array_equal(solve_problems(case, blank)[0, 0], solve_problems(case)[0, 0])


def test_an_extreme_scale_still_terminates() -> None:
    features, targets = cloud(50, 5, 2, seed=6)
    weights = solve_problems(problems(features * 1e4, targets, (1e-4,)))
    assert np.isfinite(weights).all()
    assert IMPOSSIBLE_LOGIT < -1000
