"""The audit set: a fixed random tenth of a project's tasks, chosen by hash.

Because the model orders the queue, all other labeled tasks are a biased sample. Audit tasks are
never ranked by the model or used for training, and they are served at a steady rate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

AUDIT_SHARE = 0.1


def hash_rank(project: str, task: int) -> float:
    """Return a reproducible pseudo-random number in [0, 1) for a task.

    Example:
        >>> 0 <= hash_rank("7.1700000000", 42) < 1
        True
    """
    digest = hashlib.sha256(f"{project}/{task}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def is_audit(project: str, task: int) -> bool:
    """Return whether a task belongs to the audit set.

    Args:
        project: identity of the project: its number and creation time.
        task: id of the task.
    """
    return hash_rank(project, task) < AUDIT_SHARE


def labels_until(audit_count: int) -> int:
    """Return about how many labels it takes until so many more audit images are labeled.

    Example:
        >>> labels_until(10)
        100
    """
    return round(audit_count / AUDIT_SHARE)


def interleave(
    ranked: Sequence[int], sampled: Sequence[int], labeled: int, sampled_labeled: int
) -> list[int]:
    """Mix sampled tasks into a queue order at a steady rate: one in ten.

    The rate is counted from the first label of the project, so that a new order does not reset it.

    Args:
        ranked: other tasks, first to last.
        sampled: audit tasks or spot checks, in hash order.
        labeled: number of tasks labeled so far, including sampled ones.
        sampled_labeled: number of sampled tasks labeled so far.

    Example:
        >>> interleave([1, 2, 3], [9], labeled=8, sampled_labeled=0)
        [1, 9, 2, 3]
    """
    order: list[int] = []
    sampled_count = ranked_count = 0
    for served_count in range(labeled, labeled + len(ranked) + len(sampled)):
        is_due = (served_count + 1) * AUDIT_SHARE >= sampled_labeled + sampled_count + 1
        if sampled_count < len(sampled) and (is_due or ranked_count == len(ranked)):
            order.append(sampled[sampled_count])
            sampled_count += 1
        else:
            order.append(ranked[ranked_count])
            ranked_count += 1
    return order
