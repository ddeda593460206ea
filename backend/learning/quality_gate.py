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
from backend.learning.contradiction import Contradiction

WORSE = 0.1
"""Chance of such a difference between equal versions below which the new one counts as worse."""
LUCKY = 0.02
"""The same for a comparison with the best of many earlier versions, of which one was lucky."""
DIFFER = 3
"""Images that tell two finders apart at least: two that both lose are chance (1 in 8, ties halved),
whatever the spread over images that are all alike seems to say."""
CONTRADICTING = 0.01
"""Chance of so much contradiction among the latest labels up to which they are not trusted: low,
because several windows are looked at and every round looks again."""


@dataclass(frozen=True)
class Verdict:
    """Whether a version goes live, and why.

    Attributes:
        promote: it does.
        reason: a sentence for people.
        evidence: the numbers behind it, as plain JSON.
    """

    promote: bool
    reason: str
    evidence: dict[str, Any]


def compare_answers(
    live: Sequence[bool], new: Sequence[bool], name: str = "the live version", worse: float = WORSE
) -> Verdict:
    """McNemar's test on the images that only one of two versions gets right, one-sided, mid-p.

    Args:
        live: by audit image, whether the live version is right, or another that was live.
        new: the same of the new version, in the same order.
        name: what the other one is called.
        worse: chance between equal versions up to which the new one counts as worse.

    Example:
        >>> compare_answers([True] * 9, [True] * 4 + [False] * 5).promote
        False
        >>> compare_answers([True] * 9, [True] * 8 + [False]).promote
        True
    """
    one, two = np.asarray(live, dtype=bool), np.asarray(new, dtype=bool)
    lost, won = int((one & ~two).sum()), int((two & ~one).sum())
    chance = mid_p(lost, lost + won)
    evidence = {"images": len(one), "lost": lost, "won": won, "chance": round(chance, 4)}
    if not len(one):
        return Verdict(True, "No audit image is labeled yet that could speak against it.", evidence)
    told = (
        f"on the same {len(one)} audit images it is right {int(two.sum())} times and {name} "
        f"{int(one.sum())} times"
    )
    if lost > won and chance <= worse:
        odds = f"were they equal, {lost} lost and {won} won would have a chance of {chance:.0%}"
        return Verdict(False, f"Held back: {told}; {odds}.", evidence)
    return Verdict(True, f"Not shown to be worse: {told}.", evidence)


def compare_finds(
    live: npt.ArrayLike,
    new: npt.ArrayLike,
    name: str = "the live version",
    images: str = "audit images",
) -> Verdict:
    """The difference of two F1 on the same images, by its linearised variance.

    F1 = 2 · right / (found + there) is a ratio of sums over images; the difference of two such
    ratios has the variance of the differences of their linearised terms (Cochran 1977, 6.4). Few
    images tell it badly, hence Student's quantile: the normal one held back 21 % of equal detectors
    on two images and 13 % on five.

    Args:
        live: (n, 3) by audit image: right, found, there; of the live version.
        new: the same of the new version.
        name: what the live version is called.
        images: what they are called.
    """
    from scipy.stats import t as student

    one, terms_one = _f1(live)
    two, terms_two = _f1(new)
    count = len(np.asarray(live))
    evidence: dict[str, Any] = {"images": count, "live": round(one, 4), "new": round(two, 4)}
    if count < 2:
        return Verdict(True, f"Too few {images} are labeled to speak against it.", evidence)
    spread = float(np.sqrt(((terms_two - terms_one) ** 2).sum() * count / (count - 1)))
    evidence["spread"] = round(spread, 4)
    told = f"on the same {count} {images} its F1 is {two:.0%} and that of {name} {one:.0%}"
    differ = int((np.asarray(live) != np.asarray(new)).any(axis=1).sum())
    if differ >= DIFFER and two < one - float(student.ppf(1 - WORSE, count - 1)) * spread:
        margin = float(student.ppf(0.975, count - 1)) * spread
        return Verdict(
            False, f"Held back: {told} (the difference is known to ± {margin:.0%}).", evidence
        )
    return Verdict(True, f"Not shown to be worse: {told}.", evidence)


def trusted(windows: Sequence[tuple[str, Contradiction]], what: str = "answers") -> Verdict:
    """Whether the labels that came lately can be believed; by the most telling of some windows.

    Args:
        windows: each the labels that came since a version, and that version's name; the first is
            the live one.
        what: contradicts, in words: answers, or finds that people deny.

    Example:
        >>> trusted([("v4", Contradiction(30, 12, 3.1, 0.0005))]).promote
        False
        >>> trusted([("v4", Contradiction(30, 5, 3.1, 0.2))]).promote
        True
    """
    if not windows:
        return Verdict(True, "", {})
    since, found = min(windows, key=lambda window: window[1].chance)
    evidence: dict[str, Any] = {
        "since": since,
        "labels": found.images,
        "contradicting": found.against,
        "expected": round(found.expected, 2),
        "chance": round(found.chance, 4),
        "windows": {name: round(one.chance, 4) for name, one in windows},
    }
    if found.chance > CONTRADICTING:
        return Verdict(True, "", evidence)
    told = (
        f"{found.against} of the {found.images} labels given since {since} contradict what it had "
        f"learned before them, where about {found.expected:.0f} are to be expected"
        if what == "answers"
        else f"on the {found.images} images labeled since {since} people deny {found.against} of "
        f"its finds, where about {found.expected:.0f} are to be expected"
    )
    return Verdict(
        False,
        f"Held back: {told}; look through them (prelabel label-errors), or promote it anyway.",
        evidence,
    )


def all_of(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict of several controls or lines of evidence: one that holds back is enough."""
    evidence = {str(i): verdict.evidence for i, verdict in enumerate(verdicts)}
    held = [verdict for verdict in verdicts if not verdict.promote]
    said = [verdict.reason for verdict in held or verdicts if verdict.reason]
    return Verdict(not held, " ".join(said), evidence)


def mid_p(lost: int, trials: int) -> float:
    """The chance of at least so many losses when both were equally likely, ties counted half.

    Example:
        >>> mid_p(3, 3), mid_p(1, 2)
        (0.0625, 0.5)
    """
    more = sum(comb(trials, k) for k in range(lost + 1, trials + 1))
    return float((more + comb(trials, lost) / 2) / 2**trials)


def _f1(counts: npt.ArrayLike) -> tuple[float, Doubles]:
    """F1 of (n, 3) right, found, there; and what each image adds to its deviation, (n,)."""
    rows = np.asarray(counts, dtype=np.float64).reshape(-1, 3)
    top, whole = 2 * rows[:, 0], rows[:, 1] + rows[:, 2]
    if not whole.sum():
        return 1.0, np.zeros(len(rows))
    value = float(top.sum() / whole.sum())
    return value, (top - value * whole) / whole.sum()
