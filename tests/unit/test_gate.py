"""The quality gate: paired comparisons of versions, and tests of recent labels."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from backend.arrays import Doubles, Indices
from backend.learning import contradiction, rejection, version_comparison
from backend.learning.contradiction import (
    AnsweredQuestions,
    ContradictionResult,
    ProbabilityCalibration,
    measure_contradiction,
)
from backend.learning.rejection import measure_rejection


@pytest.mark.parametrize("module", [version_comparison, contradiction, rejection])
def test_the_examples_in_the_docstrings_hold(module: object) -> None:
    found = doctest.testmod(module)  # type: ignore[arg-type]
    assert found.attempted
    assert not found.failed


@pytest.mark.parametrize(
    ("lost", "won", "promoted"),
    [
        (0, 0, True),
        (2, 0, True),  # p = 1/8
        (3, 0, False),  # p = 1/16
        (4, 1, True),
        (5, 1, False),
        (1, 5, True),
        (20, 10, False),
    ],
)
def test_a_version_that_loses_significantly_more_images_is_held_back(
    lost: int, won: int, promoted: bool
) -> None:
    live = [True] * lost + [False] * won + [True] * 20
    new = [False] * lost + [True] * won + [True] * 20
    verdict = version_comparison.compare_label_sets(live, new, "v3-abc")
    assert verdict.is_passed is promoted
    assert verdict.reason.startswith("Held back" if not promoted else "Not shown to be worse")
    assert "v3-abc" in verdict.reason
    assert f"{len(live)} audit images" in verdict.reason


def test_without_an_audit_label_every_version_passes() -> None:
    verdict = version_comparison.compare_label_sets([], [])
    assert verdict.is_passed
    assert "No audit image" in verdict.reason
    assert version_comparison.compare_detections(np.zeros((1, 3)), np.zeros((1, 3))).is_passed
    few = version_comparison.compare_detections(np.zeros((9, 3)), np.zeros((9, 3)))
    assert "9 audit images are too few to compare the F1" in few.reason
    assert "%" not in few.reason


def test_equal_versions_are_rarely_held_back_and_much_worse_ones_mostly() -> None:
    held_back = {0.9: 0, 0.7: 0}
    for seed in range(400):
        random = np.random.default_rng(seed)
        both = random.random(40) < 0.5  # images that any version gets right
        live = both | (random.random(40) < 0.8)
        for skill in held_back:
            new = both | (random.random(40) < (0.8 if skill == 0.9 else 0.4))
            held_back[skill] += not version_comparison.compare_label_sets(
                live.tolist(), new.tolist()
            ).is_passed
    assert held_back[0.9] <= 0.1 * 400
    assert held_back[0.7] >= 0.8 * 400


def test_detectors_are_compared_on_the_same_images() -> None:
    random = np.random.default_rng(0)
    there = random.integers(1, 8, 40)
    live = np.stack([there * 0.9, there, there], axis=1)
    worse = np.stack([there * 0.6, there, there], axis=1)
    assert version_comparison.compare_detections(live, live).is_passed
    assert version_comparison.compare_detections(worse, live).is_passed
    verdict = version_comparison.compare_detections(live, worse, "v2")
    assert not verdict.is_passed
    assert "F1 is 60%" in verdict.reason


def test_a_detector_that_detects_no_training_objects_is_held_back() -> None:
    there = np.array([3.0, 4, 2, 5, 3, 4])
    live = np.stack([there - 1, there, there], axis=1)
    nothing = np.stack([0 * there, 0 * there, there], axis=1)
    verdict = version_comparison.compare_detections(live, nothing, "v1", "latest training images")
    assert not verdict.is_passed
    assert "6 latest training images" in verdict.reason
    assert version_comparison.compare_detections(nothing, nothing).is_passed


def test_two_differing_images_do_not_hold_a_detector_back() -> None:
    live = np.full((40, 3), 3.0)
    new = live.copy()
    new[:2, 0] = 2
    assert version_comparison.compare_detections(live, new).is_passed
    new[:6, 0] = 2
    assert not version_comparison.compare_detections(live, new).is_passed


@pytest.mark.parametrize("images", [2, 4, 8, 30])
def test_equal_detectors_are_rarely_held_back(images: int) -> None:
    held_back = 0
    for seed in range(500):
        random = np.random.default_rng(seed)
        there = random.integers(1, 8, images)
        rows = [
            np.stack([random.binomial(there, 0.8), random.poisson(there), there], axis=1)
            for _ in range(2)
        ]
        held_back += not version_comparison.compare_detections(rows[0], rows[1]).is_passed
    assert held_back <= 0.13 * 500


def test_one_failing_verdict_holds_back_and_gives_the_reason() -> None:
    good = version_comparison.GateVerdict(True, "Fine.", {})
    bad = version_comparison.GateVerdict(False, "Held back: worse.", {})
    assert version_comparison.combine_verdicts([good, bad]).reason == "Held back: worse."
    assert version_comparison.combine_verdicts([good, good]).is_passed
    assert not version_comparison.combine_verdicts([good, bad]).is_passed


def make_probabilities(
    random: np.random.Generator, n: int, sharp: float, kinds: int = 5
) -> Doubles:
    """Return probabilities, (n, kinds), from uniform (sharp 0) to certain."""
    logits = sharp * random.normal(size=(n, kinds))
    table = np.exp(logits)
    return np.asarray(table / table.sum(axis=1, keepdims=True))


def draw_answers(random: np.random.Generator, probabilities: Doubles) -> Indices:
    """Draw answers from probabilities, (n,)."""
    return np.array([random.choice(probabilities.shape[1], p=row) for row in probabilities])


def contradiction_p_value(
    before: AnsweredQuestions, probabilities: Doubles, answers: Indices, seed: int
) -> float:
    window = AnsweredQuestions.from_single_labels(probabilities, answers, range(len(answers)))
    trust = ProbabilityCalibration.fit(before)
    return measure_contradiction(window, trust, np.random.default_rng(seed), 500).p_value


def make_wrong(random: np.random.Generator, answers: Indices, kinds: int, way: str) -> Indices:
    """Make three of ten answers wrong: at random, or swapped within pairs."""
    wrong = answers.copy()
    at = np.arange(len(answers)) % 10 < 3
    shift = random.integers(1, kinds, len(answers)) if way == "random" else 1
    other = (answers + shift) % kinds if way == "random" else answers ^ 1
    wrong[at] = other[at]
    return wrong


@pytest.mark.parametrize(
    ("images", "sharp", "min_power"),
    [(10, 6.0, 0.6), (30, 6.0, 0.95), (30, 3.0, 0.6), (60, 3.0, 0.8)],
)
def test_wrong_labels_are_significant_and_hard_images_are_not(
    images: int, sharp: float, min_power: float
) -> None:
    """Recent images are as hard as earlier ones or harder (smaller ``sharp``)."""
    held_back = {"clean": 0, "random": 0, "swapped": 0}
    for seed in range(60):
        random = np.random.default_rng(seed)
        easy, hard = (
            make_probabilities(random, 80, 6.0, 6),
            make_probabilities(random, images, sharp, 6),
        )
        before = AnsweredQuestions.from_single_labels(easy, draw_answers(random, easy), range(80))
        answers = draw_answers(random, hard)
        held_back["clean"] += (
            contradiction_p_value(before, hard, answers, seed)
            <= version_comparison.CONTRADICTION_SIGNIFICANCE
        )
        for way in ("random", "swapped"):
            wrong = make_wrong(random, answers, 6, way)
            held_back[way] += (
                contradiction_p_value(before, hard, wrong, seed)
                <= version_comparison.CONTRADICTION_SIGNIFICANCE
            )
    assert held_back["clean"] <= 0.05 * 60
    assert min(held_back["random"], held_back["swapped"]) >= min_power * 60


@pytest.mark.parametrize("slips", [0.1, 0.2])
def test_constant_slips_and_overconfidence_are_calibrated_away(
    slips: float,
) -> None:
    held_back = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        probabilities = make_probabilities(random, 140, 2.0)
        answers = draw_answers(random, probabilities)
        at = random.random(140) < slips
        answers[at] = random.integers(0, 5, int(at.sum()))
        sure = probabilities**2 / (probabilities**2).sum(axis=1, keepdims=True)
        before = AnsweredQuestions.from_single_labels(sure[:110], answers[:110], range(110))
        held_back += (
            contradiction_p_value(before, sure[110:], answers[110:], seed)
            <= version_comparison.CONTRADICTION_SIGNIFICANCE
        )
    assert held_back <= 0.05 * 100


@pytest.mark.parametrize(("images", "poisoned"), [(20, False), (20, True), (60, True)])
def test_wrong_multiple_choice_labels_are_significant(images: int, poisoned: bool) -> None:
    """The labels of one image are wrong together, because the image is hard."""
    held_back = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        count = 100 + images
        probabilities = 1 / (1 + np.exp(-3 * random.normal(size=(count, 4))))
        odd = random.random(count) < 0.1
        answers = (random.random((count, 4)) < np.where(odd[:, None], 0.5, probabilities)).astype(
            float
        )
        if poisoned:
            answers[100::3] = answers[100::3][:, ::-1]
        before = AnsweredQuestions.from_multi_labels(probabilities[:100], answers[:100], range(100))
        window = AnsweredQuestions.from_multi_labels(
            probabilities[100:], answers[100:], range(images)
        )
        found = measure_contradiction(
            window, ProbabilityCalibration.fit(before), np.random.default_rng(seed), 500
        )
        held_back += found.p_value <= version_comparison.CONTRADICTION_SIGNIFICANCE
    low, high = {(20, False): (0, 0.05), (20, True): (0.5, 1), (60, True): (0.9, 1)}[
        images, poisoned
    ]
    assert low * 60 <= held_back <= high * 60


def test_unknown_labels_and_questions_not_asked_are_left_out() -> None:
    probabilities = [[1.0, 0.0, 0.0], [0.6, 0.4, 0.0]]
    known = AnsweredQuestions.from_single_labels(probabilities, [2, 1], [7, 8])
    assert known.image_ids.tolist() == [8]
    some = AnsweredQuestions.from_multi_labels([[0.9, 0.2, 0.0]], [[1, np.nan, 1]], [5])
    assert some.probabilities.tolist() == [
        [
            pytest.approx(0.1),
            0.9,
        ]
    ]
    nothing = AnsweredQuestions.from_single_labels(np.zeros((0, 3)), [], [])
    assert (
        measure_contradiction(nothing, ProbabilityCalibration(), np.random.default_rng(0)).p_value
        == 1.0
    )
    assert ProbabilityCalibration.fit(nothing) == ProbabilityCalibration()


def test_the_window_with_the_lowest_p_value_decides_and_gives_the_numbers() -> None:
    windows = [
        ("v5-a", ContradictionResult(10, 2, 1.2, 0.2)),
        ("v4-b", ContradictionResult(30, 12, 3.1, 0.0005)),
    ]
    verdict = version_comparison.check_recent_labels(windows)
    assert verdict.reason.startswith("Held back: 12 of the 30 labels given since v4-b contradict")
    assert "about 3 are expected" in verdict.reason
    assert verdict.evidence["windows"] == {"v5-a": 0.2, "v4-b": 0.0005}
    assert version_comparison.check_recent_labels(windows[:1]).is_passed
    assert version_comparison.check_recent_labels([]).is_passed, "no label came since"


def simulate_detections(
    random: np.random.Generator, images: int, sharp: float, rejected: float
) -> list[list[tuple[float, bool]]]:
    """Simulate detections that are right as often as their confidence says, some rejected."""
    found = []
    for _ in range(images):
        sure = 1 / (1 + np.exp(-sharp * np.abs(random.normal(size=random.integers(1, 6)))))
        right = random.random(len(sure)) < sure
        kept = random.random(len(sure)) >= rejected
        found.append(list(zip(sure.tolist(), (right & kept).tolist(), strict=True)))
    return found


@pytest.mark.parametrize(
    ("images", "sharp", "rejected", "low", "high"),
    [
        (6, 4.0, 0.0, 0, 0.05),
        (10, 1.0, 0.0, 0, 0.05),  # harder than the reference images
        (40, 1.0, 0.0, 0, 0.05),
        (10, 4.0, 0.3, 0.25, 1),
        (30, 4.0, 0.3, 0.9, 1),
        (30, 2.0, 0.3, 0.75, 1),
    ],
)
def test_rejected_detections_are_significant_and_hard_images_are_not(
    images: int, sharp: float, rejected: float, low: float, high: float
) -> None:
    held_back = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        before = simulate_detections(random, 30, 4.0, 0.0)
        held_back += (
            measure_rejection(before, simulate_detections(random, images, sharp, rejected)).p_value
            <= version_comparison.CONTRADICTION_SIGNIFICANCE
        )
    assert low * 200 <= held_back <= high * 200


def test_too_few_images_are_not_tested() -> None:
    random = np.random.default_rng(0)
    known, rejected = simulate_detections(random, 30, 4.0, 0.0), [[(0.9, False)]] * 4
    assert measure_rejection(known, rejected).p_value == 1.0
    assert measure_rejection(known[:4], rejected * 5).p_value == 1.0
    assert measure_rejection(known, rejected * 5).p_value < 0.01
    assert (
        "people reject 20 of its detections"
        in version_comparison.check_recent_labels(
            [("v1", measure_rejection(known, rejected * 5))], "detections"
        ).reason
    )
