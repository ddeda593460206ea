"""What is remembered of labels and skips that came since the last full look."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.bootstrap import make_resources
from backend.loop.publish.publish import PublishResult
from backend.loop.round import Round
from backend.loop.round_memory import RoundMemory
from backend.records import RoundOutcome, RoundRequest
from backend.runtime.project_session import ProjectSession
from backend.settings import Settings
from serverless.monthly_budget import MonthlyBudget
from tests.support.observations import EMPTY_FINGERPRINT, make_queue_order

LOOK = "2026-01-01T10:00:00.000000Z"
SOON = "2026-01-01T10:00:00.500000Z"
LATER = "2026-01-01T10:00:05.000000Z"


def memory(labeled: dict[int, str] | None = None, skipped: list[int] | None = None) -> RoundMemory:
    order = make_queue_order(20, labeled or {})
    order.mark_skipped(skipped or [])
    outcome = RoundOutcome(version="v1", tasks=20)
    return RoundMemory(
        EMPTY_FINGERPRINT, "v1", outcome, PublishResult(True, Counter(), order), LOOK
    )


def row(task: int, at: str, labeled: bool = False, skips: int = 0) -> dict[str, Any]:
    return {
        "id": task,
        "updated_at": at,
        "is_labeled": labeled,
        "total_annotations": int(labeled),
        "cancelled_annotations": skips,
    }


def deciding(home: Path, **settings: Any) -> Round:
    """A round of a project, which looks at nothing yet."""
    resources = make_resources(Settings(home=home, **settings))
    record = resources.projects.register("http://127.0.0.1:9", 1)
    return Round(ProjectSession(resources, record), lambda state, progress, detail: None, None)


def test_a_label_and_a_skip_are_noticed_once() -> None:
    known = memory()
    known.record_changes([row(3, LATER, labeled=True), row(4, LATER, skips=1), row(5, LATER)])
    known.record_changes([row(3, LATER, labeled=True), row(4, LATER, skips=1)])
    assert (known.annotated_tasks, known.skipped_tasks, known.newly_answered) == ({3}, {4}, {3, 4})
    assert known.is_up_to_date([row(3, LATER, labeled=True), row(4, LATER, skips=1), row(5, LATER)])
    assert not known.is_up_to_date([row(6, LATER, skips=1)])


def test_a_mark_that_comes_after_its_date_was_seen_is_noticed() -> None:
    """Label Studio dates a task first and marks it a moment later, with no new date."""
    known = memory()
    known.record_changes([row(3, SOON), row(4, SOON)])
    known.known_until = LATER  # the other changes up to then are known
    known.record_changes([row(3, SOON, labeled=True), row(4, SOON, skips=1)])
    assert known.newly_answered == {3, 4}


def test_a_label_on_a_task_that_we_changed_too_is_a_persons() -> None:
    known = memory()
    known.ignore_own_changes([row(3, SOON)], {3})
    assert known.known_until == SOON
    known.record_changes([row(3, SOON, labeled=True)])
    assert known.annotated_tasks == {3}


def test_what_was_labeled_or_skipped_before_the_look_counts_only_when_somebody_changes_it() -> None:
    known = memory({1: "red", 2: "red", 3: "blue"}, skipped=[4])
    known.ignore_own_changes([row(3, SOON, labeled=True)], {3})
    known.record_changes(
        [row(1, LOOK, labeled=True), row(3, SOON, labeled=True), row(4, LOOK, skips=1)]
    )
    assert not known.annotated_tasks | known.skipped_tasks
    known.record_changes([row(2, LATER, labeled=True)])
    assert known.annotated_tasks == {2}
    assert known.newly_answered == set(), "no task more has an answer"


def test_where_the_project_ignores_what_was_skipped_a_skip_is_no_label() -> None:
    known = memory()
    known.record_changes([{**row(3, LATER, labeled=True, skips=1), "total_annotations": 0}])
    assert (known.annotated_tasks, known.skipped_tasks) == (set(), {3})


def test_a_round_is_not_quiet_while_the_counts_move() -> None:
    """Where no event arrives, nothing else tells that somebody is labeling."""
    known = memory()
    quiet, one, two = (
        RoundRequest(quiet=True),
        replace(EMPTY_FINGERPRINT, annotation_count=1),
        replace(EMPTY_FINGERPRINT, annotation_count=2),
    )
    assert known.adjust_request(quiet, EMPTY_FINGERPRINT).quiet
    assert [known.adjust_request(quiet, pulse).quiet for pulse in (one, two, two)] == [
        False,
        False,
        True,
    ]
    skipped = replace(two, annotation_count=2, skip_count=1)
    assert not known.adjust_request(quiet, skipped).quiet


def test_while_the_months_money_is_spent_waiting_labels_ask_for_no_full_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"):
        monkeypatch.setenv(name, "none")
    known, quiet = memory(), RoundRequest(quiet=True)
    known.live_version, known.fingerprint = "", replace(EMPTY_FINGERPRINT, last_change=LOOK)
    known.outcome, known.over_budget = replace(known.outcome, waiting=3), True
    poor = deciding(tmp_path, compute="modal", monthly_budget=1.0)
    MonthlyBudget(tmp_path / "spending.json", 1.0).record_usage("H100", 3600.0)
    assert poor._can_skip(known, known.fingerprint, quiet)
    rich = deciding(tmp_path, compute="modal", monthly_budget=1000.0)
    assert not rich._can_skip(known, known.fingerprint, quiet)
    assert rich._can_skip(known, known.fingerprint, replace(quiet, held=True))


def test_a_long_training_for_few_labels_waits_for_a_long_pause(tmp_path: Path) -> None:
    known, deciding_round = memory(), deciding(tmp_path)
    known.live_version, known.fingerprint = "", replace(EMPTY_FINGERPRINT, last_change=LOOK)
    known.outcome, known.awaits_pause = replace(known.outcome, waiting=1), True
    pause = RoundRequest(quiet=True)
    assert deciding_round._can_skip(known, known.fingerprint, pause)
    assert not deciding_round._can_skip(known, known.fingerprint, replace(pause, long_quiet=True))
    assert not deciding_round._can_skip(known, known.fingerprint, RoundRequest(forced=True))
    known.awaits_pause = False
    assert not deciding_round._can_skip(known, known.fingerprint, pause)
    one_more = replace(EMPTY_FINGERPRINT, annotation_count=1)
    assert not known.adjust_request(replace(pause, long_quiet=True), one_more).long_quiet


def test_what_changes_no_count_is_looked_at_when_people_pause(tmp_path: Path) -> None:
    """An edit of one of several answers, and a skip that became an answer: no list shows them."""
    known, deciding_round = memory(), deciding(tmp_path)
    known.live_version = ""
    same = replace(EMPTY_FINGERPRINT, last_change=LOOK)
    known.fingerprint, quiet = same, RoundRequest(quiet=True)
    assert deciding_round._can_skip(known, same, quiet)
    assert not deciding_round._can_skip(known, same, replace(quiet, hints=1))
    known.fingerprint = replace(same, annotation_count=3, skip_count=1)
    answered = replace(same, annotation_count=3, skip_count=0)
    assert deciding_round._can_skip(known, answered, RoundRequest())
    assert not deciding_round._can_skip(known, answered, quiet)
