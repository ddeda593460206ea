"""The learning curve, drawn on: known curves are found again, and careful words are used."""

from __future__ import annotations

import doctest

import numpy as np

from backend.learning import forecast
from backend.learning.forecast import Point


def curve(seed: int = 0, a: float = 0.05, b: float = 1.5, c: float = 0.5, n: int = 200) -> object:
    rng = np.random.default_rng(seed)
    labels = [20, 40, 60, 80, 100]
    errors = [a + b * k**-c for k in labels]
    points = [Point(k, rng.binomial(n, e) / n, n) for k, e in zip(labels, errors, strict=True)]
    return forecast.fitted(points, rng)


def test_the_examples_in_the_docstrings_hold() -> None:
    found = doctest.testmod(forecast)
    assert found.attempted
    assert not found.failed


def test_the_band_holds_what_comes_with_twice_the_labels() -> None:
    held = known = 0
    for seed in range(60):
        found = curve(seed)
        if isinstance(found, forecast.Curve):
            known += 1
            _, low, high = found.error(200)
            held += low <= 0.05 + 1.5 * 200**-0.5 <= high
    assert known >= 50
    assert held >= 0.8 * known


def test_how_many_more_labels_are_needed_is_about_right() -> None:
    """0.05 + 1.5 / √n = 0.15 at n = 225: 125 more than 100."""
    told = []
    for seed in range(40):
        found = curve(seed, n=2000)
        assert isinstance(found, forecast.Curve)
        more = found.needed(0.15)
        if more:
            told.append(more[0] <= 125 <= (more[1] or 10**6))
    assert len(told) >= 20
    assert np.mean(told) >= 0.8


def test_too_few_points_or_no_progress_give_no_forecast() -> None:
    rng = np.random.default_rng(0)
    assert forecast.fitted([Point(10, 0.3, 50), Point(20, 0.2, 50)], rng) is None
    rising = [Point(10, 0.1, 500), Point(20, 0.2, 500), Point(30, 0.3, 500)]
    assert forecast.fitted(rising, rng) is None
    assert forecast.outlook(None, 0.9) == ""
    assert not forecast.enough(None, 1.0)


def test_a_flat_curve_with_agreeing_versions_says_enough() -> None:
    rng = np.random.default_rng(0)
    flat = [Point(k, 0.05 + 1.5 / k, 3000) for k in (50, 100, 200, 400, 800)]
    found = forecast.fitted(flat, rng)
    assert forecast.enough(found, 0.99)
    assert not forecast.enough(found, 0.8), "the versions still disagree"
    steep = curve(0, n=2000)
    assert isinstance(steep, forecast.Curve)
    assert not forecast.enough(steep, 0.99)


def test_the_sentence_names_labels_and_both_accuracies() -> None:
    found = curve(1, n=5000)
    assert isinstance(found, forecast.Curve)
    said = forecast.outlook(found, 0.85)
    assert "more labels" in said
    assert "85%" in said
    assert "out of sight" in forecast.outlook(found, 0.99)


def test_the_neediest_label_is_named_first_and_good_ones_are_not() -> None:
    errors = {"a": (0.05, 50), "b": (0.3, 10), "c": (0.15, 30)}
    assert [label for label, _ in forecast.weakest(errors, 0.9)] == ["b", "c"]
