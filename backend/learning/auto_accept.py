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
from backend.learning.thresholds import BOUND_CONFIDENCE

REVIEW_SHARE = 0.1
"""Share of what could be accepted that goes to people all the same."""
SEQUENTIAL_STEP_COUNT = 20
"""Parts in which the less sure half of the audit slice is added."""
TOTAL_ALPHA = 1 - BOUND_CONFIDENCE
"""That a project's promise is ever broken, over all its versions."""
ALPHA_SPENDING_RATE = 0.3
"""Share of what is left of CHANCE that one look at the audit slice may cost."""
RETEST_GROWTH_FACTOR = 1.5
"""Times as many audit labels until a bound that was not proven is looked at anew."""
CHECK_WINDOW_SIZE = 60
"""Checks that count; older ones tell of older versions."""
ALTERNATIVE_ERROR_FACTOR = 4.0
"""Times the bound: up to there errors are looked for first when it is asked whether it broke."""


@dataclass(frozen=True)
class ThresholdTest:
    """A version whose level was asked of the audit slice.

    Attributes:
        audit_labels: labeled audit images then.
        alpha: that a level is found although the bound does not hold; what the look could cost.
        passed: whether a level was found.
    """

    audit_labels: int
    alpha: float
    passed: bool


@dataclass(frozen=True)
class AcceptThreshold:
    """From which confidence on answers are accepted.

    Attributes:
        value: the confidence, 0 to 1; None: nothing is accepted.
        reason: a sentence for people.
        missing_labels: audit labels still needed before anything can be proven.
        error_bound: upper bound of the share of wrong answers above it, with confidence 1 − chance.
        images: audit images above it.
        alpha: as :class:`ThresholdTest` has it; 0: the audit slice was not asked.
    """

    value: float | None
    reason: str
    missing_labels: int = 0
    error_bound: float = 1.0
    images: int = 0
    alpha: float = 0.0


def required_audit_labels(error: float, alpha: float = TOTAL_ALPHA) -> int:
    """Audit labels without a single error that prove a bound.

    Args:
        error: the bound, above 0 and below 1.
        alpha: that it is proven although it does not hold. A single look in a project's life may
            take all of CHANCE; the first of many takes SPENT of it.

    Example:
        >>> required_audit_labels(0.05), required_audit_labels(0.02), required_audit_labels(0.01)
        (59, 149, 299)
        >>> required_audit_labels(0.05, ALPHA_SPENDING_RATE * TOTAL_ALPHA), required_audit_labels(0.02, ALPHA_SPENDING_RATE * TOTAL_ALPHA)
        (82, 208)
    """
    return math.ceil(round(math.log(alpha) / math.log(1 - error), 9))


def find_budgeted_threshold(
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    error: float,
    past_tests: Sequence[ThresholdTest] = (),
    min_audit_labels: int = 0,
) -> AcceptThreshold:
    """The level of a new version, so that a project keeps its promise over all its versions.

    What is accepted stays, so one wrong level breaks the promise for ever, and every version is
    another chance for that. All looks of a project share CHANCE (online fallback, Tian and Ramdas
    2021, arXiv 1910.04900): each may take SPENT of what is left; one that proves a level costs
    nothing, one that does not has used it up. After such a one the audit slice is asked again only
    when it has grown by half.

    Args:
        confidence: (n,) of the version's answers to the labeled audit tasks, 0 to 1.
        correct: (n,) bool.
        error: the bound, above 0 and below 1.
        past_tests: at the versions before, oldest first.
        min_audit_labels: audit labels that are needed for another reason.
    """
    failed_tests = [past_test for past_test in past_tests if not past_test.passed]
    alpha = ALPHA_SPENDING_RATE * (TOTAL_ALPHA - sum(past_test.alpha for past_test in failed_tests))
    last_failed_size = max((past_test.audit_labels for past_test in failed_tests), default=0)
    min_labels = max(
        required_audit_labels(error, alpha), next_test_size(last_failed_size), min_audit_labels
    )
    label_count = len(np.asarray(confidence))
    if label_count < min_labels:
        retest_note = f" It was not proven on {last_failed_size}." if last_failed_size else ""
        return AcceptThreshold(
            None,
            _missing_labels_reason(error, min_labels, label_count) + retest_note,
            missing_labels=min_labels - label_count,
        )
    return replace(find_accept_threshold(confidence, correct, error, alpha), alpha=alpha)


def next_test_size(audit_labels: int) -> int:
    """Audit labels from which on a bound is looked at anew that so many did not prove.

    Example:
        >>> next_test_size(82), next_test_size(0)
        (123, 0)
    """
    return math.ceil(RETEST_GROWTH_FACTOR * audit_labels)


def find_accept_threshold(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, error: float, alpha: float = TOTAL_ALPHA
) -> AcceptThreshold:
    """The lowest confidence above which the share of wrong answers is proven to be small.

    Fixed sequence testing (Learn then Test, Angelopoulos et al. 2021, arXiv 2110.01052): the surest
    half of the audit slice first, then the rest in STEPS parts, until a bound fails. Sizes depend
    on nobody's answer, so that P(share of wrong answers above the level > error) ≤ chance holds
    although the level is chosen on the same images. Equal confidences (every image without a find
    has the same) are counted together: whoever accepts one of them accepts all.

    It holds for one version; see :func:`find_budgeted_threshold` for all of them.

    Args:
        confidence: (n,) of the version's answers to the labeled audit tasks, 0 to 1.
        correct: (n,) bool.
        error: the bound, above 0 and below 1.
        alpha: that a level is found although the bound does not hold, 0 to 1.
    """
    order = np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")
    sorted_confidence, is_wrong = (
        np.asarray(confidence, dtype=np.float64)[order],
        ~np.asarray(correct, bool)[order],
    )
    min_labels, label_count = required_audit_labels(error, alpha), len(order)
    if label_count < min_labels:
        return AcceptThreshold(
            None,
            _missing_labels_reason(error, min_labels, label_count),
            missing_labels=min_labels - label_count,
        )
    accept_threshold = AcceptThreshold(
        None, f"The surest answers are not proven to be wrong in at most {error:.0%} of all cases."
    )
    for size in _sequential_sizes(sorted_confidence, min_labels):
        bound = _upper_bound(int(is_wrong[:size].sum()), size, alpha)
        if bound > error:
            break
        accept_threshold = AcceptThreshold(
            float(sorted_confidence[size - 1]),
            f"On {size} audit images above this confidence {int(is_wrong[:size].sum())} answers are "
            f"wrong: at most {bound:.1%} of all are, with {1 - alpha:.1%} confidence.",
            error_bound=round(bound, 4),
            images=size,
        )
    return accept_threshold


def is_held_for_review(project: str, task: int) -> bool:
    """Whether a task goes to people although its answer could be accepted; for ever the same."""
    return hash_rank(f"{project}/people", task) < REVIEW_SHARE


@dataclass
class SpotChecks:
    """Tasks that could have been accepted and go to people: one place in ten of the queue.

    The model is sure of them, so that by the policy's order nobody would ever see them; and who is
    seen must be a random share, not the least sure of them.

    Attributes:
        project: its identity.
        pending: open ones.
        labeled: tasks that people labeled since there are any.
        completed: those among them that were checks.
    """

    project: str = ""
    pending: set[int] = field(default_factory=set)
    labeled: int = 0
    completed: int = 0

    def interleave_into(self, order: Sequence[int]) -> list[int]:
        """An order with those that wait at their places; by hash among themselves."""
        pending_tasks = [task for task in order if task in self.pending]
        pending_tasks.sort(key=lambda task: hash_rank(f"{self.project}/check", task))
        other_tasks = [task for task in order if task not in self.pending]
        return (
            interleave(other_tasks, pending_tasks, self.labeled, self.completed)
            if pending_tasks
            else other_tasks
        )

    def record_labeled(self, tasks: Collection[int]) -> None:
        """Somebody labeled tasks."""
        self.labeled += len(tasks)
        self.completed += len(self.pending.intersection(tasks))
        self.pending.difference_update(tasks)


def explain_bound_violation(correct: Sequence[bool], error: float) -> str:
    """Whether what people answered above the level shows that the bound does not hold.

    It is asked after every round, so a test for one look would call a kept bound broken again and
    again. The evidence is the likelihood of errors between the bound and FAR times the bound, all
    alike, against the bound itself: that it ever exceeds 1 / CHANCE if the bound holds has at most
    the probability CHANCE (Ville's inequality; Robbins 1970 for the mixture).

    Args:
        correct: of answers above the level, whether a person gave the same, oldest first; the
            latest KEPT count.
        error: the bound.

    Returns:
        a sentence where the bound is shown not to hold; empty otherwise.

    Example:
        >>> bool(explain_bound_violation([True] * 15 + [False] * 5, 0.05)), bool(explain_bound_violation([True] * 4 + [False], 0.05))
        (True, False)
    """
    from scipy.special import betainc, betaln

    recent = list(correct)[-CHECK_WINDOW_SIZE:]
    wrong_count, count = sum(not is_correct for is_correct in recent), len(recent)
    alternative_error = min(1.0, ALTERNATIVE_ERROR_FACTOR * error)
    a, b = wrong_count + 1, count - wrong_count + 1
    beta_mass = float(betainc(a, b, alternative_error) - betainc(a, b, error))
    log_likelihood = (
        math.log(max(beta_mass, 1e-300)) + float(betaln(a, b)) - math.log(alternative_error - error)
    )
    if log_likelihood - wrong_count * math.log(error) - (count - wrong_count) * math.log(
        1 - error
    ) < -math.log(TOTAL_ALPHA):
        return ""
    return (
        f"People corrected {wrong_count} of {count} answers that were accepted or would have been, too "
        f"many for at most {error:.0%} errors."
    )


def _missing_labels_reason(error: float, min_labels: int, label_count: int) -> str:
    return (
        f"Accepting with at most {error:.0%} errors needs {min_labels} labeled audit images, of which "
        f"{min_labels - label_count} are missing."
    )


def _upper_bound(wrong_count: int, count: int, alpha: float) -> float:
    """Upper end of Clopper and Pearson's one-sided interval of a share."""
    from scipy.special import betaincinv

    return (
        float(betaincinv(wrong_count + 1, count - wrong_count, 1 - alpha))
        if wrong_count < count
        else 1.0
    )


def _sequential_sizes(sorted_confidence: npt.NDArray[np.float64], min_size: int) -> list[int]:
    """How many of the surest are looked at, one after another; equal ones all at once.

    Args:
        sorted_confidence: (n,) confidence, falling.
        min_size: images, at most n.
    """
    count = len(sorted_confidence)
    first_size = max(min_size, (count + 1) // 2)
    step_sizes = {
        round(first_size + (count - first_size) * i / SEQUENTIAL_STEP_COUNT)
        for i in range(SEQUENTIAL_STEP_COUNT + 1)
    }
    return sorted(
        {
            int(
                np.searchsorted(-sorted_confidence, -sorted_confidence[step_size - 1], side="right")
            )
            for step_size in step_sizes
        }
    )
