"""What is remembered of labels and skips that came since the last full look."""

from __future__ import annotations

from collections import Counter
from typing import Any

from backend.loop.presenting import Presented
from backend.loop.round import Memory, Outcome
from tests.unit.test_ordering import PULSE, ordered

LOOK = "2026-01-01T10:00:00.000000Z"
SOON = "2026-01-01T10:00:00.500000Z"
LATER = "2026-01-01T10:00:05.000000Z"


def memory(labeled: dict[int, str] | None = None, skipped: list[int] | None = None) -> Memory:
    order = ordered(20, labeled or {})
    order.passed(skipped or [])
    outcome = Outcome("", "v1", 20, 0, {}, [], {}, [])
    return Memory(PULSE, "v1", outcome, Presented(True, Counter(), order), LOOK)


def row(task: int, at: str, labeled: bool = False, skips: int = 0) -> dict[str, Any]:
    return {"id": task, "updated_at": at, "is_labeled": labeled, "cancelled_annotations": skips}


def test_a_label_and_a_skip_are_noticed_once() -> None:
    known = memory()
    known.notice([row(3, LATER, labeled=True), row(4, LATER, skips=1), row(5, LATER)])
    known.notice([row(3, LATER, labeled=True), row(4, LATER, skips=1)])
    assert (known.touched, known.skipped, known.answered) == ({3}, {4}, {3, 4})
    assert known.knows([row(3, LATER, labeled=True), row(4, LATER, skips=1), row(5, LATER)])
    assert not known.knows([row(6, LATER, skips=1)])


def test_a_mark_that_comes_after_its_date_was_seen_is_noticed() -> None:
    """Label Studio dates a task first and marks it a moment later, with no new date."""
    known = memory()
    known.notice([row(3, SOON), row(4, SOON)])
    known.since = LATER  # the other changes up to then are known
    known.notice([row(3, SOON, labeled=True), row(4, SOON, skips=1)])
    assert known.answered == {3, 4}


def test_a_label_on_a_task_that_we_changed_too_is_a_persons() -> None:
    known = memory()
    known.disregard([row(3, SOON)], {3})
    assert known.since == SOON
    known.notice([row(3, SOON, labeled=True)])
    assert known.touched == {3}


def test_what_was_labeled_or_skipped_before_the_look_counts_only_when_somebody_changes_it() -> None:
    known = memory({1: "red", 2: "red", 3: "blue"}, skipped=[4])
    known.disregard([row(3, SOON, labeled=True)], {3})
    known.notice([row(1, LOOK, labeled=True), row(3, SOON, labeled=True), row(4, LOOK, skips=1)])
    assert not known.touched | known.skipped
    known.notice([row(2, LATER, labeled=True)])
    assert known.touched == {2}
    assert known.answered == set(), "no task more has an answer"
