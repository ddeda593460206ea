"""Sorting against marking, by numbers that can be worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backend.arrays import Ints
from backend.domain import Control, ImageSize, Label, Region
from backend.inference.detections import RegionSample
from backend.learning import labeling_advice
from backend.learning.intervals import proportion_estimate
from backend.learning.labeling_advice import (
    LabelingComparison,
    LabelingPredictions,
    ObjectStatistics,
)
from backend.tools.advise import object_statistics
from backend.tools.labeling_trial import region_label_counts


def way(*counts: int) -> LabelingPredictions:
    table = np.array(counts, dtype=np.int64)[:, None]
    return LabelingPredictions(table > 0, table)


def truth(*counts: int) -> Ints:
    return np.array(counts, dtype=np.int64)[:, None]


def test_presence_is_the_share_of_images_that_are_told_right() -> None:
    there = truth(*[0, 1] * 10)
    found = labeling_advice.compare_presence_accuracy(way(*[0] * 20), way(*[0, 3] * 10), there)
    assert (found.classification.value, found.detection.value) == (0.5, 1.0)
    assert found.classification.low < 0.5 < found.classification.high
    assert found.better == "finding"
    assert found.p_value == pytest.approx(2**-10)  # ten lost, none won: 2 · (1/2 · 2⁻¹⁰)


def test_few_differences_show_nothing() -> None:
    there = truth(*[0, 1] * 10)
    told = [0, 1] * 10
    told[1] = 0
    found = labeling_advice.compare_presence_accuracy(way(*told), way(*[0, 1] * 10), there)
    assert found.better == ""
    assert found.p_value == 0.5


def test_presence_is_not_compared_where_everything_is_everywhere() -> None:
    found = labeling_advice.compare_presence_accuracy(
        way(*[1] * 20), way(*[2] * 20), truth(*[2] * 20)
    )
    assert found.p_value is None
    assert found.better == ""


def test_the_error_of_counts_is_relative_to_what_is_there() -> None:
    there = truth(*[4] * 10)
    found = labeling_advice.compare_counting_errors(way(*[2] * 10), way(*[4] * 9, 3), there)
    assert found.classification.value == 0.5  # 20 of 40
    assert found.detection.value == 0.025  # 1 of 40
    assert found.better == "finding"


def test_errors_of_two_labels_do_not_cancel() -> None:
    there = np.array([[3, 1]] * 4)
    swapped = LabelingPredictions(there > 0, there[:, ::-1])
    found = labeling_advice.compare_counting_errors(
        swapped, LabelingPredictions(there > 0, there), there
    )
    assert found.classification.value == 1.0  # 4 off of 4
    assert found.detection.value == 0.0


def test_equal_ways_are_not_told_apart() -> None:
    there = truth(1, 2, 3, 0, 1, 5)
    found = labeling_advice.compare_counting_errors(
        way(1, 2, 2, 0, 1, 4), way(1, 2, 2, 0, 1, 4), there
    )
    assert (found.better, found.p_value) == ("", 1.0)


def test_nothing_to_count_is_no_comparison() -> None:
    assert (
        labeling_advice.compare_counting_errors(way(0, 0), way(0, 1), truth(0, 0)).p_value is None
    )


@pytest.mark.parametrize("counts", [[0, 1, 2], [0] * 9 + [30], list(range(50)), [3]])
def test_counts_fall_into_few_buckets_that_hold_the_extremes(counts: list[int]) -> None:
    bins = labeling_advice.choose_count_bins(counts)
    assert len(bins) <= labeling_advice.MAX_COUNT_BINS
    assert {min(counts), max(counts)} <= set(bins)
    assert all(labeling_advice.nearest_bin(count, bins) in bins for count in counts)


def things(*sides: float, counts: tuple[int, ...] = (0, 2, 3)) -> ObjectStatistics:
    return ObjectStatistics(3, 1, np.array(counts, dtype=float), np.array(sides))


def compared(
    better: str, chance: float | None = 0.01, metric: str = "presence accuracy"
) -> LabelingComparison:
    return LabelingComparison(
        proportion_estimate(10, 20, metric), proportion_estimate(19, 20, metric), chance, better
    )


@pytest.mark.parametrize(
    ("better", "chance", "words"),
    [
        ("finding", 0.01, "keep the boxes"),
        ("sorting", 0.01, "classify whole images"),
        ("", 0.4, "no significant difference"),
        ("", None, "too few images with and without"),
    ],
)
def test_the_recommendation_follows_the_figures(
    better: str, chance: float | None, words: str
) -> None:
    count = compared("finding", metric="counting error")
    told = labeling_advice.recommend_labeling(
        things(0.05), compared(better, chance), count, has_points=False
    )
    assert words in " ".join(told)
    assert "The objects are small" in told[0]
    assert "whole images 50% (30% to 70%)" in " ".join(told)
    assert "clicks are quicker" in told[-1]


def test_counts_are_not_spoken_of_where_there_is_never_more_than_one() -> None:
    one = things(0.4, counts=(0, 1, 1))
    told = labeling_advice.recommend_labeling(
        one, compared("sorting"), compared("finding"), has_points=True
    )
    assert not any("Counting" in sentence for sentence in told)
    assert "clicks" in " ".join(told)


def test_sizes_and_numbers_are_taken_from_what_is_marked() -> None:
    labels = (Label("a"), Label("b"))
    control = Control("c", "image", "image", labels, "boxes")
    places = (Region("a", 0, 0, 0.5, 0.5), Region("a", 0, 0, 0.1, 0.4), Region("b", 0, 0, 1, 1))
    size = ImageSize(10, 10)

    def read() -> None:
        raise AssertionError("no image is needed")

    samples = [RegionSample(1, read, size, places), RegionSample(2, read, size, ())]  # type: ignore[arg-type]
    assert region_label_counts(samples, control).tolist() == [[2, 1], [0, 0]]
    found: dict[str, Any] = object_statistics(samples, control, "a").to_json()
    assert (found["things"], found["empty"], found["per_image"]["median"]) == (2, 1, 1.0)
    assert found["side"]["median"] == pytest.approx(0.35)  # of 0.5 and √0.04
    points = Control("p", "image", "image", labels, "points")
    assert object_statistics(samples, points).to_json()["side"] is None
