"""Whether production still looks like the audit slice, by hand-computable cases."""

from __future__ import annotations

import numpy as np
import pytest

from backend.learning.drift import (
    MIN_SHIFT_INDEX,
    is_outlier,
    outlier_distance,
    population_stability_index,
)


@pytest.mark.parametrize(
    ("before", "now", "shifted"),
    [
        ({"a": 50, "b": 50}, {"a": 500, "b": 500}, False),  # ten times as many of the same
        ({"a": 50, "b": 50}, {"a": 40, "b": 60}, False),
        ({"a": 50, "b": 50}, {"a": 95, "b": 5}, True),
        ({"a": 100}, {"b": 100}, True),  # a label that was never seen tells a finite number
        ({}, {}, False),
    ],
)
def test_a_mix_that_is_another_one_is_told_from_chance(
    before: dict[str, int], now: dict[str, int], shifted: bool
) -> None:
    value = population_stability_index(before, now)
    assert np.isfinite(value)
    assert (value > MIN_SHIFT_INDEX) is shifted


def test_an_image_is_unlike_where_it_is_farther_than_others_are_from_each_other() -> None:
    angles = np.radians(np.arange(0, 41, 2, dtype=np.float32))  # two degrees from each other
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    usual = outlier_distance(vectors)
    assert usual == pytest.approx(1 - np.cos(np.radians(2)), rel=1e-3)

    def at(degrees: float) -> np.ndarray:
        return np.array(
            [np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], dtype=np.float32
        )

    assert not is_outlier(at(21), vectors, usual)
    assert not is_outlier(at(41.5), vectors, usual)
    assert is_outlier(at(43), vectors, usual)
    assert is_outlier(at(180), vectors, usual)
