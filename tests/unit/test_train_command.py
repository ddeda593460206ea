"""``prelabel train`` reports the outcome of the round."""

from __future__ import annotations

import pytest

from backend.cli.train import _describe_outcome
from backend.estimate import IntervalEstimate
from backend.records import HeldVersion, RoundOutcome

USED = "uses all of them, those of audit images only to measure the accuracy."
HELD = HeldVersion("v2-0a", "Held back: it is worse.")
OVER_BUDGET = HeldVersion(reason="This month's budget is spent.")


@pytest.mark.parametrize(
    ("labels", "trained", "held", "expected"),
    [
        (0, "", None, "Nothing is labeled yet: label a few images first."),
        (0, "v0-00", None, "Nothing is labeled yet: label a few images first."),
        (1, "v1-0a", None, "Version v1-0a is live. It uses one label."),
        (9, "v1-0a", None, "Version v1-0a is live. It uses 9 labels."),
        (9, "", None, f"No new labels: v1-0a {USED}"),
        (9, "v2-0a", HELD, "Version v2-0a is not live. Held back: it is worse."),
        (
            *(9, "", HELD),
            f"No new labels: v2-0a {USED} Version v2-0a is not live. Held back: it is worse.",
        ),
        (9, "", OVER_BUDGET, "This month's budget is spent."),
    ],
)
def test_the_outcome_of_a_round_is_described(
    labels: int, trained: str, held: HeldVersion | None, expected: str
) -> None:
    outcome = RoundOutcome(version="v1-0a", tasks=20, labels=labels, trained=trained, held=held)
    assert _describe_outcome(outcome) == expected


def test_labels_that_only_measure_are_not_said_to_train() -> None:
    audit = IntervalEstimate(6, 1.0, 0.6, 1.0)
    outcome = RoundOutcome(labels=60, trained="v1-0a", version="v1-0a", audit=audit)
    told = _describe_outcome(outcome)
    assert "It uses 60 labels, those of audit images only to measure the accuracy." in told
    assert "trained on" not in told


def test_empty_annotations_are_named_as_the_reason() -> None:
    outcome = RoundOutcome(version="v0-00", tasks=20, trained="v0-00", unanswered=(3, 4))
    sentence = "There is no label to train on: 2 images were submitted without a choice."
    assert _describe_outcome(outcome) == sentence


def test_the_newest_version_is_named_after_a_roll_back() -> None:
    outcome = RoundOutcome(version="v1-0a", labels=9, versions=("v2-0a", "v1-0a"))
    assert _describe_outcome(outcome) == f"No new labels: v2-0a {USED}"
