"""Which predictions become annotations without a person: those whose error bound is proven.

The proof rests on the audit slice alone, whose images nobody chose and no version learned from.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from backend.learning.audit import hash_rank, interleave
from backend.learning.thresholds import SURE

TO_PEOPLE = 0.1
"""Share of what could be accepted that goes to people all the same."""
STEPS = 20
"""Parts in which the less sure half of the audit slice is added."""
CHANCE = 1 - SURE
"""That a project's promise is ever broken, over all its versions."""
SPENT = 0.3
"""Share of what is left of CHANCE that one look at the audit slice may cost."""
AGAIN = 1.5
"""Times as many audit labels until a bound that was not proven is looked at anew."""
KEPT = 60
"""Checks that count; older ones tell of older versions."""
FAR = 4.0
"""Times the bound: up to there errors are looked for first when it is asked whether it broke."""


@dataclass(frozen=True)
class Look:
    """A version whose level was asked of the audit slice.

    Attributes:
        audit: labeled audit images then.
        chance: that a level is found although the bound does not hold; what the look could cost.
        proven: whether a level was found.
    """

    audit: int
    chance: float
    proven: bool


@dataclass(frozen=True)
class Level:
    """From which confidence on answers are accepted.

    Attributes:
        value: the confidence, 0 to 1; None: nothing is accepted.
        reason: a sentence for people.
        missing: audit labels still needed before anything can be proven.
        proven: upper bound of the share of wrong answers above it, with confidence 1 − chance.
        images: audit images above it.
        chance: as :class:`Look` has it; 0: the audit slice was not asked.
    """

    value: float | None
    reason: str
    missing: int = 0
    proven: float = 1.0
    images: int = 0
    chance: float = 0.0


def needed(error: float, chance: float = CHANCE) -> int:
    """Audit labels without a single error that prove a bound.

    Args:
        error: the bound, above 0 and below 1.
        chance: that it is proven although it does not hold. A single look in a project's life may
            take all of CHANCE; the first of many takes SPENT of it.

    Example:
        >>> needed(0.05), needed(0.02), needed(0.01)
        (59, 149, 299)
        >>> needed(0.05, SPENT * CHANCE), needed(0.02, SPENT * CHANCE)
        (82, 208)
    """
    return math.ceil(round(math.log(chance) / math.log(1 - error), 9))


def look(
    confidence: npt.ArrayLike,
    right: npt.ArrayLike,
    error: float,
    looks: Sequence[Look] = (),
    until: int = 0,
) -> Level:
    """The level of a new version, so that a project keeps its promise over all its versions.

    What is accepted stays, so one wrong level breaks the promise for ever, and every version is
    another chance for that. All looks of a project share CHANCE (online fallback, Tian and Ramdas
    2021, arXiv 1910.04900): each may take SPENT of what is left; one that proves a level costs
    nothing, one that does not has used it up. After such a one the audit slice is asked again only
    when it has grown by half.

    Args:
        confidence: (n,) of the version's answers to the labeled audit tasks, 0 to 1.
        right: (n,) bool.
        error: the bound, above 0 and below 1.
        looks: at the versions before, oldest first.
        until: audit labels that are needed for another reason.
    """
    in_vain = [one for one in looks if not one.proven]
    chance = SPENT * (CHANCE - sum(one.chance for one in in_vain))
    before = max((one.audit for one in in_vain), default=0)
    least = max(needed(error, chance), after(before), until)
    many = len(np.asarray(confidence))
    if many < least:
        failed = f" It was not proven on {before}." if before else ""
        return Level(None, _missing(error, least, many) + failed, missing=least - many)
    return replace(level(confidence, right, error, chance), chance=chance)


def after(audit: int) -> int:
    """Audit labels from which on a bound is looked at anew that so many did not prove.

    Example:
        >>> after(82), after(0)
        (123, 0)
    """
    return math.ceil(AGAIN * audit)


def level(
    confidence: npt.ArrayLike, right: npt.ArrayLike, error: float, chance: float = CHANCE
) -> Level:
    """The lowest confidence above which the share of wrong answers is proven to be small.

    Fixed sequence testing (Learn then Test, Angelopoulos et al. 2021, arXiv 2110.01052): the surest
    half of the audit slice first, then the rest in STEPS parts, until a bound fails. Sizes depend
    on nobody's answer, so that P(share of wrong answers above the level > error) ≤ chance holds
    although the level is chosen on the same images. Equal confidences (every image without a find
    has the same) are counted together: whoever accepts one of them accepts all.

    It holds for one version; see :func:`look` for all of them.

    Args:
        confidence: (n,) of the version's answers to the labeled audit tasks, 0 to 1.
        right: (n,) bool.
        error: the bound, above 0 and below 1.
        chance: that a level is found although the bound does not hold, 0 to 1.
    """
    order = np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")
    sure, wrong = np.asarray(confidence, dtype=np.float64)[order], ~np.asarray(right, bool)[order]
    least, many = needed(error, chance), len(order)
    if many < least:
        return Level(None, _missing(error, least, many), missing=least - many)
    found = Level(
        None, f"The surest answers are not proven to be wrong in at most {error:.0%} of all cases."
    )
    for size in _sizes(sure, least):
        bound = _upper(int(wrong[:size].sum()), size, chance)
        if bound > error:
            break
        found = Level(
            float(sure[size - 1]),
            f"On {size} audit images above this confidence {int(wrong[:size].sum())} answers are "
            f"wrong: at most {bound:.1%} of all are, with {1 - chance:.1%} confidence.",
            proven=round(bound, 4),
            images=size,
        )
    return found


def for_people(project: str, task: int) -> bool:
    """Whether a task goes to people although its answer could be accepted; for ever the same."""
    return hash_rank(f"{project}/people", task) < TO_PEOPLE


@dataclass
class Checks:
    """Tasks that could have been accepted and go to people: one place in ten of the queue.

    The model is sure of them, so that by the policy's order nobody would ever see them; and who is
    seen must be a random share, not the least sure of them.

    Attributes:
        project: its identity.
        waiting: open ones.
        labeled: tasks that people labeled since there are any.
        done: those among them that were checks.
    """

    project: str = ""
    waiting: set[int] = field(default_factory=set)
    labeled: int = 0
    done: int = 0

    def among(self, order: Sequence[int]) -> list[int]:
        """An order with those that wait at their places; by hash among themselves."""
        here = [task for task in order if task in self.waiting]
        here.sort(key=lambda task: hash_rank(f"{self.project}/check", task))
        others = [task for task in order if task not in self.waiting]
        return interleave(others, here, self.labeled, self.done) if here else others

    def learned(self, tasks: Collection[int]) -> None:
        """Somebody labeled tasks."""
        self.labeled += len(tasks)
        self.done += len(self.waiting.intersection(tasks))
        self.waiting.difference_update(tasks)


def broken(right: Sequence[bool], error: float) -> str:
    """Whether what people answered above the level shows that the bound does not hold.

    It is asked after every round, so a test for one look would call a kept bound broken again and
    again. The evidence is the likelihood of errors between the bound and FAR times the bound, all
    alike, against the bound itself: that it ever exceeds 1 / CHANCE if the bound holds has at most
    the probability CHANCE (Ville's inequality; Robbins 1970 for the mixture).

    Args:
        right: of answers above the level, whether a person gave the same, oldest first; the
            latest KEPT count.
        error: the bound.

    Returns:
        a sentence where the bound is shown not to hold; empty otherwise.

    Example:
        >>> bool(broken([True] * 15 + [False] * 5, 0.05)), bool(broken([True] * 4 + [False], 0.05))
        (True, False)
    """
    from scipy.special import betainc, betaln

    counted = list(right)[-KEPT:]
    wrong, many = sum(not one for one in counted), len(counted)
    far = min(1.0, FAR * error)
    a, b = wrong + 1, many - wrong + 1
    inside = float(betainc(a, b, far) - betainc(a, b, error))
    likely = math.log(max(inside, 1e-300)) + float(betaln(a, b)) - math.log(far - error)
    if likely - wrong * math.log(error) - (many - wrong) * math.log(1 - error) < -math.log(CHANCE):
        return ""
    return (
        f"People corrected {wrong} of {many} answers that were accepted or would have been, too "
        f"many for at most {error:.0%} errors."
    )


def _missing(error: float, least: int, many: int) -> str:
    return (
        f"Accepting with at most {error:.0%} errors needs {least} labeled audit images, of which "
        f"{least - many} are missing."
    )


def _upper(wrong: int, many: int, chance: float) -> float:
    """Upper end of Clopper and Pearson's one-sided interval of a share."""
    from scipy.special import betaincinv

    return float(betaincinv(wrong + 1, many - wrong, 1 - chance)) if wrong < many else 1.0


def _sizes(sure: npt.NDArray[np.float64], least: int) -> list[int]:
    """How many of the surest are looked at, one after another; equal ones all at once.

    Args:
        sure: (n,) confidence, falling.
        least: images, at most n.
    """
    many = len(sure)
    first = max(least, (many + 1) // 2)
    steps = {round(first + (many - first) * i / STEPS) for i in range(STEPS + 1)}
    return sorted({int(np.searchsorted(-sure, -sure[step - 1], side="right")) for step in steps})
