"""Whether a new version may go live: not where it is shown to be worse than the live one.

Two lines of evidence. The first is a paired comparison on the same audit images. While these are
few it can hardly show anything, so a second one asks whether the labels that came since the live
version contradict all others: people who suddenly answer differently, or at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]
WORSE = 0.1
"""Chance of such a difference between equal versions below which the new one counts as worse."""
CONTRADICTING = 0.02
"""Chance of so many contradictions among the new labels below which they are not trusted."""
ENOUGH = 50
"""Audit images from which on the first line of evidence stands alone."""
UNLIKELY = 0.05
"""Confidence below which a label counts as all but impossible."""
SLIPS = 0.01
"""Share of answers that people give at random, whatever the model believes."""


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


def compare_answers(live: Sequence[bool], new: Sequence[bool], name: str = "") -> Verdict:
    """McNemar's test on the images that only one of two versions gets right, one-sided, mid-p.

    Args:
        live: by audit image, whether the live version is right.
        new: the same of the new version, in the same order.
        name: of the live version.

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
        f"on the same {len(one)} audit images it is right {int(two.sum())} times and the live "
        f"version{' ' + name if name else ''} {int(one.sum())} times"
    )
    if lost > won and chance <= WORSE:
        odds = f"were they equal, {lost} lost and {won} won would have a chance of {chance:.0%}"
        return Verdict(False, f"Held back: {told}; {odds}.", evidence)
    return Verdict(True, f"Not shown to be worse: {told}.", evidence)


def compare_finds(
    live: npt.ArrayLike, new: npt.ArrayLike, name: str = "", images: str = "audit images"
) -> Verdict:
    """The difference of two F1 on the same images, by its linearised variance.

    F1 = 2 · right / (found + there) is a ratio of sums over images; the difference of two such
    ratios has the variance of the differences of their linearised terms (Cochran 1977, 6.4). Few
    images tell it badly, hence Student's quantile: the normal one held back 21 % of equal detectors
    on two images and 13 % on five.

    Args:
        live: (n, 3) by audit image: right, found, there; of the live version.
        new: the same of the new version.
        name: of the live version.
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
    told = (
        f"on the same {count} {images} its F1 is {two:.0%} and that of the live version"
        f"{' ' + name if name else ''} {one:.0%}"
    )
    if two < one - float(student.ppf(1 - WORSE, count - 1)) * spread:
        margin = float(student.ppf(0.975, count - 1)) * spread
        return Verdict(
            False, f"Held back: {told} (the difference is known to ± {margin:.0%}).", evidence
        )
    return Verdict(True, f"Not shown to be worse: {told}.", evidence)


def trust(before: tuple[int, int], since: tuple[int, int], audit: int) -> Verdict:
    """Whether labels that came since the live version contradict far more than those before.

    A label contradicts when a head that saw neither it nor a copy of it says otherwise. Both
    counts are of images that were chosen to be hard, so they are alike where people are. Fisher's
    exact test, one-sided.

    Args:
        before: of the labels that the live version saw: how many contradict, of how many.
        since: of those that came or changed after.
        audit: labeled audit images; with many the first line of evidence decides alone.

    Example:
        >>> trust((6, 60), (14, 40), audit=8).promote
        False
        >>> trust((6, 60), (6, 40), audit=8).promote
        True
    """
    from scipy.stats import hypergeom

    (bad, many), (new_bad, new) = before, since
    evidence: dict[str, Any] = {"before": list(before), "since": list(since)}
    if not many or not new or audit >= ENOUGH:
        return Verdict(True, "", evidence)
    chance = float(hypergeom.sf(new_bad - 1, many + new, bad + new_bad, new))
    evidence |= {"chance": round(chance, 4)}
    if chance > CONTRADICTING:
        return Verdict(True, "", evidence)
    reason = (
        f"Held back: {new_bad} of the {new} labels given since the live version contradict all "
        f"others, {bad} of {many} did before; look through them (prelabel label-errors), or "
        "promote it anyway."
    )
    return Verdict(False, reason, evidence)


@dataclass(frozen=True)
class Unlikely:
    """By image, how likely a label below UNLIKELY was, and whether a person gave one.

    Attributes:
        chance: (n,) 0 to 1, by the belief of a model that never saw the image's label.
        given: (n,) bool.
    """

    chance: Numbers
    given: Bools

    @classmethod
    def of_one(cls, belief: npt.ArrayLike, answers: Sequence[int]) -> Unlikely:
        """Of answers with one label each.

        Args:
            belief: (n, K) confidence; rows sum to 1.
            answers: (n,) column of the label that a person gave, which the model knew.

        Example:
            >>> Unlikely.of_one([[0.98, 0.01, 0.01], [0.6, 0.4, 0.0]], [1, 1]).given.tolist()
            [True, False]
        """
        p = np.asarray(belief, dtype=np.float64)
        p = (1 - SLIPS) * p + SLIPS / max(1, p.shape[1])
        low = p < UNLIKELY
        return cls((p * low).sum(axis=1), low[np.arange(len(p)), np.asarray(answers, dtype=int)])

    @classmethod
    def of_several(cls, belief: npt.ArrayLike, answers: npt.ArrayLike) -> Unlikely:
        """Of answers with several labels: whether any of them was unlikely.

        Args:
            belief: (n, K) confidence, 0 to 1 each.
            answers: (n, K) 1 chosen, 0 not, NaN nobody was asked or the model did not know it.

        Example:
            >>> Unlikely.of_several([[0.99, 0.5]], [[0, 1]]).given.tolist()
            [True]
        """
        p, said = np.asarray(belief, dtype=np.float64), np.asarray(answers, dtype=np.float64)
        p = (1 - SLIPS) * p + SLIPS / 2
        rarer = np.minimum(p, 1 - p)
        low = (rarer < UNLIKELY) & ~np.isnan(said)
        return cls(
            1 - np.prod(1 - rarer * low, axis=1), (low & ((said > 0.5) != (p > 0.5))).any(axis=1)
        )


def surprise(before: Unlikely, since: Unlikely) -> Verdict:
    """Whether people gave far more all but impossible labels since the live version than before.

    Images are chosen to be hard, and later ones harder, so that contradictions alone say little:
    what counts is what the model was sure would not be said. By its own belief the number of such
    labels is a sum of unequal coins (Poisson binomial); where it was too sure of the labels before,
    by more than one, all chances are larger by that factor. Needs no audit image.

    Args:
        before: of the labels that the live version learned from, out of fold.
        since: of those that came or changed after, by the live version itself. Leave out labels
            that it had no example of.

    Example:
        >>> sure = [[0.97, 0.01, 0.01, 0.01]] * 20
        >>> before = Unlikely.of_one(sure, [0] * 20)
        >>> surprise(before, Unlikely.of_one(sure, [0] * 20)).promote
        True
        >>> surprise(before, Unlikely.of_one(sure, [0] * 14 + [1] * 6)).promote
        False
    """
    evidence: dict[str, Any] = {"labels": len(since.given), "before": len(before.given)}
    if not len(since.given) or not len(before.given):
        return Verdict(True, "", evidence)
    seen, known = int(since.given.sum()), float(before.chance.sum())
    chances = np.minimum(1.0, since.chance * max(1.0, before.given.sum() / max(known, 1e-9)))
    chance = at_least(chances, seen)
    expected = float(chances.sum())
    evidence |= {"unlikely": seen, "expected": round(expected, 2), "chance": round(chance, 4)}
    if chance > CONTRADICTING:
        return Verdict(True, "", evidence)
    reason = (
        f"Held back: the live version had called {seen} of the {len(since.given)} labels given "
        f"since all but impossible (below {UNLIKELY:.0%}), where {expected:.1f} are to be expected;"
        " look through them (prelabel label-errors), or promote it anyway."
    )
    return Verdict(False, reason, evidence)


def at_least(chances: npt.ArrayLike, seen: int) -> float:
    """The chance that at least so many of unequal coins show heads (Poisson binomial, exact).

    Args:
        chances: (n,) of each coin, 0 to 1.
        seen: how many.

    Example:
        >>> at_least([0.5, 0.5], 1), at_least([0.1, 0.2], 0)
        (0.75, 1.0)
    """
    heads = np.ones(1)
    for chance in np.asarray(chances, dtype=np.float64):
        heads = np.convolve(heads, [1 - chance, chance])
    return float(min(1.0, heads[seen:].sum()))


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


def _f1(counts: npt.ArrayLike) -> tuple[float, Numbers]:
    """F1 of (n, 3) right, found, there; and what each image adds to its deviation, (n,)."""
    rows = np.asarray(counts, dtype=np.float64).reshape(-1, 3)
    top, whole = 2 * rows[:, 0], rows[:, 1] + rows[:, 2]
    if not whole.sum():
        return 1.0, np.zeros(len(rows))
    value = float(top.sum() / whole.sum())
    return value, (top - value * whole) / whole.sum()
