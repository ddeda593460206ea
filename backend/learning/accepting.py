"""Which predictions become annotations without a person: those whose error bound is proven.

The proof rests on the audit slice alone, whose images nobody chose and no version learned from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backend.learning.audit import hash_rank
from backend.learning.thresholds import SURE, upper

TO_PEOPLE = 0.1
"""Share of what could be accepted that goes to people all the same."""
STEPS = 20
"""Parts in which the less sure half of the audit slice is added."""


@dataclass(frozen=True)
class Level:
    """From which confidence on answers are accepted.

    Attributes:
        value: the confidence, 0 to 1; None: nothing is accepted.
        reason: a sentence for people.
        missing: audit labels still needed before anything can be proven.
        proven: upper bound of the share of wrong answers above it, with 95 % confidence.
        images: audit images above it.
    """

    value: float | None
    reason: str
    missing: int = 0
    proven: float = 1.0
    images: int = 0


def needed(error: float) -> int:
    """Audit labels without a single error that prove a bound: 59 for 5 %, 149 for 2 %.

    Example:
        >>> needed(0.05), needed(0.02), needed(0.01)
        (59, 149, 299)
    """
    return math.ceil(math.log(1 - SURE) / math.log(1 - error))


def level(confidence: npt.ArrayLike, right: npt.ArrayLike, error: float) -> Level:
    """The lowest confidence above which the share of wrong answers is proven to be small.

    Fixed sequence testing (Learn then Test, Angelopoulos et al. 2021, arXiv 2110.01052): the surest
    half of the audit slice first, then the rest in STEPS parts, until a bound fails. Sizes depend
    on nobody's answer, so that P(share of wrong answers above the level > error) ≤ 5 % holds
    although the level is chosen on the same images. Equal confidences (every image without a find
    has the same) are counted together: whoever accepts one of them accepts all.

    It holds for each version. Over many rounds a version that errs just above the bound has several
    chances; versions agree on most images, so these are few (benchmarks/promises.py measures them).

    Args:
        confidence: (n,) of the version's answers to the labeled audit tasks, 0 to 1.
        right: (n,) bool.
        error: the bound, above 0 and below 1.
    """
    order = np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")
    sure, wrong = np.asarray(confidence, dtype=np.float64)[order], ~np.asarray(right, bool)[order]
    least, many = needed(error), len(order)
    if many < least:
        return Level(
            None,
            f"Accepting with at most {error:.0%} errors needs {least} labeled audit images, of "
            f"which {least - many} are missing.",
            missing=least - many,
        )
    found = Level(
        None, f"The surest answers are not proven to be wrong in at most {error:.0%} of all cases."
    )
    for size in _sizes(sure, least):
        bound = float(upper(int(wrong[:size].sum()), size))
        if bound > error:
            break
        found = Level(
            float(sure[size - 1]),
            f"On {size} audit images above this confidence {int(wrong[:size].sum())} answers are "
            f"wrong: at most {bound:.1%} of all are, with 95 % confidence.",
            proven=round(bound, 4),
            images=size,
        )
    return found


def for_people(project: str, task: int) -> bool:
    """Whether a task goes to people although its answer could be accepted; for ever the same."""
    return hash_rank(f"{project}/people", task) < TO_PEOPLE


def broken(right: Sequence[bool], error: float) -> str:
    """Whether what people answered above the level shows that the bound does not hold.

    Args:
        right: of tasks above the level that people answered, whether the model was right.
        error: the bound.

    Returns:
        a sentence where so many errors would have a chance of at most 5 % if the bound held;
        empty otherwise.

    Example:
        >>> bool(broken([True] * 16 + [False] * 4, 0.05)), bool(broken([True] * 19 + [False], 0.05))
        (True, False)
    """
    from scipy.stats import binom

    wrong, many = sum(not one for one in right), len(right)
    if not many or float(binom.sf(wrong - 1, many, error)) > 1 - SURE:
        return ""
    return (
        f"People corrected {wrong} of {many} answers that would have been accepted, too many for "
        f"at most {error:.0%} errors: nothing is accepted until a better version is live."
    )


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
