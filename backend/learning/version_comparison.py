"""Statistical tests of the quality gate: is a new version significantly worse than the live one?

Two tests are used. A paired comparison on the audit set detects a general loss of accuracy, but the
audit set is too small to reveal a few wrong labels. So a second test checks whether the recent
labels contradict a model trained on earlier ones, as random or swapped labels do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from backend.arrays import Doubles
from backend.estimate import MIN_FIGURE_IMAGES
from backend.learning.contradiction import ContradictionResult
from backend.learning.intervals import (
    mid_p,
    ratio_of_sums,
    student_quantile,
    variance_from_residuals,
)

GATE_SIGNIFICANCE = 0.1
"""p-value up to which a new version counts as worse than the live one."""
PAST_VERSION_SIGNIFICANCE = 0.02
"""The same for the best earlier version; lower, because it was selected for its good result."""
MIN_DIFFERING_IMAGES = 3
"""Minimum number of images on which two detectors must differ: two losses occur by chance with a
mid-p of 1 in 8, even if the estimated variance is small because all other images are equal."""
CONTRADICTION_SIGNIFICANCE = 0.01
"""p-value up to which recent labels contradict the model; low, because every round tests several
windows of labels."""


@dataclass(frozen=True)
class GateVerdict:
    """The decision whether a version may go live.

    Attributes:
        is_passed: whether it may go live.
        reason: explanation for people.
        evidence: the test statistics, as JSON.
    """

    is_passed: bool
    reason: str
    evidence: Mapping[str, object]


def compare_label_sets(
    live_correct: Sequence[bool],
    new_correct: Sequence[bool],
    live_name: str = "the live version",
    significance: float = GATE_SIGNIFICANCE,
) -> GateVerdict:
    """Compare two classifiers on the audit images, by McNemar's test (one-sided, mid-p).

    Args:
        live_correct: for each audit image, whether the live (or an earlier) version is correct.
        new_correct: the same for the new version.
        live_name: name of the live or earlier version in the message.
        significance: p-value up to which the new version counts as worse.

    Example:
        >>> compare_label_sets([True] * 9, [True] * 4 + [False] * 5).is_passed
        False
        >>> compare_label_sets([True] * 9, [True] * 8 + [False]).is_passed
        True
    """
    live, new = np.asarray(live_correct, dtype=bool), np.asarray(new_correct, dtype=bool)
    lost, won = int((live & ~new).sum()), int((new & ~live).sum())
    p_value = mid_p(lost, lost + won)
    evidence = {"images": len(live), "lost": lost, "won": won, "chance": round(p_value, 4)}
    if not len(live):
        return GateVerdict(True, "No audit image is labeled yet to compare versions on.", evidence)
    image_count = f"{len(live)} audit image{'' if len(live) == 1 else 's'}"
    comparison = (
        f"of the same {image_count} it predicts {int(new.sum())} correctly, and {live_name} "
        f"{int(live.sum())}"
    )
    if lost > won and p_value <= significance:
        return GateVerdict(
            False,
            f"Held back: {comparison}; equal versions differ like that ({lost} lost, {won} won) "
            f"with a probability of {p_value:.0%}.",
            evidence,
        )
    return GateVerdict(True, f"Not shown to be worse: {comparison}.", evidence)


def compare_detections(
    live_counts: npt.ArrayLike,
    new_counts: npt.ArrayLike,
    live_name: str = "the live version",
    image_noun: str = "audit images",
) -> GateVerdict:
    """Compare the F1 of two detectors on the same images.

    The variance of the difference of two ratios of sums is that of the difference of their
    linearised residuals (Cochran 1977, section 6.4). Student's quantile is used because the
    variance is estimated from few images: the normal quantile held back 21 % of equal detectors on
    two images and 13 % on five.

    Args:
        live_counts: (n, 3) for each image: true positives, detections and objects.
        new_counts: the same for the new version.
        live_name: name of the live version in the message.
        image_noun: name of the images in the message.
    """
    live_f1, live_residuals = _f1_with_residuals(live_counts)
    new_f1, new_residuals = _f1_with_residuals(new_counts)
    n = len(live_residuals)
    evidence: dict[str, object] = {"images": n, "live": round(live_f1, 4), "new": round(new_f1, 4)}
    if n < 2:
        return GateVerdict(True, f"Too few {image_noun} are labeled to compare versions.", evidence)
    standard_error = math.sqrt(variance_from_residuals(new_residuals - live_residuals))
    evidence["spread"] = round(standard_error, 4)
    comparison = (
        f"on the same {n} {image_noun} its F1 is {new_f1:.0%} and that of {live_name} {live_f1:.0%}"
    )
    differing_images = int((np.asarray(live_counts) != np.asarray(new_counts)).any(axis=1).sum())
    limit = live_f1 - student_quantile(n - 1, 1 - GATE_SIGNIFICANCE) * standard_error
    if differing_images >= MIN_DIFFERING_IMAGES and new_f1 < limit:
        margin = student_quantile(n - 1) * standard_error
        reason = f"Held back: {comparison} (the difference is uncertain by ± {margin:.0%})."
        return GateVerdict(False, reason, evidence)
    if n < MIN_FIGURE_IMAGES:
        comparison = f"{n} {image_noun} are too few to compare the F1"
    return GateVerdict(True, f"Not shown to be worse: {comparison}.", evidence)


def check_recent_labels(
    windows: Sequence[tuple[str, ContradictionResult]],
    evidence_kind: Literal["answers", "detections"] = "answers",
) -> GateVerdict:
    """Check whether recent labels contradict a version, by the window with the lowest p-value.

    Args:
        windows: for each earlier version, its name and the test of all labels since then; the live
            version first.
        evidence_kind: whether answers contradict the version, or people reject its detections.

    Example:
        >>> check_recent_labels([("v4", ContradictionResult(30, 12, 3.1, 0.0005))]).is_passed
        False
        >>> check_recent_labels([("v4", ContradictionResult(30, 5, 3.1, 0.2))]).is_passed
        True
    """
    if not windows:
        return GateVerdict(True, "", {})
    since_version, strongest = min(windows, key=lambda window: window[1].p_value)
    evidence: dict[str, object] = {
        "since": since_version,
        "labels": strongest.images,
        "contradicting": strongest.contradicted,
        "expected": round(strongest.expected, 2),
        "chance": round(strongest.p_value, 4),
        "windows": {name: round(result.p_value, 4) for name, result in windows},
    }
    if strongest.p_value > CONTRADICTION_SIGNIFICANCE:
        return GateVerdict(True, "", evidence)
    explanation = (
        f"{strongest.contradicted} of the {strongest.images} labels given since {since_version} "
        "contradict its predictions"
        if evidence_kind == "answers"
        else f"on the {strongest.images} images labeled since {since_version} people reject "
        f"{strongest.contradicted} of its detections"
    )
    reason = (
        f"Held back: {explanation}, where about {strongest.expected:.0f} are expected. Check "
        "them with prelabel label-errors, or promote the version anyway."
    )
    return GateVerdict(False, reason, evidence)


def combine_verdicts(verdicts: Sequence[GateVerdict]) -> GateVerdict:
    """Combine the verdicts on the controls of a version; all must pass."""
    evidence = {str(i): verdict.evidence for i, verdict in enumerate(verdicts)}
    failing = [verdict for verdict in verdicts if not verdict.is_passed]
    reasons = [verdict.reason for verdict in failing or verdicts if verdict.reason]
    return GateVerdict(not failing, " ".join(reasons), evidence)


def _f1_with_residuals(counts: npt.ArrayLike) -> tuple[float, Doubles]:
    """Return F1 and its linearised residuals, (n,); F1 is 1 without objects and detections."""
    correct, predicted, actual = np.asarray(counts, dtype=np.float64).reshape(-1, 3).T
    if not (predicted + actual).sum():
        return 1.0, np.zeros(len(correct))
    value, residuals = ratio_of_sums(2 * correct, predicted + actual)
    return float(value), residuals
