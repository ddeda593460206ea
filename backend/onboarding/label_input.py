"""Parse and validate the labels that a user types."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from backend.domain import Label
from backend.errors import UsageError
from backend.onboarding.label_order import assign_hotkeys
from backend.onboarding.labeling_job import LabelingJob

INVALID_CHARACTERS = re.compile("[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
"""Control characters, and characters that XML does not allow."""
MAX_LISTED_LABELS = 20
"""Number of labels in the summary of a job."""


def parse_labels(text: str) -> list[Label]:
    """Parse labels separated by commas, semicolons or newlines; ``name = description`` has a hint.

    A hint may contain commas if labels are separated by semicolons or newlines.

    Raises:
        UsageError: Label Studio does not support a name.

    Example:
        >>> [(x.name, x.hint) for x in parse_labels("ripe = a red fruit, unripe, ripe")]
        [('ripe', 'a red fruit'), ('unripe', '')]
        >>> [(x.name, x.hint) for x in parse_labels("ripe=a red, round fruit; unripe")]
        [('ripe', 'a red, round fruit'), ('unripe', '')]
    """
    labels_by_name: dict[str, Label] = {}
    segments = [segment for segment in re.split(r"[;\n]", text) if segment.strip()]
    for segment in segments:
        for name, hint in _split_hints(segment, is_only_segment=len(segments) == 1):
            if name:
                labels_by_name.setdefault(
                    name, Label(validate_label_name(name), hint=validate_label_name(hint))
                )
    return list(labels_by_name.values())


def describe_job(job: LabelingJob, labels: Sequence[Label]) -> str:
    """Describe a job and its labels with their hotkeys in one line.

    Example:
        >>> labels = parse_labels("ripe = a red fruit, unripe, rotten")
        >>> describe_job(LabelingJob.SINGLE_CHOICE, labels)
        'Job: one of many. Labels and their keys: ripe [1] (a red fruit), unripe [2], rotten [3].'
    """
    hotkeys = assign_hotkeys([label.name for label in labels])
    described_labels = [
        label.name + (f" [{key}]" if key else "") + (f" ({label.hint})" if label.hint else "")
        for label, key in zip(labels, hotkeys, strict=True)
    ]
    remainder = (
        f", and {len(described_labels) - MAX_LISTED_LABELS} more"
        if len(described_labels) > MAX_LISTED_LABELS
        else ""
    )
    listed_labels = ", ".join(described_labels[:MAX_LISTED_LABELS])
    return f"Job: {job.value.replace('-', ' ')}. Labels and their keys: {listed_labels}{remainder}."


def _split_hints(segment: str, *, is_only_segment: bool) -> list[tuple[str, str]]:
    """Split a text without semicolons or newlines into names and hints.

    Args:
        segment: text to split.
        is_only_segment: whether it is the whole input, so that every comma separates labels.
    """
    pieces = segment.split(",")
    if not is_only_segment:  # the commas after the first hint belong to it if no other hint follows
        first_hint = next((i for i, piece in enumerate(pieces) if "=" in piece), len(pieces))
        rest = pieces[first_hint:]
        if rest and not any("=" in piece for piece in rest[1:]):
            pieces = [*pieces[:first_hint], ",".join(rest)]
    name_hint_pairs = (piece.partition("=") for piece in pieces)
    return [(name.strip(), hint.strip()) for name, _, hint in name_hint_pairs]


def complete_labels(labels: Sequence[Label], job: LabelingJob) -> list[Label]:
    """Return the labels for a job; a single label of whole images gets ``not <label>`` added.

    Raises:
        UsageError: there is no label, or too many for the job.

    Example:
        >>> [x.name for x in complete_labels([Label("ripe")], LabelingJob.BINARY)]
        ['ripe', 'not ripe']
    """
    if not labels:
        raise UsageError("At least one label is needed: --labels ripe,unripe.")
    if len(labels) == 1 and not job.is_region_job:
        return [*labels, Label(f"not {labels[0].name}")]
    if job is LabelingJob.BINARY and len(labels) > 2:
        raise UsageError(
            f"The job binary has two labels, not {len(labels)}: use --job one-of-many."
        )
    return list(labels)


def adjust_job(job: LabelingJob, labels: Iterable[Label]) -> LabelingJob:
    """Return the job, or the binary job if there are too few labels for it."""
    count = len(list(labels))
    return (
        LabelingJob.BINARY
        if (job is LabelingJob.SINGLE_CHOICE and count <= 2)
        or (job is LabelingJob.MULTIPLE_CHOICE and count == 1)
        else job
    )


def validate_label_name(name: str) -> str:
    """Return a name that Label Studio takes as it is.

    Raises:
        UsageError: it does not.
    """
    if INVALID_CHARACTERS.search(name):
        raise UsageError(f"The label {name!r} contains characters that are not allowed.")
    if name.startswith("$"):
        raise UsageError(
            f"The label {name!r} starts with $, which Label Studio reads as a field of the task."
        )
    return name
