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


def interleave(
    ranked: Sequence[int], audit: Sequence[int], labeled: int, audit_labeled: int
) -> list[int]:
    """Mix audit tasks into a queue order at a steady rate.

    The rate is counted from the first label of the project, so that a new order does not reset it.

    Args:
        ranked: other tasks, first to last.
        audit: audit tasks, in hash order.
        labeled: number of tasks labeled so far, including audit tasks.
        audit_labeled: number of audit tasks labeled so far.

    Example:
        >>> interleave([1, 2, 3], [9], labeled=8, audit_labeled=0)
        [1, 9, 2, 3]
    """
    order: list[int] = []
    audit_count = ranked_count = 0
    for served_count in range(labeled, labeled + len(ranked) + len(audit)):
        is_due = (served_count + 1) * AUDIT_SHARE >= audit_labeled + audit_count + 1
        if audit_count < len(audit) and (is_due or ranked_count == len(ranked)):
            order.append(audit[audit_count])
            audit_count += 1
        else:
            order.append(ranked[ranked_count])
            ranked_count += 1
    return order
