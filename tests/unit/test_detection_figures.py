"""Detection metrics, on cases that can be worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backend.domain import Region
from backend.estimate import IntervalEstimate
from backend.learning.average_precision import average_precision, average_precision_estimates
from backend.learning.detection_metrics import (
    DetectionCounts,
    DetectionSample,
    count_matches,
    count_outcomes,
    evaluate_detections,
    f1_estimate,
    label_detections,
    label_difficulty,
    region_outcomes,
)
from backend.learning.matching import match_boxes, match_points
from backend.learning.selection import detection_uncertainty
from backend.learning.thresholds import best_f1_threshold


def region(x: float, y: float, label: str = "a", side: float = 0.1) -> Region:
    return Region(label, x - side / 2, y - side / 2, x + side / 2, y + side / 2)


@pytest.mark.parametrize(
    ("found", "truth", "pairs"),
    [
        ([], [], []),
        ([[0, 0, 1, 1]], [], []),
        ([], [[0, 0, 1, 1]], []),
        ([[0, 0, 2, 2]], [[0, 0, 2, 2]], [(0, 0)]),
        # IoU 0.5 is just enough
        ([[0, 0, 2, 1]], [[0, 0, 2, 2]], [(0, 0)]),
        ([[0, 0, 2, 0.99]], [[0, 0, 2, 2]], []),
        # two detections of one object: only one is right
        ([[0, 0, 2, 2], [0, 0, 2, 1.9]], [[0, 0, 2, 2]], [(0, 0)]),
    ],
)
def test_boxes_are_matched_one_to_one(
    found: list[list[float]], truth: list[list[float]], pairs: list[tuple[int, int]]
) -> None:
    assert match_boxes(found, truth) == pairs


def test_points_are_matched_so_that_as_many_as_possible_are_right() -> None:
    # the object nearest to the first point is the only one in reach of the second
    assert match_points([[0, 0], [3, 0]], [[1, 0], [-2, 0]], max_distance=2) == [(0, 1), (1, 0)]
    assert match_points([[0, 0]], [[3, 0]], max_distance=2.9) == []


def test_average_precision_by_hand() -> None:
    assert average_precision([0.9, 0.8], [True, True], 2) == 1.0
    assert average_precision([0.9, 0.8], [False, False], 2) == 0.0
    assert average_precision([], [], 3) == 0.0
    # recall 1/2 at precision 1, nothing beyond
    assert average_precision([0.9, 0.8], [True, False], 2) == pytest.approx(51 / 101)
    # the order of the confidences decides, not the order of the arguments
    assert average_precision([0.1, 0.9], [True, False], 1) == pytest.approx(0.5)


def test_metrics_of_boxes_by_label_and_overall() -> None:
    image = DetectionSample(
        detections=(region(0.2, 0.2), region(0.8, 0.8), region(0.5, 0.5, "b")),
        confidence=(0.9, 0.8, 0.7),
        ground_truth=(region(0.2, 0.2), region(0.5, 0.5, "a"), region(0.5, 0.5, "b")),
    )
    metrics = evaluate_detections([image], ["a", "b"], "boxes", {}, display_threshold=0.3)
    figure = metrics.f1
    stored: dict[str, Any] = metrics.to_json()
    # a: one of two detections is right, one of two objects is missed; b: all right
    intervals = stored["labels"]["a"].pop("intervals")
    assert intervals["precision"]["value"] == intervals["recall"]["value"] == 0.5
    assert stored["labels"]["a"] == {
        "there": 2,
        "precision": 0.5,
        "recall": 0.5,
        "f1": 0.5,
        "counting_error": 0.0,
        "ap50": pytest.approx(51 / 101, abs=1e-4),
    }
    assert stored["labels"]["b"]["ap50"] == 1.0
    assert stored["map50"] == pytest.approx((51 / 101 + 1) / 2, abs=1e-4)
    assert stored["f1"] == figure.value == pytest.approx(4 / 6, abs=1e-4)
    assert (figure.n, figure.metric) == (1, "F1")


def test_a_detection_below_the_display_threshold_counts_for_map_only() -> None:
    image = DetectionSample((region(0.2, 0.2),), (0.2,), (region(0.2, 0.2),))
    metrics = evaluate_detections([image], ["a"], "boxes", {}, display_threshold=0.3)
    assert metrics.map50 is not None
    precision = metrics.overall.estimates["precision"]
    assert (metrics.f1.value, metrics.map50.value, precision.value) == (0.0, 1.0, None)


def test_each_region_of_an_image_is_correct_missed_or_false() -> None:
    image = DetectionSample(
        (region(0.2, 0.2), region(0.8, 0.2), region(0.8, 0.8)),
        (0.9, 0.8, 0.1),
        (region(0.21, 0.2), region(0.5, 0.5), region(0.8, 0.8, "b")),
    )
    outcomes = region_outcomes(image, ("a", "b"), "boxes", {}, 0.5)
    assert outcomes == [
        ("correct", region(0.2, 0.2)),
        ("false", region(0.8, 0.2)),
        ("missed", region(0.5, 0.5)),
        ("missed", region(0.8, 0.8, "b")),
    ]
    assert count_outcomes(outcomes) == DetectionCounts(1, 2, 3)
    assert count_outcomes(outcomes) == count_matches(image, ("a", "b"), "boxes", {}, 0.5)


@pytest.mark.parametrize(
    ("ratio", "right"),
    [(1.0, 1.0), (2.0, 1.0), (0.25, 0.0)],  # in a tall image the same share of the height is more
)
def test_points_are_right_within_half_the_object_size_in_units_of_the_longer_edge(
    ratio: float, right: float
) -> None:
    image = DetectionSample((region(0.5, 0.54),), (0.9,), (region(0.5, 0.5),), ratio)
    extents = {"a": 0.06 if ratio < 1 else 0.1}
    metrics = evaluate_detections([image], ["a"], "points", extents, display_threshold=0.3)
    assert metrics.f1.value == right
    assert metrics.overall.estimates["f1_close"].value == 0.0


def test_counting_error_is_the_sum_of_miscounts_over_the_number_of_objects() -> None:
    images = [
        DetectionSample((region(0.1, 0.1),) * 3, (0.9,) * 3, (region(0.1, 0.1),) * 4),
        DetectionSample((region(0.1, 0.1),) * 5, (0.9,) * 5, (region(0.1, 0.1),) * 4),
    ]
    metrics = evaluate_detections(images, ["a"], "points", {"a": 0.1}, display_threshold=0.3)
    counting_error = metrics.overall.estimates["counting_error"].value
    assert counting_error == 0.25, "one missing and one too many do not cancel out"


def test_the_interval_of_f1_narrows_with_more_images() -> None:
    few = f1_estimate([DetectionCounts(3, 4, 4), DetectionCounts(4, 4, 4)])
    many = f1_estimate([DetectionCounts(3, 4, 4), DetectionCounts(4, 4, 4)] * 20)
    assert few.value == many.value == 0.875
    assert few.low < many.low < 0.875 < many.high < few.high


@pytest.mark.parametrize(
    "tallies", [[], [DetectionCounts(0, 0, 0)], [DetectionCounts(0, 0, 0)] * 9]
)
def test_without_objects_the_interval_of_f1_is_0_to_1(tallies: list[DetectionCounts]) -> None:
    figure = f1_estimate(tallies)
    assert (figure.low, figure.high) == (0.0, 1.0)
    assert figure.value == (1.0 if tallies else None)


def test_intervals_of_f1_cover_the_truth_of_simulated_projects() -> None:
    """Images differ in difficulty, so their objects are right or wrong together."""
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        tallies = []
        for _ in range(40):
            count = int(random.integers(1, 12))
            right = int(random.binomial(count, random.beta(8, 2)))
            tallies.append(DetectionCounts(right, count, count))
        figure = f1_estimate(tallies)
        covered += figure.low <= 0.8 <= figure.high
    assert covered >= 180


def test_the_best_f1_threshold_separates_correct_from_wrong_detections() -> None:
    image = DetectionSample(
        (region(0.1, 0.1), region(0.3, 0.3), region(0.9, 0.9)),
        (0.8, 0.6, 0.4),
        (region(0.1, 0.1), region(0.3, 0.3)),
    )
    assert best_f1_threshold([image], ["a"]) == 0.6
    assert best_f1_threshold([], ["a"]) == 0.05


def test_uncertain_detections_raise_the_uncertainty_of_an_image() -> None:
    certain = detection_uncertainty([(0.99, 1.0)] * 5, 0.0)
    doubtful = detection_uncertainty([(0.5, 1.0)] * 5, 0.0)
    assert 0 <= certain < doubtful < 1
    assert detection_uncertainty([(0.5, 2.0)] * 5, 0.0) > doubtful, "difficult labels count more"
    ten, many = (detection_uncertainty([(0.5, 1.0)] * count, 0.0) for count in (10, 50))
    assert ten == many, "the ten most uncertain detections count"
    assert detection_uncertainty([], 0.9) == 0.45, "without detections, half the fallback rank"


def test_labels_with_missed_or_uncertain_objects_are_difficult() -> None:
    truth = (region(0.2, 0.2), region(0.8, 0.8, "b"))
    image = DetectionSample((region(0.2, 0.2), region(0.8, 0.8, "b")), (1.0, 0.4), truth)
    assert label_difficulty([image], ["a", "b", "c"]) == {"a": 1.0, "b": 1.6, "c": 2.0}
    assert label_difficulty([DetectionSample((), (), truth)], ["a"]) == {"a": 2.0}


def test_every_metric_of_boxes_and_points_lies_within_its_interval() -> None:
    images = [
        DetectionSample(
            (region(0.2, 0.2), region(0.8, 0.8)), (0.9, 0.4), (region(0.2, 0.2), region(0.5, 0.5))
        )
        for _ in range(10)
    ]
    for kind, own in (("boxes", "ap50"), ("points", "f1")):
        metrics = evaluate_detections(
            images,
            ["a", "b"],
            kind,  # type: ignore[arg-type]
            {"a": 0.1},
            display_threshold=0.3,
        )
        stored: dict[str, Any] = metrics.to_json()
        row = stored["labels"]["a"]
        for name in ("f1", "counting_error", "precision", "recall", own):
            interval = row["intervals"][name]
            assert interval["low"] <= interval["value"] == row[name] <= interval["high"], name
        for name in ("f1", "counting_error", *(["f1_close"] if kind == "points" else [])):
            interval = stored["intervals"][name]
            assert interval["low"] <= interval["value"] == stored[name] <= interval["high"], name
        assert stored["labels"]["b"]["intervals"]["f1"]["value"] is None, "label b does not occur"
        assert metrics.f1.value == stored["f1"]


def test_intervals_of_average_precision_cover_that_of_3000_images() -> None:
    def simulate(random: np.random.Generator, count: int) -> list[DetectionSample]:
        found = []
        for _ in range(count):
            objects = [region(0.1 + 0.2 * k, 0.5) for k in range(random.integers(1, 5))]
            hit = [p for p in objects if random.random() < 0.7]
            false = [region(0.1 + 0.2 * k, 0.1) for k in range(random.poisson(0.8))]
            sure = [*random.beta(4, 2, len(hit)), *random.beta(2, 3, len(false))]
            pairs = sorted(zip(sure, [*hit, *false], strict=True), key=lambda pair: -pair[0])
            found.append(
                DetectionSample(
                    tuple(p for _, p in pairs), tuple(c for c, _ in pairs), tuple(objects)
                )
            )
        return found

    random = np.random.default_rng(0)

    def estimate(images: list[DetectionSample], draws: int) -> IntervalEstimate:
        detections = label_detections(images, ["a"])
        return average_precision_estimates(detections, random, draws)[0]["a"]

    truth = estimate(simulate(random, 3000), draws=2).value
    inside = 0
    for _ in range(60):
        figure = estimate(simulate(random, 25), draws=60)
        inside += figure.low <= (truth or 0) <= figure.high
    assert inside >= 0.9 * 60
