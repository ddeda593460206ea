"""The labels that somebody types → labels that a config can carry."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from backend.domain import Label
from backend.errors import UsageError
from backend.starting.job import Job

UNWRITABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
"""What XML cannot hold, or nobody means."""


def read_labels(text: str) -> list[Label]:
    """Labels between commas or on lines of their own; ``name = what it looks like`` gives a hint.

    Args:
        text: as typed.

    Raises:
        UsageError: a name that Label Studio would not take as it is.

    Example:
        >>> [(x.name, x.hint) for x in read_labels("ripe = a red fruit, unripe, ripe")]
        [('ripe', 'a red fruit'), ('unripe', '')]
    """
    found: dict[str, Label] = {}
    for part in re.split(r"[,\n]", text):
        name, _, hint = (piece.strip() for piece in part.partition(" = "))
        if name:
            found.setdefault(name, Label(_checked(name), hint=_checked(hint)))
    return list(found.values())


def completed(labels: Sequence[Label], job: Job) -> list[Label]:
    """The labels that the job needs: of one label for whole images, its opposite is the other.

    Raises:
        UsageError: there is none, or their number does not fit the job.

    Example:
        >>> [x.name for x in completed([Label("ripe")], Job.BINARY)]
        ['ripe', 'not ripe']
    """
    if not labels:
        raise UsageError("At least one label is needed: --labels ripe,unripe.")
    if len(labels) == 1 and not job.marks:
        return [*labels, Label(f"not {labels[0].name}")]
    if job is Job.BINARY and len(labels) > 2:
        raise UsageError(f"binary has two labels, not {len(labels)}: take --job one-of-many.")
    return list(labels)


def fitting(job: Job, labels: Iterable[Label]) -> Job:
    """The job for so many labels: two buckets are binary, and one label has only its opposite."""
    count = len(list(labels))
    return (
        Job.BINARY
        if (job is Job.ONE and count <= 2) or (job is Job.SEVERAL and count == 1)
        else job
    )


def _checked(name: str) -> str:
    if UNWRITABLE.search(name):
        raise UsageError(f"The label {name!r} has signs that cannot be written.")
    if name.startswith("$"):
        raise UsageError(
            f"The label {name!r} begins with $, which Label Studio takes for a field of its data."
        )
    return name
