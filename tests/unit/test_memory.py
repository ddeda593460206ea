"""What is remembered of labels and skips that came since the last full look."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.loop.publish.publish import Presented
from backend.loop.round import Ask, Memory, Outcome, Round
from backend.runtime.resources import Resources
from backend.settings import Settings
from serverless.monthly_budget import Spending
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
    return {
        "id": task,
        "updated_at": at,
        "is_labeled": labeled,
        "total_annotations": int(labeled),
        "cancelled_annotations": skips,
    }


def deciding(home: Path, **settings: Any) -> Round:
    """A round of a project, which looks at nothing yet."""
    resources = Resources(Settings(home=home, **settings))
    record = resources.projects.register("http://127.0.0.1:9", 1)
    return Round(resources, record, lambda state, progress, detail: None, None)


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


def test_where_the_project_ignores_what_was_skipped_a_skip_is_no_label() -> None:
    known = memory()
    known.notice([{**row(3, LATER, labeled=True, skips=1), "total_annotations": 0}])
    assert (known.touched, known.skipped) == (set(), {3})


def test_a_round_is_not_quiet_while_the_counts_move() -> None:
    """Where no event arrives, nothing else tells that somebody is labeling."""
    known = memory()
    quiet, one, two = Ask(quiet=True), replace(PULSE, annotations=1), replace(PULSE, annotations=2)
    assert known.heard(quiet, PULSE).quiet
    assert [known.heard(quiet, pulse).quiet for pulse in (one, two, two)] == [False, False, True]
    skipped = replace(two, annotations=2, skipped=1)
    assert not known.heard(quiet, skipped).quiet


def test_while_the_months_money_is_spent_waiting_labels_ask_for_no_full_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"):
        monkeypatch.setenv(name, "none")
    known, quiet = memory(), Ask(quiet=True)
    known.live, known.pulse = "", replace(PULSE, changed=LOOK)
    known.outcome, known.waits = replace(known.outcome, waiting=3), True
    poor = deciding(tmp_path, compute="modal", monthly_budget=1.0)
    Spending(tmp_path / "spending.json", 1.0).add("H100", 3600.0)
    assert poor._nothing_to_do(known, known.pulse, quiet)
    rich = deciding(tmp_path, compute="modal", monthly_budget=1000.0)
    assert not rich._nothing_to_do(known, known.pulse, quiet)
    assert rich._nothing_to_do(known, known.pulse, replace(quiet, held=True))


def test_what_changes_no_count_is_looked_at_when_people_pause(tmp_path: Path) -> None:
    """An edit of one of several answers, and a skip that became an answer: no list shows them."""
    known, deciding_round = memory(), deciding(tmp_path)
    known.live = ""
    same = replace(PULSE, changed=LOOK)
    known.pulse, quiet = same, Ask(quiet=True)
    assert deciding_round._nothing_to_do(known, same, quiet)
    assert not deciding_round._nothing_to_do(known, same, replace(quiet, hints=1))
    known.pulse = replace(same, annotations=3, skipped=1)
    answered = replace(same, annotations=3, skipped=0)
    assert deciding_round._nothing_to_do(known, answered, Ask())
    assert not deciding_round._nothing_to_do(known, answered, quiet)
