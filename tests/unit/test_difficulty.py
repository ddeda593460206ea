"""What labeling an image would teach a finder: claims that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from backend.learning import coverage
from backend.learning.difficulty import (
    FLOOR,
    MOST,
    UNSEEN,
    find_entropy,
    image_difficulty,
    image_weights,
    label_difficulty,
)

EVEN = {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize(
    ("confidence", "bits"),
    [
        (0.0, 0.0),
        (1.0, 0.0),
        (0.5, 1.0),
        (0.25, 2 - 0.75 * math.log2(3)),
        (0.75, 2 - 0.75 * math.log2(3)),
    ],
)
def test_a_find_is_most_undecided_at_one_half(confidence: float, bits: float) -> None:
    assert find_entropy([confidence]) == pytest.approx([bits], abs=1e-12)


def test_labels_that_are_missed_confused_or_rare_are_hard() -> None:
    found = {
        "easy": ([0.9] * 90, [True] * 90),
        "missed": ([0.9] * 45, [True] * 45),
        "confused": ([0.9] * 90, [True, False] * 45),
        "rare": ([0.9] * 10, [True] * 10),
    }
    there = {"easy": 90, "missed": 90, "confused": 90, "rare": 10, "new": 0}
    hard = label_difficulty(found, there)
    # 1 − 90 · 0.9 / (90 + 10), 1 − 45 · 0.9 / (90 + 10), and so on
    assert hard["easy"] == pytest.approx(0.19)
    assert hard["missed"] == hard["confused"] == pytest.approx(0.595)
    assert hard["rare"] == pytest.approx(1 - 9 / 20)
    assert hard["new"] == 1.0


def test_wrong_finds_make_no_label_easier() -> None:
    there = {"a": 10}
    some = label_difficulty({"a": ([0.9] * 5, [True] * 5)}, there)
    more = label_difficulty({"a": ([0.9] * 9, [True] * 5 + [False] * 4)}, there)
    assert some == more


def test_an_image_counts_its_least_decided_finds_up_to_ten() -> None:
    assert image_difficulty([], [], EVEN) == 0.0
    assert image_difficulty(["a"], [0.5], EVEN) == pytest.approx(1 / MOST)
    assert image_difficulty(["a"] * 10, [0.5] * 10, EVEN) == pytest.approx(1.0)
    assert image_difficulty(["a"] * 99, [0.5] * 99, EVEN) == pytest.approx(1.0)
    certain = image_difficulty(["a"] * 13, [0.5] * 3 + [1.0] * 10, EVEN)
    assert certain == pytest.approx(0.3), "certain finds take no place of undecided ones"


def test_many_hardly_believed_finds_are_none() -> None:
    assert image_difficulty(["a"] * 100, [FLOOR * 0.99] * 100, EVEN) == 0.0
    assert image_difficulty(["a"], [FLOOR], EVEN) > 0.0


def test_a_label_that_nobody_judged_counts_as_hard() -> None:
    assert image_difficulty(["new"], [0.5], {}) == image_difficulty(["a"], [0.5], EVEN)


def test_more_doubt_or_a_harder_label_never_makes_an_image_worth_less() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        n = int(rng.integers(1, 20))
        labels = [str(label) for label in rng.choice(["a", "b"], n)]
        belief = rng.uniform(FLOOR, 1, n)
        hard = dict(zip("ab", rng.uniform(0, 1, 2), strict=True))
        before = image_difficulty(labels, belief, hard)
        assert 0 <= before <= 1
        less = np.where(rng.random(n) < 0.5, belief, (belief + 0.5) / 2)
        assert image_difficulty(labels, less, hard) >= before - 1e-12
        harder = hard | {"a": min(1.0, hard["a"] + 0.1)}
        assert image_difficulty(labels, belief, harder) >= before - 1e-12
        assert image_difficulty([*labels, "a"], [*belief, 0.5], hard) >= before - 1e-12


def test_weights_of_images_with_finds_are_their_difficulty() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(0.01, 1, 50).astype(np.float32)
    assert np.array_equal(image_weights(values, rng.random(50)), values)


@pytest.mark.parametrize("empty", [30, 300, 3000])
def test_a_tenth_of_the_images_that_count_show_nothing_however_many_there_are(empty: int) -> None:
    rng = np.random.default_rng(empty)
    values = np.concatenate([rng.uniform(0.1, 1, 270), np.zeros(empty)])
    weights = image_weights(values, rng.random(empty + 270))
    counting = weights > 0
    assert counting[270:].sum() / counting.sum() == pytest.approx(UNSEEN, abs=0.04)
    assert set(weights[270:][counting[270:]] > 0.55) == {True, False}, "at all ranks"


def test_the_same_empty_images_count_when_others_leave() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.uniform(0.1, 1, 200), np.zeros(400)])
    alone = rng.random(600)
    before = image_weights(values, alone)[200:] > 0
    fewer = image_weights(values[20:], alone[20:])[180:] > 0
    assert (fewer <= before).all()


def test_where_nothing_is_found_anywhere_all_images_count_alike() -> None:
    assert image_weights([0.0, 0.0], [0.1, 0.9]).tolist() == [1.0, 1.0]
    assert image_weights([], []).shape == (0,)


def test_with_coverage_hard_images_come_first_and_are_unlike_each_other() -> None:
    """Three groups of alike images: two hard, one easy. The first two picks are of the hard ones,
    one of each, although the single hardest images are all of one group.
    """
    rng = np.random.default_rng(0)
    centres = np.eye(3, 16)
    group = np.repeat([0, 1, 2], 30)
    vectors = centres[group] + rng.normal(0, 0.1, (90, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    belief = np.array([0.5, 0.4, 0.99])[group]
    found = [image_difficulty(["a"] * 3, [p] * 3, EVEN) for p in belief]
    weights = image_weights(found, rng.random(90))
    state = coverage.survey(vectors.astype(np.float32), weights, np.zeros((0, 0), np.float32))
    picked, _ = coverage.pick(state, 2, seeking=0)
    assert sorted(group[picked]) == [0, 1]
