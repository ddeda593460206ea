"""Decide whether a pause in labeling is worth a training that takes minutes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from backend.loop.observe import count_changes
from backend.store.versions import LabelSnapshot, VersionCard

LONG_TRAINING_SECONDS = 60.0
"""Duration from which a training is long: drawing the boxes of the next image takes less, so a
short pause does not mean that the annotator has stopped."""
MIN_NEW_SHARE = 0.1
"""New labels, as a share of those trained on, from which a long training follows a short pause."""


def awaits_more_labels(
    cards: Sequence[VersionCard],
    trained: LabelSnapshot,
    current: LabelSnapshot,
    detector_controls: Collection[str],
) -> bool:
    """Return whether a training would take minutes for few new labels, so that it waits.

    Args:
        cards: all versions.
        trained: labels that the newest one was trained on.
        current: the present labels.
        detector_controls: names of the box and point controls; other controls train in seconds.
    """
    before, now = (_of_controls(labels, detector_controls) for labels in (trained, current))
    new_count = count_changes(before, now)
    longest = max((card.seconds.get("train", 0.0) for card in cards), default=0.0)
    if not new_count or longest < LONG_TRAINING_SECONDS:
        return False
    return new_count < max(1.0, MIN_NEW_SHARE * len(before))


def _of_controls(labels: LabelSnapshot, controls: Collection[str]) -> LabelSnapshot:
    """Return the labels of some controls, without tasks that have none."""
    rows = {
        task: {name: answer for name, answer in answers.items() if name in controls}
        for task, answers in labels.items()
    }
    return {task: answers for task, answers in rows.items() if answers}
