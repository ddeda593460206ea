"""The queue order: which task to label next, and the scores by which Label Studio sorts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from backend.arrays import Floats
from backend.learning.audit import hash_rank, interleave
from backend.learning.coverage import is_last_in_cycle

FRONT_SCORE_STEP = 1e-5
"""Difference between the scores of successive tasks at the front of the queue."""
RARE_LABEL_EXAMPLES = 3
"""Number of examples below which a label counts as rare and is searched for."""
RARE_LABEL_INTERVAL = 4
"""Initial interval of tasks that are selected by the text of a label without examples."""
EXPLORATION_INTERVAL = 8
"""Initial interval of tasks with the image least similar to all others. A smaller interval costs
more than it gains (benchmarks/selection.py)."""
PATIENCE_LABELS = 20
"""Number of labels without a new example after which the search interval doubles."""
MAX_SEARCH_INTERVAL = 32
"""Interval above which the search ends."""
COMPETENCE_EXAMPLES = 3.0
"""Examples per label at which coverage and uncertainty count the same."""
MIN_LABEL_SHARE = 1e-3
"""Minimum share of a label in the images, so that rarity is finite."""
UNCERTAINTY_TOLERANCE = 1e-4
"""Difference below which all uncertainties count as equal."""
MIN_SELECTION_WEIGHT = 0.02
"""Weight in coverage of an image that the model is certain about."""


def uncertainty(probabilities: Floats, multiple: bool) -> Floats:
    """Return the uncertainty of each prediction, (n,) float32, 0 (certain) to 1.

    For single-label controls it is 1 − (best − second best), margin sampling; for multi-label ones
    that of the least certain label, 1 − min |2p − 1|.

    Args:
        probabilities: (n, K) float32, 0 to 1; rows sum to 1 unless ``multiple``.
        multiple: whether several labels may apply.

    Example:
        >>> uncertainty(np.array([[0.5, 0.5], [1.0, 0.0]], dtype=np.float32), multiple=False)
        array([1., 0.], dtype=float32)
    """
    if multiple:
        return np.asarray(1 - np.abs(2 * probabilities - 1).min(axis=1), dtype=np.float32)
    best = np.sort(probabilities, axis=1)[:, -2:]
    return np.asarray(1 - (best[:, 1] - best[:, 0]), dtype=np.float32)


def label_rarity(probabilities: Floats, multiple: bool) -> Floats:
    """Return how rare the labels are that each image may have, (n,) float32, 0 to 1.

    It is the mean of 1 / √share over the labels, where the share is the mean probability of a label
    over all images. The mean is weighted by the probabilities, or for multiple choice by the
    uncertainties of the labels. With rare classes it is worth 2 to 3 points of accuracy
    (benchmarks/README.md).

    Args:
        probabilities: (n, K) float32, 0 to 1; rows sum to 1 unless ``multiple``.
        multiple: whether several labels may be right.

    Returns:
        the mean of each image, divided by the largest one.

    Example:
        >>> probabilities = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], dtype=np.float32)
        >>> label_rarity(probabilities, multiple=False).round(2)
        array([0.58, 0.58, 0.58, 1.  ], dtype=float32)
    """
    shares = np.maximum(probabilities.mean(axis=0), MIN_LABEL_SHARE)
    weights = 1 - np.abs(2 * probabilities - 1) if multiple else probabilities
    weights = np.maximum(weights, MIN_LABEL_SHARE)
    rarity = weights @ (1 / np.sqrt(shares)) / weights.sum(axis=1)
    return np.asarray(rarity / rarity.max(), dtype=np.float32)


def selection_weights(
    uncertainties: Floats,
    label_counts: Iterable[tuple[int, int]] = (),
    rarity: Floats | None = None,
) -> Floats:
    """Return the weight of each open image in coverage.

    With few examples per label uncertainties mean little, so weights start at 1, where coverage
    decides alone, and approach the uncertainties as the model becomes competent (after DCoM, arXiv
    2407.01804). A label without an example may be in any image, so weights are at least the share
    of such labels, which falls while they are searched for in vain. Equal uncertainties do not
    distinguish images, for example when only one label has examples: then all weights are 1.

    Args:
        uncertainties: (n,) float32, 0 to 1.
        label_counts: for each label, the images that have it and the images it was searched in.
            Without labels the model counts as competent.
        rarity: (n,) float32, 0 to 1, see :func:`label_rarity`; 1 when not given.

    Returns:
        (n,) float32, above 0 to 1.

    Example:
        >>> selection_weights(np.array([0.0, 0.0], dtype=np.float32))
        array([1., 1.], dtype=float32)
        >>> selection_weights(np.array([0.0, 0.5], dtype=np.float32), [(4, 20), (0, 20)])
        array([0.36, 0.68], dtype=float32)
    """
    if not len(uncertainties) or np.ptp(uncertainties) < UNCERTAINTY_TOLERANCE:
        return np.ones(len(uncertainties), dtype=np.float32)
    label_counts = list(label_counts)
    unseen = [
        PATIENCE_LABELS / (PATIENCE_LABELS + searched_count) if not example_count else 0.0
        for example_count, searched_count in label_counts
    ]
    competence = label_competence(count for count, _ in label_counts) if label_counts else 1.0
    unseen_share = sum(unseen) / len(unseen) if unseen else 0.0
    minimum = max(MIN_SELECTION_WEIGHT, unseen_share, 1 - competence)
    weights = 1 - (1 - uncertainties) * (1 - minimum)
    return np.asarray(weights if rarity is None else weights * rarity**competence, dtype=np.float32)


def label_competence(example_counts: Iterable[int]) -> float:
    """Return how much uncertainty counts in comparison to coverage, 0 to 1.

    It is e² / (e² + ``COMPETENCE_EXAMPLES``²) for e examples per label, on average over the labels
    with an example; 0 without any.

    Example:
        >>> [round(label_competence([count, count, 0]), 2) for count in (0, 1, 3, 6, 20)]
        [0.0, 0.1, 0.5, 0.8, 0.98]
    """
    counts = [count for count in example_counts if count]
    mean_square = (sum(counts) / len(counts)) ** 2 if counts else 0.0
    return mean_square / (mean_square + COMPETENCE_EXAMPLES**2)


def detection_uncertainty(detections: Sequence[tuple[float, float]], fallback_rank: float) -> float:
    """Return the uncertainty of a detector on an image, 0 to 1.

    It is x / (1 + x), where x is the sum of the ten largest entropies weighted by label difficulty
    (after PPAL, arXiv 2211.11612). Images without detections get a random value below 0.5, so that
    some of them are labeled too.

    Args:
        detections: confidence and label difficulty of all detections, displayed or not.
        fallback_rank: reproducible random number of the image, 0 to 1.

    Example:
        >>> round(detection_uncertainty([(0.5, 1.0), (0.99, 1.0)], fallback_rank=0.0), 2)
        0.52
    """
    if not detections:
        return fallback_rank / 2
    confidences, difficulties = np.asarray(detections, dtype=np.float64).T
    p = np.clip(confidences, 1e-6, 1 - 1e-6)
    entropies = -(p * np.log2(p) + (1 - p) * np.log2(1 - p)) * difficulties
    total = float(np.sort(entropies)[-10:].sum())
    return total / (1 + total)


def order_queue(
    project: str, ranked: Sequence[int], audit: Iterable[int], labeled: int, audit_labeled: int
) -> list[int]:
    """Return the queue order: the ranked tasks with the audit set mixed in.

    Args:
        project: identity of the project, see :func:`backend.learning.audit.is_audit`.
        ranked: other open tasks, most useful first.
        audit: open tasks of the audit set.
        labeled: number of tasks labeled so far, including audit tasks.
        audit_labeled: number of audit tasks labeled so far.
    """
    audit_order = sorted(audit, key=lambda task: hash_rank(project, task))
    return interleave(ranked, audit_order, labeled, audit_labeled)


def search_interval(
    label_counts: Iterable[tuple[int, int]], initial_interval: int = RARE_LABEL_INTERVAL
) -> int:
    """Return the interval of tasks that are selected to find examples of rare labels.

    The interval starts at ``initial_interval`` and doubles after each ``PATIENCE_LABELS`` labels
    without a new example; the patience grows with each example found. The search ends above
    ``MAX_SEARCH_INTERVAL``, so a label that never occurs costs about 2 · ``PATIENCE_LABELS`` /
    ``initial_interval`` tasks in total.

    Args:
        label_counts: for each label, the number of images with it, and of images in which it could
            have been chosen.
        initial_interval: ``RARE_LABEL_INTERVAL`` or ``EXPLORATION_INTERVAL``.

    Returns:
        the interval in tasks; 0: never.

    Example:
        >>> [search_interval([pair]) for pair in [(40, 50), (0, 15), (0, 25), (1, 25), (0, 999)]]
        [0, 4, 8, 4, 0]
    """
    doublings = [
        searched_count // (PATIENCE_LABELS * (example_count + 1))
        for example_count, searched_count in label_counts
        if example_count < RARE_LABEL_EXAMPLES
    ]
    if not doublings:
        return 0
    interval = initial_interval << min(*doublings, MAX_SEARCH_INTERVAL.bit_length())
    return interval if interval <= MAX_SEARCH_INTERVAL else 0


def interleave_candidates(
    ranked: Sequence[int],
    candidates: Sequence[int],
    interval: int = RARE_LABEL_INTERVAL,
    position_offset: int = 0,
) -> list[int]:
    """Insert candidates into a queue order at a regular interval.

    Args:
        ranked: tasks, first to last.
        candidates: tasks likely to show a rare label, best first; a subset of ``ranked``.
        interval: interval of the candidates; 0: never.
        position_offset: number of tasks labeled before, from which the interval is counted.

    Example:
        >>> interleave_candidates([1, 2, 3, 4, 5, 6, 7], [6, 2])
        [1, 2, 3, 6, 4, 5, 7]
        >>> interleave_candidates([1, 2, 3, 4, 5, 6, 7], [6, 2], position_offset=3)
        [6, 1, 2, 3, 4, 5, 7]
    """
    candidate_queue, ranked_queue = deque(candidates), deque(ranked)
    order: dict[int, None] = {}
    while ranked_queue or candidate_queue:
        is_candidate_turn = candidate_queue and (
            is_last_in_cycle(position_offset + len(order), interval) or not ranked_queue
        )
        task = (candidate_queue if is_candidate_turn else ranked_queue).popleft()
        order.setdefault(task)
    return list(order)


def rank_scores(order: Sequence[int], unpredicted: Iterable[int] = ()) -> dict[int, float]:
    """Return the scores that Label Studio sorts open tasks by, ascending.

    A score is the relative position, so that tasks which are added later fit in between.

    Args:
        order: open tasks, first to last.
        unpredicted: open tasks without a prediction (unreadable images), which come last.

    Returns:
        task → score, above 0 (first) to 1.

    Example:
        >>> rank_scores([7, 5, 9], unpredicted=[4])
        {7: 0.25, 5: 0.5, 9: 0.75, 4: 1.0}
    """
    step = 1 / (len(order) + 1)
    ranked = {task: round(i * step, 9) for i, task in enumerate(order, start=1)}
    return ranked | dict.fromkeys(unpredicted, 1.0)


def front_score_changes(
    head: Sequence[int],
    ranks: Mapping[int, float],
    scores: Mapping[int, float],
    tail: Sequence[int] = (),
) -> dict[int, float]:
    """Return the score changes that move some tasks to the front, with as few writes as possible.

    First, tasks at the front that are not in the head return to their rank, and the tail moves
    behind all others. Then the head is processed from last to first, and each task that is not yet
    before its successor gets a lower score. The changes are ordered so that the first task of the
    head is written first, and Label Studio serves it before all changes are written.

    Args:
        head: open tasks to serve first, in order.
        ranks: task → its score in the complete new order.
        scores: open task → its current score; tasks without a rank keep theirs.
        tail: tasks to serve last, unless they belong to the head.

    Returns:
        task → new score, in the order in which they are to be written.

    Example:
        >>> front_score_changes([3, 2], {1: 0.75, 2: 0.5, 3: 0.25}, {1: 0.25, 2: 0.5, 3: 0.75})
        {1: 0.75, 3: 0.49999}
        >>> ranks, scores = {2: 0.25, 3: 0.5, 1: 0.75}, {1: 0.25, 2: 0.5, 3: 0.75}
        >>> front_score_changes([2], ranks, scores, tail=[1])
        {1: 0.75001}
    """
    ranked = {task: score for task, score in scores.items() if task in ranks}
    head_set = frozenset(head)
    tail_tasks = [task for task in tail if task in ranked and task not in head_set]
    fixed_tasks = head_set.union(tail_tasks)
    front = sorted(ranked, key=lambda task: ranked[task])[: len(head)]
    changes = {task: ranks[task] for task in front if task not in fixed_tasks}
    others = [changes.get(t, score) for t, score in ranked.items() if t not in fixed_tasks]
    changes |= _scores_behind(tail_tasks, ranked, max(others, default=0.0))
    ceiling = min([*others, *(changes.get(t, ranked[t]) for t in tail_tasks)], default=1.0)
    moved_forward: dict[int, float] = {}
    for task in reversed(head):
        if scores[task] < ceiling:
            ceiling = scores[task]
        else:
            moved_forward[task] = ceiling = round(ceiling - FRONT_SCORE_STEP, 9)
    return changes | dict(reversed(moved_forward.items()))


def _scores_behind(
    tasks: Sequence[int], scores: Mapping[int, float], highest_score: float
) -> dict[int, float]:
    """Return new scores for the tasks that are not yet behind the highest score of the others."""
    moved = [task for task in tasks if scores[task] <= highest_score]
    return {
        task: min(1.0, round(highest_score + FRONT_SCORE_STEP * i, 9))
        for i, task in enumerate(moved, start=1)
    }
