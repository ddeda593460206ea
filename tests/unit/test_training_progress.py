"""The progress of a training, as people read it."""

from __future__ import annotations

import itertools
import re

from backend.loop.training_progress import TrainingProgress


def test_neither_the_progress_nor_the_time_left_jumps() -> None:
    """The trainer corrects the number of epochs to what fits into its time limit."""
    now = 0.0
    reports: list[tuple[float, str]] = []

    def report(state: str, progress: float, detail: str) -> None:
        reports.append((progress, detail))

    training = TrainingProgress(report, clock=lambda: now)
    totals = [40, 39, 37, 40, 36, 40, 38, 37, 36, 36]
    seconds = [14, 9, 12, 7, 13, 8, 11, 9, 10, 10]
    training.update(0, 1)
    for done, (total, duration) in enumerate(zip(totals, seconds, strict=True), 1):
        now += duration
        training.update(done, total)
    fractions = [progress for progress, _ in reports]
    assert fractions == sorted(fractions)
    assert [detail.partition(",")[0] for _, detail in reports] == [
        f"epoch {done}" for done in range(1, 11)
    ]
    minutes = [int(match[1]) for _, text in reports if (match := re.search(r"(\d+) min", text))]
    assert len(minutes) == 10
    assert all(0 <= before - after <= 1 for before, after in itertools.pairwise(minutes))


def test_a_detector_is_named_only_beside_others() -> None:
    details: list[str] = []
    for name in ("", "leaves: "):
        training = TrainingProgress(lambda state, progress, detail: details.append(detail), name)
        training.update(1, 1)
    assert details == [
        "epoch 1, less than a minute left",
        "leaves: epoch 1, less than a minute left",
    ]
