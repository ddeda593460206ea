"""The labels that somebody types → labels that a config can carry."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from backend.domain import Label
from backend.errors import UsageError
from backend.onboarding.labeling_job import Job

UNWRITABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
"""What XML cannot hold, or nobody means."""
TOLD = 20
"""Labels that are repeated to the person who typed them."""


def read_labels(text: str) -> list[Label]:
    """Labels between commas, semicolons or on lines; ``name = what it looks like`` gives a hint.

    A hint ends at the next comma; between semicolons or on lines of their own it may hold commas.

    Args:
        text: as typed.

    Raises:
        UsageError: a name that Label Studio would not take as it is.

    Example:
        >>> [(x.name, x.hint) for x in read_labels("ripe = a red fruit, unripe, ripe")]
        [('ripe', 'a red fruit'), ('unripe', '')]
        >>> [(x.name, x.hint) for x in read_labels("ripe=a red, round fruit; unripe")]
        [('ripe', 'a red, round fruit'), ('unripe', '')]
    """
    found: dict[str, Label] = {}
    parts = [part for part in re.split(r"[;\n]", text) if part.strip()]
    for part in parts:
        for name, hint in _pairs(part, alone=len(parts) == 1):
            if name:
                found.setdefault(name, Label(_checked(name), hint=_checked(hint)))
    return list(found.values())


def told(job: Job, labels: Sequence[Label]) -> str:
    """The job and its labels as they were understood.

    Example:
        >>> told(Job.ONE, read_labels("ripe = a red fruit, unripe, rotten"))
        'Job: one of many. Labels: ripe (a red fruit), unripe, rotten.'
    """
    named = [f"{one.name} ({one.hint})" if one.hint else one.name for one in labels]
    more = f", and {len(named) - TOLD} more" if len(named) > TOLD else ""
    return f"Job: {job.value.replace('-', ' ')}. Labels: {', '.join(named[:TOLD])}{more}."


def _pairs(part: str, *, alone: bool) -> list[tuple[str, str]]:
    """Names and hints of a text without semicolons.

    Args:
        part: the text.
        alone: there is no other part: commas separate whatever stands between them.
    """
    pieces = part.split(",")
    if not alone:  # what follows the first hint belongs to it, unless it has a hint of its own
        first = next((i for i, piece in enumerate(pieces) if "=" in piece), len(pieces))
        rest = pieces[first:]
        if rest and not any("=" in piece for piece in rest[1:]):
            pieces = [*pieces[:first], ",".join(rest)]
    cut = (piece.partition("=") for piece in pieces)
    return [(name.strip(), hint.strip()) for name, _, hint in cut]


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
