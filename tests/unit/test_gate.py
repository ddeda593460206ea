"""The gate: what is shown to be worse stays out, what is not goes in."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from backend.learning import gate

Floats = npt.NDArray[np.float64]


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


def test_a_detector_that_forgot_what_it_learned_is_held_back_without_an_audit_image() -> None:
    there = np.array([3.0, 4, 2, 5, 3, 4])
    live = np.stack([there - 1, there, there], axis=1)
    nothing = np.stack([0 * there, 0 * there, there], axis=1)
    verdict = gate.compare_finds(live, nothing, "v1", "latest images it learned from")
    assert not verdict.promote
    assert "6 latest images it learned from" in verdict.reason
    assert gate.compare_finds(nothing, nothing).promote


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
        held += not gate.compare_finds(rows[0], rows[1]).promote
    assert held <= 0.13 * 500


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


def believed(random: np.random.Generator, n: int, sharp: float) -> Floats:
    """(n, 5) beliefs, from undecided (sharp 0) to certain."""
    logits = sharp * random.normal(size=(n, 5))
    table = np.exp(logits)
    return np.asarray(table / table.sum(axis=1, keepdims=True))


def drawn(random: np.random.Generator, belief: Floats) -> list[int]:
    return [int(random.choice(belief.shape[1], p=row)) for row in belief]


@pytest.mark.parametrize("sharp", [1.0, 3.0, 6.0])
def test_hard_images_alone_do_not_make_labels_suspicious_and_poison_does(sharp: float) -> None:
    """Those since are harder (less decided) than those before, as selection makes them."""
    clean = poisoned = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        easy, hard = believed(random, 80, 6.0), believed(random, 40, sharp)
        before = gate.Unlikely.of_one(easy, drawn(random, easy))
        said = drawn(random, hard)
        clean += not gate.surprise(before, gate.Unlikely.of_one(hard, said)).promote
        said[:12] = [(k + 1 + int(random.integers(4))) % 5 for k in said[:12]]
        poisoned += not gate.surprise(before, gate.Unlikely.of_one(hard, said)).promote
    assert clean <= 0.05 * 200
    assert poisoned >= {1.0: 0.0, 3.0: 0.6, 6.0: 0.95}[sharp] * 200


def test_people_who_always_err_a_little_are_not_held_back() -> None:
    """One label in ten is wrong before and since: the model is too sure of both alike."""
    held = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        belief = believed(random, 160, 6.0)
        said = [
            int(random.integers(5)) if random.random() < 0.12 else k for k in drawn(random, belief)
        ]
        before = gate.Unlikely.of_one(belief[:100], said[:100])
        since = gate.Unlikely.of_one(belief[100:], said[100:])
        held += not gate.surprise(before, since).promote
    assert held <= 0.08 * 200


def test_a_surprise_is_told_in_numbers() -> None:
    sure = [[0.97, 0.01, 0.01, 0.01]] * 20
    before = gate.Unlikely.of_one(sure, [0] * 20)
    verdict = gate.surprise(before, gate.Unlikely.of_one(sure, [0] * 14 + [1] * 6))
    assert "6 of the 20 labels" in verdict.reason
    assert verdict.evidence["unlikely"] == 6
    nothing = gate.Unlikely(np.zeros(0), np.zeros(0, dtype=bool))
    assert gate.surprise(nothing, before).promote, "nothing came before"
    assert gate.surprise(before, nothing).promote, "nothing came since"


def test_several_labels_count_once_an_image_and_only_where_somebody_was_asked() -> None:
    belief = [[0.999, 0.001, 0.5], [0.999, 0.001, 0.5], [0.999, 0.001, 0.5]]
    answers: list[list[float]] = [[0, 1, 1], [1, 0, 0], [np.nan, np.nan, 1]]
    seen = gate.Unlikely.of_several(belief, answers)
    assert seen.given.tolist() == [True, False, False]
    # 0.99 · 0.001 + 0.005 each of two labels; the undecided one is never unlikely
    assert seen.chance == pytest.approx([1 - (1 - 0.00599) ** 2] * 2 + [0.0])


def test_unequal_coins_by_counting_all_outcomes() -> None:
    chances = [0.1, 0.5, 0.7, 0.02]
    for seen in range(5):
        whole = 0.0
        for heads in range(16):
            bits = [heads >> i & 1 for i in range(4)]
            if sum(bits) >= seen:
                whole += float(
                    np.prod([c if b else 1 - c for c, b in zip(chances, bits, strict=True)])
                )
        assert gate.at_least(chances, seen) == pytest.approx(whole)
