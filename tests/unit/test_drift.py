"""Drift between production and the audit set, on cases worked out by hand."""

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
        ({"a": 100}, {"b": 100}, True),  # the index is finite for an unseen label
        ({}, {}, False),
    ],
)
def test_only_large_changes_of_label_shares_exceed_the_limit(
    before: dict[str, int], now: dict[str, int], shifted: bool
) -> None:
    value = population_stability_index(before, now)
    assert np.isfinite(value)
    assert (value > MIN_SHIFT_INDEX) is shifted


def test_an_outlier_is_farther_than_reference_images_are_from_each_other() -> None:
    angles = np.radians(np.arange(0, 41, 2, dtype=np.float32))  # two degrees from each other
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    limit = outlier_distance(vectors)
    assert limit == pytest.approx(1 - np.cos(np.radians(2)), rel=1e-3)

    def at(degrees: float) -> np.ndarray:
        return np.array(
            [np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], dtype=np.float32
        )

    assert not is_outlier(at(21), vectors, limit)
    assert not is_outlier(at(41.5), vectors, limit)
    assert is_outlier(at(43), vectors, limit)
    assert is_outlier(at(180), vectors, limit)
