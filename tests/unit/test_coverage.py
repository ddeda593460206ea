"""Uncertainty-weighted coverage, compared with slow and direct implementations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backend.arrays import Floats
from backend.learning import coverage
from backend.learning.coverage import Coverage


def make_vectors(count: int, seed: int, groups: int = 6, dim: int = 16) -> Floats:
    """Return embeddings of unit length in a few clusters."""
    random = np.random.default_rng(seed)
    middles = random.standard_normal((groups, dim))
    found = middles[random.integers(0, groups, count)] + 0.4 * random.standard_normal((count, dim))
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), dtype=np.float32)


def make_coverage(count: int = 90, seed: int = 0, labeled: int = 5) -> Coverage:
    random = np.random.default_rng(seed)
    both = make_vectors(count + labeled, seed)
    weights = random.random(count).astype(np.float32)
    return coverage.build_coverage(both[:count], weights, both[count:])


def slow_gains(state: Coverage) -> Floats:
    """Compute the gains by their definition, image by image."""
    kernel = np.exp((state.vectors @ state.vectors.T - 1) / state.kernel_width)
    return np.array(
        [
            (state.uncertainties * np.maximum(0, row - state.coverage_levels)).sum()
            for row in kernel
        ],
        np.float32,
    )


def slow_picks(state: Coverage, count: int) -> list[int]:
    picked: list[int] = []
    for _ in range(count):
        gains = slow_gains(state)
        gains[state.is_covered | (state.max_cosine > coverage.DUPLICATE_COSINE)] = -1
        picked.append(int(gains.argmax()))
        state = coverage.mark_covered(state, [picked[-1]])
    return picked


@pytest.mark.parametrize("seed", range(5))
def test_picks_are_those_of_the_plain_greedy_algorithm(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coverage, "MATRIX_BLOCK_ROWS", 32)  # several blocks
    monkeypatch.setattr(coverage, "GAIN_BATCH_SIZE", 4)  # several batches per pick
    state = make_coverage(seed=seed)
    assert state.gain_bounds == pytest.approx(slow_gains(state), abs=1e-4)
    assert coverage.pick_images(state, 20, explore_every=0)[0] == slow_picks(state, 20)


def test_limited_gain_evaluations_hardly_lower_the_coverage() -> None:
    unlike = make_vectors(700, seed=1, groups=700, dim=64)
    weights = np.random.default_rng(0).random(700).astype(np.float32)
    state = coverage.build_coverage(unlike, weights, unlike[:0])
    quick, _ = coverage.pick_images(state, 30, explore_every=0)
    reached, best = (
        float(coverage.mark_covered(state, rows).coverage_levels @ state.uncertainties)
        for rows in (quick, slow_picks(state, 30))
    )
    assert reached > 0.99 * best


def test_picks_after_a_label_equal_those_of_coverage_computed_anew() -> None:
    state = make_coverage()
    first = coverage.pick_images(state, 1, explore_every=0)[0]
    before = coverage.mark_covered(state, first)
    anew = replace(before, gain_bounds=slow_gains(before))
    assert coverage.pick_images(before, 12, 0)[0] == coverage.pick_images(anew, 12, 0)[0]


def test_a_label_lowers_the_gains_of_its_neighbours_only() -> None:
    state = make_coverage()
    after = coverage.mark_covered(state, [3])
    near = state.vectors @ state.vectors[3] > 0.8
    fallen = slow_gains(after) < slow_gains(state) - 1e-4
    assert fallen[near].all()
    far = state.vectors @ state.vectors[3] < -0.5
    assert far.any()
    assert not fallen[far].any()


def test_without_uncertainties_the_first_picks_cover_every_cluster() -> None:
    vectors = make_vectors(120, seed=1, groups=6)
    group = (vectors @ vectors.T > 0.5).argmax(axis=1)
    state = coverage.build_coverage(
        vectors, np.ones(120, dtype=np.float32), np.zeros((0, 0), np.float32)
    )
    picked, _ = coverage.pick_images(state, 6, explore_every=0)
    assert len({group[row] for row in picked}) == 6


def test_picks_lie_among_the_uncertain_images() -> None:
    vectors = make_vectors(60, seed=2)
    weights = np.zeros(60, dtype=np.float32)
    weights[:20] = 1
    state = coverage.build_coverage(vectors, weights, vectors[:0])
    picked, after = coverage.pick_images(state, 5, explore_every=0)
    near = (vectors[picked] @ vectors[:20].T).max(axis=1)
    assert (near > 0.5).all()
    assert sorted(coverage.order_by_gain(after, picked)) == list(range(60))


def test_of_near_duplicates_one_is_picked_and_the_others_come_last() -> None:
    vectors = make_vectors(40, seed=3)
    random = np.random.default_rng(0)
    copies = vectors + 0.002 * random.standard_normal(vectors.shape).astype(np.float32)
    both = np.concatenate([vectors, copies])
    state = coverage.build_coverage(both, np.ones(80, dtype=np.float32), both[:0])
    picked, after = coverage.pick_images(state, 80, explore_every=0)
    assert len(picked) == len({row % 40 for row in picked}) == 40
    order = coverage.order_by_gain(after, picked)
    assert order[:40] == picked
    assert sorted(order) == list(range(80))


def test_exploration_picks_an_outlier_early() -> None:
    picks_of_outlier = {4: 0, 0: 0}
    for seed in range(10):
        vectors = make_vectors(200, seed, groups=3)
        outlier = np.zeros(16, dtype=np.float32)
        outlier[seed] = -1
        both = np.concatenate([vectors, outlier[None]])
        state = coverage.build_coverage(both, np.ones(201, dtype=np.float32), vectors[:3])
        for explore_every in picks_of_outlier:
            picks_of_outlier[explore_every] += (
                200 in coverage.pick_images(state, 8, explore_every)[0]
            )
    assert picks_of_outlier[4] >= 9
    assert picks_of_outlier[4] > picks_of_outlier[0]


def test_labels_between_picks_keep_the_rhythm_of_exploration() -> None:
    """After each label the remaining picks are chosen again and stay the same."""
    state = make_coverage()
    all_picks, _ = coverage.pick_images(state, 12, explore_every=4)
    for done in range(1, 9):
        after = coverage.mark_covered(state, all_picks[:done])
        assert coverage.pick_images(after, 12 - done, 4, picked_before=done)[0] == all_picks[done:]


def test_no_images_and_identical_images_are_ordered() -> None:
    empty = coverage.build_coverage(
        *(np.zeros((0, 0), np.float32), np.zeros(0, np.float32)), make_vectors(3, 0)
    )
    assert coverage.pick_images(empty, 5, explore_every=4)[0] == []
    assert coverage.order_by_gain(empty, []) == []
    identical = np.repeat(make_vectors(1, 0), 9, axis=0)
    state = coverage.build_coverage(identical, np.ones(9, dtype=np.float32), identical[:0])
    picked, after = coverage.pick_images(state, 5, explore_every=4)
    assert sorted(coverage.order_by_gain(after, picked)) == list(range(9))


def test_of_many_copies_of_three_images_each_is_picked() -> None:
    identical = np.repeat(make_vectors(3, 0, groups=3), 300, axis=0)
    state = coverage.build_coverage(identical, np.ones(900, dtype=np.float32), identical[:0])
    picked, after = coverage.pick_images(state, 50, explore_every=0)
    assert {row // 300 for row in picked} == {0, 1, 2}
    assert sorted(coverage.order_by_gain(after, picked)) == list(range(900))


def test_a_large_pool_is_sampled_by_uncertainty_and_at_random() -> None:
    weights = np.linspace(0, 1, 1000, dtype=np.float32)
    rows = coverage.sample_candidates(weights, 100, np.random.default_rng(0))
    assert len(set(rows.tolist())) == 100
    assert set(range(950, 1000)) <= set(rows.tolist())
    others = rows[rows < 950]
    assert 300 < others.mean() < 650
    assert coverage.sample_candidates(weights[:50], 100, np.random.default_rng(0)).tolist() == [
        *range(50)
    ]
