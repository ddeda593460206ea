"""Whether a new version may go live: not where it is shown to be worse than the live one.

Two lines of evidence. The first is a paired comparison on the same audit images. It sees the loss
of many images at once, never what a few wrong labels do; so a second one asks whether the labels
that came lately contradict what was learned before them: people who suddenly answer differently, or
at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.arrays import Doubles
from backend.learning.contradiction import ContradictionResult

GATE_SIGNIFICANCE = 0.1
"""Chance of such a difference between equal versions below which the new one counts as worse."""
PAST_VERSION_SIGNIFICANCE = 0.02
"""The same for a comparison with the best of many earlier versions, of which one was lucky."""
MIN_DIFFERING_IMAGES = 3
"""Images that tell two finders apart at least: two that both lose are chance (1 in 8, ties halved),
whatever the spread over images that are all alike seems to say."""
CONTRADICTION_SIGNIFICANCE = 0.01
"""Chance of so much contradiction among the latest labels up to which they are not trusted: low,
because several windows are looked at and every round looks again."""


@dataclass(frozen=True)
class GateVerdict:
    """Whether a version goes live, and why.

    Attributes:
        is_passed: it does.
        reason: a sentence for people.
        evidence: the numbers behind it, as plain JSON.
    """

    is_passed: bool
    reason: str
    evidence: dict[str, Any]


def compare_label_sets(
    live_correct: Sequence[bool],
    new_correct: Sequence[bool],
    live_name: str = "the live version",
    significance: float = GATE_SIGNIFICANCE,
) -> GateVerdict:
    """McNemar's test on the images that only one of two versions gets right, one-sided, mid-p.

    Args:
        live_correct: by audit image, whether the live version is right, or another that was live.
        new_correct: the same of the new version, in the same order.
        live_name: what the other one is called.
        significance: chance between equal versions up to which the new one counts as worse.

    Example:
        >>> compare_label_sets([True] * 9, [True] * 4 + [False] * 5).is_passed
        False
        >>> compare_label_sets([True] * 9, [True] * 8 + [False]).is_passed
        True
    """
    live_array, new_array = (
        np.asarray(live_correct, dtype=bool),
        np.asarray(new_correct, dtype=bool),
    )
    lost, won = int((live_array & ~new_array).sum()), int((new_array & ~live_array).sum())
    p_value = mid_p(lost, lost + won)
    evidence = {"images": len(live_array), "lost": lost, "won": won, "chance": round(p_value, 4)}
    if not len(live_array):
        return GateVerdict(
            True, "No audit image is labeled yet that could speak against it.", evidence
        )
    comparison = (
        f"on the same {len(live_array)} audit images it is right {int(new_array.sum())} times and {live_name} "
        f"{int(live_array.sum())} times"
    )
    if lost > won and p_value <= significance:
        probability_text = (
            f"were they equal, {lost} lost and {won} won would have a chance of {p_value:.0%}"
        )
        return GateVerdict(False, f"Held back: {comparison}; {probability_text}.", evidence)
    return GateVerdict(True, f"Not shown to be worse: {comparison}.", evidence)


def compare_detections(
    live_counts: npt.ArrayLike,
    new_counts: npt.ArrayLike,
    live_name: str = "the live version",
    image_noun: str = "audit images",
) -> GateVerdict:
    """The difference of two F1 on the same images, by its linearised variance.

    F1 = 2 · right / (found + there) is a ratio of sums over images; the difference of two such
    ratios has the variance of the differences of their linearised terms (Cochran 1977, 6.4). Few
    images tell it badly, hence Student's quantile: the normal one held back 21 % of equal detectors
    on two images and 13 % on five.

    Args:
        live_counts: (n, 3) by audit image: right, found, there; of the live version.
        new_counts: the same of the new version.
        live_name: what the live version is called.
        image_noun: what they are called.
    """
    from scipy.stats import t as student

    live_f1, live_residuals = _f1_with_residuals(live_counts)
    new_f1, new_residuals = _f1_with_residuals(new_counts)
    image_count = len(np.asarray(live_counts))
    evidence: dict[str, Any] = {
        "images": image_count,
        "live": round(live_f1, 4),
        "new": round(new_f1, 4),
    }
    if image_count < 2:
        return GateVerdict(True, f"Too few {image_noun} are labeled to speak against it.", evidence)
    standard_error = float(
        np.sqrt(((new_residuals - live_residuals) ** 2).sum() * image_count / (image_count - 1))
    )
    evidence["spread"] = round(standard_error, 4)
    comparison = f"on the same {image_count} {image_noun} its F1 is {new_f1:.0%} and that of {live_name} {live_f1:.0%}"
    differing_images = int((np.asarray(live_counts) != np.asarray(new_counts)).any(axis=1).sum())
    if (
        differing_images >= MIN_DIFFERING_IMAGES
        and new_f1
        < live_f1 - float(student.ppf(1 - GATE_SIGNIFICANCE, image_count - 1)) * standard_error
    ):
        margin = float(student.ppf(0.975, image_count - 1)) * standard_error
        return GateVerdict(
            False, f"Held back: {comparison} (the difference is known to ± {margin:.0%}).", evidence
        )
    return GateVerdict(True, f"Not shown to be worse: {comparison}.", evidence)


def check_recent_labels(
    windows: Sequence[tuple[str, ContradictionResult]], evidence_kind: str = "answers"
) -> GateVerdict:
    """Whether the labels that came lately can be believed; by the most telling of some windows.

    Args:
        windows: each the labels that came since a version, and that version's name; the first is
            the live one.
        evidence_kind: contradicts, in words: answers, or finds that people deny.

    Example:
        >>> check_recent_labels([("v4", ContradictionResult(30, 12, 3.1, 0.0005))]).is_passed
        False
        >>> check_recent_labels([("v4", ContradictionResult(30, 5, 3.1, 0.2))]).is_passed
        True
    """
    if not windows:
        return GateVerdict(True, "", {})
    since_version, strongest = min(windows, key=lambda window: window[1].p_value)
    evidence: dict[str, Any] = {
        "since": since_version,
        "labels": strongest.images,
        "contradicting": strongest.contradicted,
        "expected": round(strongest.expected, 2),
        "chance": round(strongest.p_value, 4),
        "windows": {name: round(window_result.p_value, 4) for name, window_result in windows},
    }
    if strongest.p_value > CONTRADICTION_SIGNIFICANCE:
        return GateVerdict(True, "", evidence)
    explanation = (
        f"{strongest.contradicted} of the {strongest.images} labels given since {since_version} contradict what it had "
        f"learned before them, where about {strongest.expected:.0f} are to be expected"
        if evidence_kind == "answers"
        else f"on the {strongest.images} images labeled since {since_version} people deny {strongest.contradicted} of "
        f"its finds, where about {strongest.expected:.0f} are to be expected"
    )
    return GateVerdict(
        False,
        f"Held back: {explanation}; look through them (prelabel label-errors), or promote it anyway.",
        evidence,
    )


def combine_verdicts(verdicts: Sequence[GateVerdict]) -> GateVerdict:
    """The verdict of several controls or lines of evidence: one that holds back is enough."""
    evidence = {str(i): verdict.evidence for i, verdict in enumerate(verdicts)}
    failing = [verdict for verdict in verdicts if not verdict.is_passed]
    reasons = [verdict.reason for verdict in failing or verdicts if verdict.reason]
    return GateVerdict(not failing, " ".join(reasons), evidence)


def mid_p(lost: int, trials: int) -> float:
    """The chance of at least so many losses when both were equally likely, ties counted half.

    Example:
        >>> mid_p(3, 3), mid_p(1, 2)
        (0.0625, 0.5)
    """
    more_extreme = sum(comb(trials, k) for k in range(lost + 1, trials + 1))
    return float((more_extreme + comb(trials, lost) / 2) / 2**trials)


def _f1_with_residuals(counts: npt.ArrayLike) -> tuple[float, Doubles]:
    """F1 of (n, 3) right, found, there; and what each image adds to its deviation, (n,)."""
    rows = np.asarray(counts, dtype=np.float64).reshape(-1, 3)
    numerators, denominators = 2 * rows[:, 0], rows[:, 1] + rows[:, 2]
    if not denominators.sum():
        return 1.0, np.zeros(len(rows))
    f1_value = float(numerators.sum() / denominators.sum())
    return f1_value, (numerators - f1_value * denominators) / denominators.sum()
