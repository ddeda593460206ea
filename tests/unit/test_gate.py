"""The gate: what is shown to be worse stays out, what is not goes in."""

from __future__ import annotations

import numpy as np
import pytest

from backend.learning import gate


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
    verdict = gate.compare_answers(live, new, "v3-abc")
    assert verdict.promote is promoted
    assert verdict.reason.startswith("Held back" if not promoted else "Not shown to be worse")
    assert "v3-abc" in verdict.reason
    assert f"{len(live)} audit images" in verdict.reason


def test_without_an_audit_label_nothing_speaks_against_a_version() -> None:
    verdict = gate.compare_answers([], [])
    assert verdict.promote
    assert "No audit image" in verdict.reason
    assert gate.compare_finds(np.zeros((1, 3)), np.zeros((1, 3))).promote


def test_equally_good_versions_are_rarely_held_back_and_much_worse_ones_mostly() -> None:
    held = {0.9: 0, 0.7: 0}
    for seed in range(400):
        random = np.random.default_rng(seed)
        both = random.random(40) < 0.5  # images that any version gets right
        live = both | (random.random(40) < 0.8)
        for skill in held:
            new = both | (random.random(40) < (0.8 if skill == 0.9 else 0.4))
            held[skill] += not gate.compare_answers(live.tolist(), new.tolist()).promote
    assert held[0.9] <= 0.1 * 400
    assert held[0.7] >= 0.8 * 400


def test_finds_are_compared_image_by_image() -> None:
    random = np.random.default_rng(0)
    there = random.integers(1, 8, 40)
    live = np.stack([there * 0.9, there, there], axis=1)
    worse = np.stack([there * 0.6, there, there], axis=1)
    assert gate.compare_finds(live, live).promote
    assert gate.compare_finds(worse, live).promote
    verdict = gate.compare_finds(live, worse, "v2")
    assert not verdict.promote
    assert "F1 is 60%" in verdict.reason


def test_equal_detectors_are_rarely_held_back() -> None:
    held = 0
    for seed in range(300):
        random = np.random.default_rng(seed)
        there = random.integers(1, 8, 30)
        rows = [
            np.stack([random.binomial(there, 0.8), random.poisson(there), there], axis=1)
            for _ in range(2)
        ]
        held += not gate.compare_finds(rows[0], rows[1]).promote
    assert held <= 0.15 * 300


def test_labels_that_suddenly_contradict_the_others_are_not_trusted() -> None:
    assert gate.trust((6, 60), (7, 40), audit=5).promote, "a little harder than before"
    verdict = gate.trust((6, 60), (14, 40), audit=5)
    assert not verdict.promote
    assert "14 of the 40" in verdict.reason
    assert "prelabel label-errors" in verdict.reason
    assert gate.trust((6, 60), (14, 40), audit=gate.ENOUGH).promote, "the audit slice knows better"
    assert gate.trust((0, 0), (9, 10), audit=0).promote, "nothing to contradict yet"


def test_one_reason_to_hold_back_is_enough_and_is_the_one_that_is_told() -> None:
    good = gate.Verdict(True, "Fine.", {})
    bad = gate.Verdict(False, "Held back: worse.", {})
    assert gate.all_of([good, bad]).reason == "Held back: worse."
    assert gate.all_of([good, good]).promote
    assert not gate.all_of([good, bad]).promote
