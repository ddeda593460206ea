"""The audit slice: one task in ten of the whole project, for ever, by hash.

It is the only unbiased set of a project that the model itself puts in order: never ranked by the
model, never trained on, served at a steady rate in hash order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

AUDIT_SHARE = 0.1


def hash_rank(project: str, task: int) -> float:
    """A number from 0 to 1 that belongs to a task for ever.

    Example:
        >>> 0 <= hash_rank("7.1700000000", 42) < 1
        True
    """
    digest = hashlib.sha256(f"{project}/{task}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def is_audit(project: str, task: int) -> bool:
    """Whether a task belongs to the audit slice.

    Args:
        project: what tells the project from others for ever: its number and time of creation.
        task: the task's number.
    """
    return hash_rank(project, task) < AUDIT_SHARE


def interleave(
    ranked: Sequence[int], audit: Sequence[int], labeled: int, audit_labeled: int
) -> list[int]:
    """Mix audit tasks into an order at a steady rate.

    After each task the number of audit tasks handed out is the share of all handed out, counted
    from the first label of the project, so that a new order does not start the count anew.

    Args:
        ranked: tasks of the pool, first to last.
        audit: tasks of the audit slice, in hash order.
        labeled: tasks labeled so far, the audit ones among them.
        audit_labeled: audit tasks labeled so far.

    Returns:
        all of them, in the order they shall be served.

    Example:
        >>> interleave([1, 2, 3], [9], labeled=8, audit_labeled=0)
        [1, 9, 2, 3]
    """
    order: list[int] = []
    ranked_queue, audit_queue = iter(ranked), iter(audit)
    audit_left = len(audit)
    for served_count in range(labeled, labeled + len(ranked) + len(audit)):
        is_due = (served_count + 1) * AUDIT_SHARE >= audit_labeled + 1
        has_ranked_left = len(order) - (len(audit) - audit_left) < len(ranked)
        if audit_left and (is_due or not has_ranked_left):
            order.append(next(audit_queue))
            audit_left, audit_labeled = audit_left - 1, audit_labeled + 1
        else:
            order.append(next(ranked_queue))
    return order
