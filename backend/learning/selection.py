"""Which task to label next, and the numbers by which Label Studio follows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from backend.arrays import Floats
from backend.learning.audit import hash_rank, interleave
from backend.learning.coverage import is_last_in_cycle

FRONT_SCORE_STEP = 1e-5
"""Between the scores of tasks that are brought to the front."""
RARE_LABEL_EXAMPLES = 3
"""Examples below which a label is still looked for."""
RARE_LABEL_INTERVAL = 4
"""One task in so many is, at first, one that most likely shows such a label by its text."""
EXPLORATION_INTERVAL = 8
"""One pick in so many is, at first, the image least like any, which may show what nobody knows.
More of them cost more than they find (benchmarks/selection.py)."""
PATIENCE_LABELS = 20
"""Labels without one after which that happens half as often."""
MAX_SEARCH_INTERVAL = 32
"""When it would happen more seldom than once in so many, the search ends."""


def uncertainty(probabilities: Floats, multiple: bool) -> Floats:
    """How unsure a model is of its answer to one control.

    Args:
        probabilities: (n, K) float32, 0 to 1; rows sum to 1 unless ``multiple``.
        multiple: several labels may be right at once.

    Returns:
        (n,) float32, 0 (certain) to 1. For one of many 1 − (best − second best), the margin; for
        several of many how undecided the least decided label is, 1 − min |2p − 1|.

    Example:
        >>> uncertainty(np.array([[0.5, 0.5], [1.0, 0.0]], dtype=np.float32), multiple=False)
        array([1., 0.], dtype=float32)
    """
    if multiple:
        return np.asarray(1 - np.abs(2 * probabilities - 1).min(axis=1), dtype=np.float32)
    best = np.sort(probabilities, axis=1)[:, -2:]
    return np.asarray(1 - (best[:, 1] - best[:, 0]), dtype=np.float32)


def detection_uncertainty(detections: Sequence[tuple[float, float]], fallback_rank: float) -> float:
    """How much a detector would learn from an image.

    The sum of the ten largest entropies of its finds, each weighted by the difficulty of its
    label (after PPAL, arXiv 2211.11612), brought to 0 to 1 by x / (1 + x). Where nothing is found
    nobody knows: such images take any place in the less uncertain half, so that a steady share of
    them is looked through.

    Args:
        detections: everything found, shown or not: confidence, 0 to 1, and its label's difficulty.
        fallback_rank: a number of the image's own, 0 to 1, that places it where nothing is found.

    Example:
        >>> round(detection_uncertainty([(0.5, 1.0), (0.99, 1.0)], fallback_rank=0.0), 2)
        0.52
    """
    detection_table = np.asarray(detections, dtype=np.float64).reshape(-1, 2)
    confidences = np.clip(detection_table[:, 0], 1e-6, 1 - 1e-6)
    weighted_entropies = (
        -(confidences * np.log2(confidences) + (1 - confidences) * np.log2(1 - confidences))
        * detection_table[:, 1]
    )
    total_entropy = float(np.sort(weighted_entropies)[-10:].sum())
    return max(
        total_entropy / (1 + total_entropy), fallback_rank / 2 if not len(confidences) else 0.0
    )


def order_queue(
    project: str, ranked: Sequence[int], audit: Iterable[int], labeled: int, audit_labeled: int
) -> list[int]:
    """The order in which tasks are asked for: the policy's, with the audit slice mixed in.

    Args:
        project: its identity, see :func:`backend.learning.audit.is_audit`.
        ranked: open tasks of the pool, the most useful first.
        audit: open tasks of the audit slice.
        labeled: tasks labeled so far, the audit ones among them.
        audit_labeled: audit tasks labeled so far.
    """
    audit_order = sorted(audit, key=lambda task: hash_rank(project, task))
    return interleave(ranked, audit_order, labeled, audit_labeled)


def search_interval(
    label_counts: Iterable[tuple[int, int]], initial_interval: int = RARE_LABEL_INTERVAL
) -> int:
    """How often a task is asked for in the hope that it shows a label that has hardly an example.

    One in ``initial_interval`` at first; half as often after each PATIENCE labels that did not show one, and
    not at all in the end: a label that never turns up costs about 2 · PATIENCE / first tasks,
    however long people label. Each example that was found lends patience for the next one.

    Args:
        label_counts: of each label: in how many images it was given, and in how many it was asked for.
        initial_interval: SEEK or UNLIKE.

    Returns:
        one task in so many; 0: none.

    Example:
        >>> [search_interval([pair]) for pair in [(40, 50), (0, 15), (0, 25), (1, 25), (0, 999)]]
        [0, 4, 8, 4, 0]
    """
    rare_labels = [
        (example_count, request_count)
        for example_count, request_count in label_counts
        if example_count < RARE_LABEL_EXAMPLES
    ]
    halvings = min(
        (
            request_count // (PATIENCE_LABELS * (example_count + 1))
            for example_count, request_count in rare_labels
        ),
        default=None,
    )
    interval = (
        0
        if halvings is None
        else initial_interval << min(halvings, MAX_SEARCH_INTERVAL.bit_length())
    )
    return interval if interval <= MAX_SEARCH_INTERVAL else 0


def interleave_candidates(
    ranked: Sequence[int],
    candidates: Sequence[int],
    interval: int = RARE_LABEL_INTERVAL,
    position_offset: int = 0,
) -> list[int]:
    """An order with every fourth place given to tasks that are looked for.

    Args:
        ranked: tasks, first to last.
        candidates: some of them, those that most likely show what is looked for first.
        interval: one place in so many is theirs, while there are any; 0: none is.
        position_offset: places before the first, so that labels between two orders change no turn.

    Example:
        >>> interleave_candidates([1, 2, 3, 4, 5, 6, 7], [6, 2])
        [1, 2, 3, 6, 4, 5, 7]
        >>> interleave_candidates([1, 2, 3, 4, 5, 6, 7], [6, 2], position_offset=3)
        [6, 1, 2, 3, 4, 5, 7]
    """
    candidate_queue, ranked_queue = deque(candidates), deque(ranked)
    order: list[int] = []
    placed: set[int] = set()
    while ranked_queue or candidate_queue:
        is_candidate_turn = candidate_queue and (
            is_last_in_cycle(position_offset + len(order), interval) or not ranked_queue
        )
        task = (candidate_queue if is_candidate_turn else ranked_queue).popleft()
        if task not in placed:
            placed.add(task)
            order.append(task)
    return order


def rank_scores(order: Sequence[int], unpredicted: Iterable[int] = ()) -> dict[int, float]:
    """The numbers that Label Studio sorts open tasks by, ascending.

    They are shares of the whole order, so that tasks which are ranked later, among others, find a
    place of about the same rank.

    Args:
        order: open tasks, first to last.
        unpredicted: open tasks without a prediction (unreadable images); they come last.

    Returns:
        by task, above 0 (ask first) to 1.

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
    """The fewest new scores we know of that bring some tasks to the front, in their order.

    Tasks that stood in front and no longer belong there go back to their rank, those that shall be
    last behind all others; then, from the last to the first of the head, whoever is not yet in
    front of the next one is put there. They are written from the first to the last: who asks
    meanwhile is given the first one already.

    Args:
        head: open tasks, in the order in which they shall be served before all others.
        ranks: by task, the score that its place in the whole new order would give it.
        scores: by open task, its score now; tasks without a rank stay as they are.
        tail: tasks that shall be served after all others, where they are not of the head.

    Returns:
        the scores to change, in the order in which to change them.

    Example:
        >>> front_score_changes([3, 2], {1: 0.75, 2: 0.5, 3: 0.25}, {1: 0.25, 2: 0.5, 3: 0.75})
        {1: 0.75, 3: 0.49999}
        >>> front_score_changes([2], {2: 0.25, 3: 0.5, 1: 0.75}, {1: 0.25, 2: 0.5, 3: 0.75}, tail=[1])
        {1: 0.75001}
    """
    ranked_scores = {task: score for task, score in scores.items() if task in ranks}
    current_front, head_set = (
        sorted(ranked_scores, key=lambda t: ranked_scores[t])[: len(head)],
        frozenset(head),
    )
    tail_tasks = [task for task in tail if task in ranked_scores and task not in head_set]
    moved_back = {t: ranks[t] for t in current_front if t not in head_set and t not in tail_tasks}
    other_scores = {
        t: moved_back.get(t, s)
        for t, s in ranked_scores.items()
        if t not in head_set and t not in tail_tasks
    }
    moved_back |= _scores_behind(tail_tasks, ranked_scores, max(other_scores.values(), default=0.0))
    ceiling = min(
        [*other_scores.values(), *(moved_back.get(t, ranked_scores[t]) for t in tail_tasks)],
        default=1.0,
    )
    moved_forward: dict[int, float] = {}
    for task in reversed(head):
        if scores[task] < ceiling:
            ceiling = scores[task]
        else:
            moved_forward[task] = ceiling = round(ceiling - FRONT_SCORE_STEP, 9)
    return moved_back | dict(reversed(moved_forward.items()))


def _scores_behind(
    tasks: Sequence[int], scores: Mapping[int, float], highest_score: float
) -> dict[int, float]:
    """New scores of those tasks that do not stand behind the highest score of all others."""
    new_scores: dict[int, float] = {}
    for task in tasks:
        if scores[task] <= highest_score:
            new_scores[task] = min(
                1.0, round(highest_score + FRONT_SCORE_STEP * (len(new_scores) + 1), 9)
            )
    return new_scores
