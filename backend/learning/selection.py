"""Which task to label next, and the numbers by which Label Studio follows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from backend.arrays import Floats
from backend.learning.audit import hash_rank, interleave
from backend.learning.coverage import is_turn

STEP = 1e-5
"""Between the scores of tasks that are brought to the front."""
FEW = 3
"""Examples below which a label is still looked for."""
SEEK = 4
"""One task in so many is, at first, one that most likely shows such a label by its text."""
UNLIKE = 8
"""One pick in so many is, at first, the image least like any, which may show what nobody knows.
More of them cost more than they find (benchmarks/selection.py)."""
PATIENCE = 20
"""Labels without one after which that happens half as often."""
SELDOM = 32
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


def place_uncertainty(finds: Sequence[tuple[float, float]], alone: float) -> float:
    """How much a detector would learn from an image.

    The sum of the ten largest entropies of its finds, each weighted by the difficulty of its
    label (after PPAL, arXiv 2211.11612), brought to 0 to 1 by x / (1 + x). Where nothing is found
    nobody knows: such images take any place in the less uncertain half, so that a steady share of
    them is looked through.

    Args:
        finds: everything found, shown or not: confidence, 0 to 1, and its label's difficulty.
        alone: a number of the image's own, 0 to 1, that places it where nothing is found.

    Example:
        >>> round(place_uncertainty([(0.5, 1.0), (0.99, 1.0)], alone=0.0), 2)
        0.52
    """
    table = np.asarray(finds, dtype=np.float64).reshape(-1, 2)
    p = np.clip(table[:, 0], 1e-6, 1 - 1e-6)
    bits = -(p * np.log2(p) + (1 - p) * np.log2(1 - p)) * table[:, 1]
    whole = float(np.sort(bits)[-10:].sum())
    return max(whole / (1 + whole), alone / 2 if not len(p) else 0.0)


def queue(
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
    slice_ = sorted(audit, key=lambda task: hash_rank(project, task))
    return interleave(ranked, slice_, labeled, audit_labeled)


def seeking(labels: Iterable[tuple[int, int]], first: int = SEEK) -> int:
    """How often a task is asked for in the hope that it shows a label that has hardly an example.

    One in ``first`` at first; half as often after each PATIENCE labels that did not show one, and
    not at all in the end: a label that never turns up costs about 2 · PATIENCE / first tasks,
    however long people label. Each example that was found lends patience for the next one.

    Args:
        labels: of each label: in how many images it was given, and in how many it was asked for.
        first: SEEK or UNLIKE.

    Returns:
        one task in so many; 0: none.

    Example:
        >>> [seeking([pair]) for pair in [(40, 50), (0, 15), (0, 25), (1, 25), (0, 999)]]
        [0, 4, 8, 4, 0]
    """
    wanted = [(given, asked) for given, asked in labels if given < FEW]
    halved = min((asked // (PATIENCE * (given + 1)) for given, asked in wanted), default=None)
    every = 0 if halved is None else first << min(halved, SELDOM.bit_length())
    return every if every <= SELDOM else 0


def mixed(
    ranked: Sequence[int], sought: Sequence[int], every: int = SEEK, before: int = 0
) -> list[int]:
    """An order with every fourth place given to tasks that are looked for.

    Args:
        ranked: tasks, first to last.
        sought: some of them, those that most likely show what is looked for first.
        every: one place in so many is theirs, while there are any; 0: none is.
        before: places before the first, so that labels between two orders change no turn.

    Example:
        >>> mixed([1, 2, 3, 4, 5, 6, 7], [6, 2])
        [1, 2, 3, 6, 4, 5, 7]
        >>> mixed([1, 2, 3, 4, 5, 6, 7], [6, 2], before=3)
        [6, 1, 2, 3, 4, 5, 7]
    """
    wanted, others = deque(sought), deque(ranked)
    order: list[int] = []
    done: set[int] = set()
    while others or wanted:
        from_wanted = wanted and (is_turn(before + len(order), every) or not others)
        task = (wanted if from_wanted else others).popleft()
        if task not in done:
            done.add(task)
            order.append(task)
    return order


def rank_scores(order: Sequence[int], unknown: Iterable[int] = ()) -> dict[int, float]:
    """The numbers that Label Studio sorts open tasks by, ascending.

    They are shares of the whole order, so that tasks which are ranked later, among others, find a
    place of about the same rank.

    Args:
        order: open tasks, first to last.
        unknown: open tasks without a prediction (unreadable images); they come last.

    Returns:
        by task, above 0 (ask first) to 1.

    Example:
        >>> rank_scores([7, 5, 9], unknown=[4])
        {7: 0.25, 5: 0.5, 9: 0.75, 4: 1.0}
    """
    step = 1 / (len(order) + 1)
    ranked = {task: round(i * step, 9) for i, task in enumerate(order, start=1)}
    return ranked | dict.fromkeys(unknown, 1.0)


def moves(
    head: Sequence[int],
    ranks: Mapping[int, float],
    scores: Mapping[int, float],
    last: Sequence[int] = (),
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
        last: tasks that shall be served after all others, where they are not of the head.

    Returns:
        the scores to change, in the order in which to change them.

    Example:
        >>> moves([3, 2], {1: 0.75, 2: 0.5, 3: 0.25}, {1: 0.25, 2: 0.5, 3: 0.75})
        {1: 0.75, 3: 0.49999}
        >>> moves([2], {2: 0.25, 3: 0.5, 1: 0.75}, {1: 0.25, 2: 0.5, 3: 0.75}, last=[1])
        {1: 0.75001}
    """
    known = {task: score for task, score in scores.items() if task in ranks}
    front, wanted = sorted(known, key=lambda t: known[t])[: len(head)], frozenset(head)
    ends = [task for task in last if task in known and task not in wanted]
    back = {t: ranks[t] for t in front if t not in wanted and t not in ends}
    rest = {t: back.get(t, s) for t, s in known.items() if t not in wanted and t not in ends}
    back |= _behind(ends, known, max(rest.values(), default=0.0))
    ceiling = min([*rest.values(), *(back.get(t, known[t]) for t in ends)], default=1.0)
    forward: dict[int, float] = {}
    for task in reversed(head):
        if scores[task] < ceiling:
            ceiling = scores[task]
        else:
            forward[task] = ceiling = round(ceiling - STEP, 9)
    return back | dict(reversed(forward.items()))


def _behind(tasks: Sequence[int], scores: Mapping[int, float], highest: float) -> dict[int, float]:
    """New scores of those tasks that do not stand behind the highest score of all others."""
    found: dict[int, float] = {}
    for task in tasks:
        if scores[task] <= highest:
            found[task] = min(1.0, round(highest + STEP * (len(found) + 1), 9))
    return found
