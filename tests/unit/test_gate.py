"""The gate: what is shown to be worse stays out, what is not goes in; and who is believed."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from backend.arrays import Doubles, Indices
from backend.learning import contradiction as contradicting
from backend.learning import quality_gate
from backend.learning import rejection as denying
from backend.learning.contradiction import (
    AnsweredQuestions,
    ContradictionResult,
    ProbabilityCalibration,
    measure_contradiction,
)
from backend.learning.rejection import measure_rejection


@pytest.mark.parametrize("module", [quality_gate, contradicting, denying])
def test_the_examples_in_the_docstrings_hold(module: object) -> None:
    found = doctest.testmod(module)  # type: ignore[arg-type]
    assert found.attempted
    assert not found.failed


@pytest.mark.parametrize(
    ("lost", "won", "promoted"),
    [
        (0, 0, True),
        (2, 0, True),  # two of two: a chance of 1 in 8, ties halved
        (3, 0, False),  # 1 in 16
        (4, 1, True),
        (5, 1, False),
        (1, 5, True),
        (20, 10, False),
    ],
)
def test_a_version_that_loses_too_many_images_is_held_back(
    lost: int, won: int, promoted: bool
) -> None:
    live = [True] * lost + [False] * won + [True] * 20
    new = [False] * lost + [True] * won + [True] * 20
    verdict = quality_gate.compare_label_sets(live, new, "v3-abc")
    assert verdict.is_passed is promoted
    assert verdict.reason.startswith("Held back" if not promoted else "Not shown to be worse")
    assert "v3-abc" in verdict.reason
    assert f"{len(live)} audit images" in verdict.reason


def test_without_an_audit_label_nothing_speaks_against_a_version() -> None:
    verdict = quality_gate.compare_label_sets([], [])
    assert verdict.is_passed
    assert "No audit image" in verdict.reason
    assert quality_gate.compare_detections(np.zeros((1, 3)), np.zeros((1, 3))).is_passed


def test_equally_good_versions_are_rarely_held_back_and_much_worse_ones_mostly() -> None:
    held = {0.9: 0, 0.7: 0}
    for seed in range(400):
        random = np.random.default_rng(seed)
        both = random.random(40) < 0.5  # images that any version gets right
        live = both | (random.random(40) < 0.8)
        for skill in held:
            new = both | (random.random(40) < (0.8 if skill == 0.9 else 0.4))
            held[skill] += not quality_gate.compare_label_sets(
                live.tolist(), new.tolist()
            ).is_passed
    assert held[0.9] <= 0.1 * 400
    assert held[0.7] >= 0.8 * 400


def test_finds_are_compared_image_by_image() -> None:
    random = np.random.default_rng(0)
    there = random.integers(1, 8, 40)
    live = np.stack([there * 0.9, there, there], axis=1)
    worse = np.stack([there * 0.6, there, there], axis=1)
    assert quality_gate.compare_detections(live, live).is_passed
    assert quality_gate.compare_detections(worse, live).is_passed
    verdict = quality_gate.compare_detections(live, worse, "v2")
    assert not verdict.is_passed
    assert "F1 is 60%" in verdict.reason


def test_a_detector_that_forgot_what_it_learned_is_held_back_without_an_audit_image() -> None:
    there = np.array([3.0, 4, 2, 5, 3, 4])
    live = np.stack([there - 1, there, there], axis=1)
    nothing = np.stack([0 * there, 0 * there, there], axis=1)
    verdict = quality_gate.compare_detections(live, nothing, "v1", "latest images it learned from")
    assert not verdict.is_passed
    assert "6 latest images it learned from" in verdict.reason
    assert quality_gate.compare_detections(nothing, nothing).is_passed


def test_two_images_that_differ_show_nothing_however_many_are_alike() -> None:
    live = np.full((40, 3), 3.0)
    new = live.copy()
    new[:2, 0] = 2
    assert quality_gate.compare_detections(live, new).is_passed
    new[:6, 0] = 2
    assert not quality_gate.compare_detections(live, new).is_passed


@pytest.mark.parametrize("images", [2, 4, 8, 30])
def test_equal_detectors_are_rarely_held_back(images: int) -> None:
    held = 0
    for seed in range(500):
        random = np.random.default_rng(seed)
        there = random.integers(1, 8, images)
        rows = [
            np.stack([random.binomial(there, 0.8), random.poisson(there), there], axis=1)
            for _ in range(2)
        ]
        held += not quality_gate.compare_detections(rows[0], rows[1]).is_passed
    assert held <= 0.13 * 500


def test_one_reason_to_hold_back_is_enough_and_is_the_one_that_is_told() -> None:
    good = quality_gate.GateVerdict(True, "Fine.", {})
    bad = quality_gate.GateVerdict(False, "Held back: worse.", {})
    assert quality_gate.combine_verdicts([good, bad]).reason == "Held back: worse."
    assert quality_gate.combine_verdicts([good, good]).is_passed
    assert not quality_gate.combine_verdicts([good, bad]).is_passed


def believed(random: np.random.Generator, n: int, sharp: float, kinds: int = 5) -> Doubles:
    """(n, kinds) beliefs, from undecided (sharp 0) to certain."""
    logits = sharp * random.normal(size=(n, kinds))
    table = np.exp(logits)
    return np.asarray(table / table.sum(axis=1, keepdims=True))


def drawn(random: np.random.Generator, belief: Doubles) -> Indices:
    """(n,) answers as the belief has them."""
    return np.array([random.choice(belief.shape[1], p=row) for row in belief])


def chance(before: AnsweredQuestions, belief: Doubles, said: Indices, seed: int) -> float:
    window = AnsweredQuestions.from_single_labels(belief, said, range(len(said)))
    trust = ProbabilityCalibration.fit(before)
    return measure_contradiction(window, trust, np.random.default_rng(seed), 500).p_value


def spoiled(random: np.random.Generator, said: Indices, kinds: int, way: str) -> Indices:
    """Three of ten are wrong: anything else, or one of a pair for the other."""
    wrong = said.copy()
    at = np.arange(len(said)) % 10 < 3
    shift = random.integers(1, kinds, len(said)) if way == "random" else 1
    other = (said + shift) % kinds if way == "random" else said ^ 1
    wrong[at] = other[at]
    return wrong


@pytest.mark.parametrize(
    ("images", "sharp", "least"), [(10, 6.0, 0.6), (30, 6.0, 0.95), (30, 3.0, 0.6), (60, 3.0, 0.8)]
)
def test_wrong_labels_are_noticed_and_hard_images_alone_are_not(
    images: int, sharp: float, least: float
) -> None:
    """Those that came are as hard or harder (less decided) than those before."""
    held = {"clean": 0, "random": 0, "swapped": 0}
    for seed in range(60):
        random = np.random.default_rng(seed)
        easy, hard = believed(random, 80, 6.0, 6), believed(random, images, sharp, 6)
        before = AnsweredQuestions.from_single_labels(easy, drawn(random, easy), range(80))
        said = drawn(random, hard)
        held["clean"] += chance(before, hard, said, seed) <= quality_gate.CONTRADICTION_SIGNIFICANCE
        for way in ("random", "swapped"):
            wrong = spoiled(random, said, 6, way)
            held[way] += (
                chance(before, hard, wrong, seed) <= quality_gate.CONTRADICTION_SIGNIFICANCE
            )
    assert held["clean"] <= 0.05 * 60
    assert min(held["random"], held["swapped"]) >= least * 60


@pytest.mark.parametrize("slips", [0.1, 0.2])
def test_people_who_always_err_a_little_and_models_that_are_too_sure_are_known_by_then(
    slips: float,
) -> None:
    held = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        belief = believed(random, 140, 2.0)
        said = drawn(random, belief)
        at = random.random(140) < slips
        said[at] = random.integers(0, 5, int(at.sum()))
        sure = belief**2 / (belief**2).sum(axis=1, keepdims=True)
        before = AnsweredQuestions.from_single_labels(sure[:110], said[:110], range(110))
        held += (
            chance(before, sure[110:], said[110:], seed) <= quality_gate.CONTRADICTION_SIGNIFICANCE
        )
    assert held <= 0.05 * 100


@pytest.mark.parametrize(("images", "poisoned"), [(20, False), (20, True), (60, True)])
def test_several_labels_an_image_are_doubted_together(images: int, poisoned: bool) -> None:
    """An image is hard as a whole: where one of its labels is wrong, others are as well."""
    held = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        count = 100 + images
        belief = 1 / (1 + np.exp(-3 * random.normal(size=(count, 4))))
        odd = random.random(count) < 0.1
        said = (random.random((count, 4)) < np.where(odd[:, None], 0.5, belief)).astype(float)
        if poisoned:
            said[100::3] = said[100::3][:, ::-1]
        before = AnsweredQuestions.from_multi_labels(belief[:100], said[:100], range(100))
        window = AnsweredQuestions.from_multi_labels(belief[100:], said[100:], range(images))
        found = measure_contradiction(
            window, ProbabilityCalibration.fit(before), np.random.default_rng(seed), 500
        )
        held += found.p_value <= quality_gate.CONTRADICTION_SIGNIFICANCE
    low, high = {(20, False): (0, 0.05), (20, True): (0.5, 1), (60, True): (0.9, 1)}[
        images, poisoned
    ]
    assert low * 60 <= held <= high * 60


def test_what_a_model_had_no_example_of_and_nobody_was_asked_says_nothing() -> None:
    belief = [[1.0, 0.0, 0.0], [0.6, 0.4, 0.0]]
    known = AnsweredQuestions.from_single_labels(belief, [2, 1], [7, 8])
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


def test_contradiction_is_told_in_numbers_and_the_most_telling_window_decides() -> None:
    windows = [
        ("v5-a", ContradictionResult(10, 2, 1.2, 0.2)),
        ("v4-b", ContradictionResult(30, 12, 3.1, 0.0005)),
    ]
    verdict = quality_gate.check_recent_labels(windows)
    assert verdict.reason.startswith("Held back: 12 of the 30 labels given since v4-b contradict")
    assert "about 3 are to be expected" in verdict.reason
    assert verdict.evidence["windows"] == {"v5-a": 0.2, "v4-b": 0.0005}
    assert quality_gate.check_recent_labels(windows[:1]).is_passed
    assert quality_gate.check_recent_labels([]).is_passed, "nothing came since"


def finds(
    random: np.random.Generator, images: int, sharp: float, denied: float
) -> list[list[tuple[float, bool]]]:
    """By image, finds that are right as often as they are sure, some then denied."""
    found = []
    for _ in range(images):
        sure = 1 / (1 + np.exp(-sharp * np.abs(random.normal(size=random.integers(1, 6)))))
        right = random.random(len(sure)) < sure
        kept = random.random(len(sure)) >= denied
        found.append(list(zip(sure.tolist(), (right & kept).tolist(), strict=True)))
    return found


@pytest.mark.parametrize(
    ("images", "sharp", "denied", "low", "high"),
    [
        (6, 4.0, 0.0, 0, 0.05),
        (10, 1.0, 0.0, 0, 0.05),  # harder ones than those before
        (40, 1.0, 0.0, 0, 0.05),
        (10, 4.0, 0.3, 0.25, 1),
        (30, 4.0, 0.3, 0.9, 1),
        (30, 2.0, 0.3, 0.75, 1),
    ],
)
def test_finds_that_people_deny_are_noticed_and_hard_images_alone_are_not(
    images: int, sharp: float, denied: float, low: float, high: float
) -> None:
    held = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        before = finds(random, 30, 4.0, 0.0)
        held += (
            measure_rejection(before, finds(random, images, sharp, denied)).p_value
            <= quality_gate.CONTRADICTION_SIGNIFICANCE
        )
    assert low * 200 <= held <= high * 200


def test_few_images_deny_nothing() -> None:
    random = np.random.default_rng(0)
    known, denied = finds(random, 30, 4.0, 0.0), [[(0.9, False)]] * 4
    assert measure_rejection(known, denied).p_value == 1.0
    assert measure_rejection(known[:4], denied * 5).p_value == 1.0
    assert measure_rejection(known, denied * 5).p_value < 0.01
    assert (
        "people reject 20 of its detections"
        in quality_gate.check_recent_labels(
            [("v1", measure_rejection(known, denied * 5))], "detections"
        ).reason
    )
