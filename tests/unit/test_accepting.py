"""Accepting without a person where confidences are equal, and over rounds of labels."""

from __future__ import annotations

import numpy as np
import pytest

from backend.learning import accepting


def test_equal_confidences_are_accepted_together_or_not_at_all() -> None:
    sure = [0.99] * 60 + [0.98] * 60
    # the first 60 are right, half of the others is wrong; the order among equals says nothing
    right = [True] * 60 + [True, False] * 30
    assert accepting.level(sure, right, 0.05).value == 0.99
    tied = accepting.level([0.98] * 120, right, 0.05)
    assert tied.value is None, "the first 60 of 120 equal ones prove nothing"


def test_what_is_proven_was_counted_on_all_that_would_be_accepted() -> None:
    decided = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        sure = random.integers(90, 100, 300) / 100
        found = accepting.level(sure, random.random(300) < 0.99, 0.05)
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
        level = accepting.level(sure, right, 0.05).value
        broken += level is not None and level <= 0.98  # then 9 % of all are wrong
    assert broken <= 0.05 * 300


def test_the_level_is_the_confidence_itself() -> None:
    """Rounded down it would let others in; rounded up it would shut out its own image."""
    sure = np.nextafter(np.float32(0.9), np.float32(1)) * np.ones(80, dtype=np.float32)
    found = accepting.level(sure, [True] * 80, 0.05)
    assert found.value == float(sure[0])
    assert found.images == 80
