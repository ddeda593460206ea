"""Auto-accept: accept predictions as annotations while a bound on their error rate is proven.

The proof uses the audit set only, because it is a random sample that no version was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from backend.arrays import Doubles
from backend.learning.audit import hash_rank, interleave
from backend.learning.intervals import BOUND_CONFIDENCE, clopper_pearson_bounds

REVIEW_SHARE = 0.1
"""Share of the acceptable tasks that people label as spot checks."""
SEQUENTIAL_STEP_COUNT = 20
"""Number of steps in which the less confident half of the audit set is added to the tests."""
TOTAL_ALPHA = 1 - BOUND_CONFIDENCE
"""Probability that a project's error bound is ever exceeded, over all its versions."""
ALPHA_SPENDING_RATE = 0.3
"""Share of the remaining alpha that one test on the audit set may spend."""
RETEST_GROWTH_FACTOR = 1.5
"""Factor by which the audit set must grow after a failed test before the next one."""
CHECK_WINDOW_SIZE = 60
"""Number of latest spot checks that are tested; older ones belong to earlier versions."""
ALTERNATIVE_ERROR_FACTOR = 4.0
"""Upper end of the alternative error rates in the test of spot checks, relative to the bound."""


@dataclass(frozen=True)
class ThresholdTest:
    """One version's test on the audit set.

    Attributes:
        audit_labels: number of labeled audit images.
        alpha: significance level that the test spent.
        passed: whether a threshold was proven.
    """

    audit_labels: int
    alpha: float
    passed: bool


@dataclass(frozen=True)
class AcceptThreshold:
    """The confidence threshold from which predictions are accepted.

    Attributes:
        value: the threshold, 0 to 1; None if nothing is accepted.
        reason: explanation for people.
        missing_labels: number of audit labels that are missing for a test.
        error_bound: upper bound of the error rate above the threshold, with confidence 1 − alpha.
        images: number of audit images above the threshold.
        alpha: significance level spent on the test; 0 without a test.
    """

    value: float | None
    reason: str
    missing_labels: int = 0
    error_bound: float = 1.0
    images: int = 0
    alpha: float = 0.0


def required_audit_labels(error: float, alpha: float = TOTAL_ALPHA) -> int:
    """Return how many audit labels, all predicted correctly, prove an error bound.

    Args:
        error: the bound, above 0 and below 1.
        alpha: significance level of the test.

    Example:
        >>> [required_audit_labels(error) for error in (0.05, 0.02, 0.01)]
        [59, 149, 299]
        >>> required_audit_labels(0.05, ALPHA_SPENDING_RATE * TOTAL_ALPHA)
        82
    """
    return math.ceil(round(math.log(alpha) / math.log(1 - error), 9))


def find_budgeted_threshold(
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    error: float,
    past_tests: Sequence[ThresholdTest] = (),
    min_audit_labels: int = 0,
) -> AcceptThreshold:
    """Return a version's threshold, with multiple testing over all versions taken into account.

    Each version is tested, and wrongly accepted predictions stay. So all tests of a project share
    ``TOTAL_ALPHA`` (online fallback, Tian and Ramdas 2021, arXiv 1910.04900): each test spends
    ``ALPHA_SPENDING_RATE`` of the remaining alpha. A passed test returns its alpha; after a failed
    one the audit set must grow by half before the next test.

    Args:
        confidence: (n,) confidence of the version's predictions for labeled audit tasks, 0 to 1.
        correct: (n,) bool.
        error: the bound, above 0 and below 1.
        past_tests: tests of earlier versions, oldest first.
        min_audit_labels: minimum number of audit labels, after a suspension.
    """
    failed_tests = [test for test in past_tests if not test.passed]
    alpha = ALPHA_SPENDING_RATE * (TOTAL_ALPHA - sum(test.alpha for test in failed_tests))
    last_failed_size = max((test.audit_labels for test in failed_tests), default=0)
    min_labels = max(
        required_audit_labels(error, alpha), next_test_size(last_failed_size), min_audit_labels
    )
    if too_few := _too_few_labels(error, min_labels, len(np.asarray(confidence))):
        note = f" The test on {last_failed_size} failed." if last_failed_size else ""
        return replace(too_few, reason=too_few.reason + note)
    return replace(find_accept_threshold(confidence, correct, error, alpha), alpha=alpha)


def next_test_size(audit_labels: int) -> int:
    """Return how many audit labels are needed after a test on ``audit_labels`` has failed.

    Example:
        >>> next_test_size(82), next_test_size(0)
        (123, 0)
    """
    return math.ceil(RETEST_GROWTH_FACTOR * audit_labels)


def find_accept_threshold(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, error: float, alpha: float = TOTAL_ALPHA
) -> AcceptThreshold:
    """Return the lowest confidence above which the error rate is proven to be within a bound.

    Fixed sequence testing (Learn then Test, Angelopoulos et al. 2021, arXiv 2110.01052): the most
    confident half of the audit set is tested first, then the rest is added in steps until a test
    fails. The sizes of the steps do not depend on the answers, so P(error rate > ``error``) ≤
    ``alpha`` although the threshold is chosen on the same images. Predictions of equal confidence
    are added together, because a threshold accepts all of them.

    This holds for one version; :func:`find_budgeted_threshold` covers all versions of a project.

    Args:
        confidence: (n,) confidence of the version's predictions for labeled audit tasks, 0 to 1.
        correct: (n,) bool.
        error: the bound, above 0 and below 1.
        alpha: significance level of the test, 0 to 1.
    """
    order = np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")
    sorted_confidence = np.asarray(confidence, dtype=np.float64)[order]
    is_wrong = ~np.asarray(correct, bool)[order]
    min_labels = required_audit_labels(error, alpha)
    if too_few := _too_few_labels(error, min_labels, len(order)):
        return too_few
    threshold = AcceptThreshold(
        None, f"The most confident predictions are not proven to have at most {error:.0%} errors."
    )
    for size in _sequential_sizes(sorted_confidence, min_labels):
        wrong_count = int(is_wrong[:size].sum())
        bound = float(clopper_pearson_bounds(wrong_count, size, 1 - alpha)[1])
        if bound > error:
            break
        threshold = AcceptThreshold(
            float(sorted_confidence[size - 1]),
            f"{wrong_count} of the {size} audit images above this confidence are wrong: at most "
            f"{bound:.1%} of all predictions above it, with {1 - alpha:.1%} confidence.",
            error_bound=round(bound, 4),
            images=size,
        )
    return threshold


def is_held_for_review(project: str, task: int) -> bool:
    """Return whether people label an acceptable task; the result is fixed for each task."""
    return hash_rank(f"{project}/people", task) < REVIEW_SHARE


@dataclass
class SpotChecks:
    """Spot checks: one in ten acceptable tasks is labeled by people.

    They take every tenth place in the queue. Without a fixed rate they would never be labeled,
    because the queue serves uncertain tasks first.

    Attributes:
        project: identity of the project.
        pending: tasks that are still open.
        labeled: number of tasks labeled since spot checks began.
        completed: number of spot checks among them.
    """

    project: str = ""
    pending: set[int] = field(default_factory=set)
    labeled: int = 0
    completed: int = 0

    def interleave_into(self, order: Sequence[int]) -> list[int]:
        """Return a queue order with the pending tasks at a steady rate, in hash order."""
        pending_tasks = [task for task in order if task in self.pending]
        pending_tasks.sort(key=lambda task: hash_rank(f"{self.project}/check", task))
        other_tasks = [task for task in order if task not in self.pending]
        return interleave(other_tasks, pending_tasks, self.labeled, self.completed)

    def record_labeled(self, tasks: Collection[int]) -> None:
        """Count tasks that were just labeled."""
        self.labeled += len(tasks)
        self.completed += len(self.pending.intersection(tasks))
        self.pending.difference_update(tasks)


def explain_bound_violation(correct: Sequence[bool], error: float) -> str:
    """Return a message if spot checks show that the error bound is exceeded, else "".

    The test runs after every round, so it must be valid under repeated testing. The test statistic
    is a mixture likelihood ratio: error rates uniform between the bound and
    ``ALTERNATIVE_ERROR_FACTOR`` times the bound, against the bound itself. If the bound holds, the
    probability that the ratio ever exceeds 1 / ``TOTAL_ALPHA`` is at most ``TOTAL_ALPHA`` (Ville's
    inequality; Robbins 1970 for the mixture).

    Args:
        correct: for each spot check, whether people agreed with the prediction; oldest first. The
            latest ``CHECK_WINDOW_SIZE`` are used.
        error: the bound.

    Example:
        >>> explain_bound_violation([True] * 15 + [False] * 5, 0.05)
        'People corrected 5 of 20 answers above the threshold: too many for at most 5% errors.'
        >>> explain_bound_violation([True] * 4 + [False], 0.05)
        ''
    """
    from scipy.special import betainc, betaln

    recent = list(correct)[-CHECK_WINDOW_SIZE:]
    count = len(recent)
    wrong_count = count - sum(recent)
    max_error = min(1.0, ALTERNATIVE_ERROR_FACTOR * error)
    a, b = wrong_count + 1, count - wrong_count + 1
    beta_mass = max(float(betainc(a, b, max_error) - betainc(a, b, error)), 1e-300)
    log_mixture = math.log(beta_mass) + float(betaln(a, b)) - math.log(max_error - error)
    log_bound = wrong_count * math.log(error) + (count - wrong_count) * math.log(1 - error)
    if log_mixture - log_bound < -math.log(TOTAL_ALPHA):
        return ""
    return (
        f"People corrected {wrong_count} of {count} answers above the threshold: too many for at "
        f"most {error:.0%} errors."
    )


def _too_few_labels(error: float, min_labels: int, label_count: int) -> AcceptThreshold | None:
    missing = min_labels - label_count
    if missing <= 0:
        return None
    return AcceptThreshold(
        None,
        f"Accepting with at most {error:.0%} errors needs {min_labels} labeled audit images, of "
        f"which {missing} are missing.",
        missing_labels=missing,
    )


def _sequential_sizes(sorted_confidence: Doubles, min_size: int) -> list[int]:
    """Return the sizes of the tested subsets, ascending; equal confidences stay together.

    Args:
        sorted_confidence: (n,), descending.
        min_size: smallest subset, at most n.
    """
    count = len(sorted_confidence)
    first_size = max(min_size, (count + 1) // 2)
    step_sizes = [
        round(first_size + (count - first_size) * i / SEQUENTIAL_STEP_COUNT)
        for i in range(SEQUENTIAL_STEP_COUNT + 1)
    ]
    last_confidences = sorted_confidence[np.array(step_sizes) - 1]
    sizes = np.searchsorted(-sorted_confidence, -last_confidences, side="right")
    return sorted({int(size) for size in sizes})
