"""Records read the JSON of older and newer releases, and write the same keys again."""

from __future__ import annotations

from typing import Any

import pytest

from backend.card_records import ControlCard, PromotionEvent
from backend.json_records import from_json, to_json
from backend.records import ProjectStatus, RoundOutcome
from backend.store.versions import VersionCard
from tests.support.dashboard_homes import UNKNOWN_FIGURE, make_card_json

FIGURE = {"n": 20, "value": 0.9, "low": 0.7, "high": 0.97, "metric": "accuracy"}
ACCEPTING = {
    "error": 0.05,
    "level": 0.8,
    "reason": "It holds.",
    "missing": 0,
    "proven": 0.04,
    "images": 80,
    "audit": 90,
    "chance": 0.015,
}
OUTLOOK = {
    "sentence": "About 40 more labels.",
    "labels": [{"label": "dead", "more": 12, "most": 30, "words": "about 12 to 30"}],
    "stop": False,
    "agreement": None,
    "curve": [{"labels": 40, "value": 0.9, "low": 0.8, "high": 0.95}],
    "from": "cross-validation",
}
REGION_CONTROL = {
    "kind": "fine-tuned",
    "examples": {"leaf": 12},
    "audit": FIGURE,
    "figures": {"labels": {"leaf": {"there": 3}}, "shown": 0.3},
    "shown": 0.3,
    "advice": "Draw some.",
    "made_from": ["a", [1, 2]],
}
EMPTY_CARD = {
    **make_card_json(0, 0),
    **{name: {} for name in ("encoder", "detector", "promotion", "estimate", "outlook")},
    **{name: {} for name in ("accepting", "compute", "packages", "controls")},
    "audit": UNKNOWN_FIGURE,
    "parent": None,
}
FULL_CARD = {
    **make_card_json(3, 120),
    "controls": {"leaves": REGION_CONTROL},
    "outlook": OUTLOOK,
    "accepting": ACCEPTING,
    "compute": {"where": "modal", "device": "L4", "seconds": 12.5, "dollars": 0.01},
}
OUTCOME = {
    "title": "Greenhouse",
    "version": "v1-a",
    "tasks": 20,
    "labels": 12,
    "audit": FIGURE,
    "controls": [
        {"name": "plant", "to_name": "image", "type": "Choices", "choice": "single"}
        | {"labels": ["dead"], "kind": "none yet"},
        {"name": "leaves", "to_name": "image", "type": "RectangleLabels", "labels": ["leaf"]}
        | {"smart": True, "kind": "fine-tuned", "examples": {"leaf": 12}, "shown": 0.3},
    ],
    "left_out": {"rotated box": 2},
    "versions": ["v1-a", "v0-b"],
    "trained": "",
    "waiting": 3,
    "estimate": {},
    "outlook": OUTLOOK,
    "accepting": {**ACCEPTING, "suspended": False, "checked": 4},
    "accepted": 5,
    "held": {"version": "", "reason": "This month's budget is spent."},
    "seconds": {"observe": 0.1, "total": 1.5},
}
STATUS = {
    "id": 3,
    "server": "http://label.example",
    "number": 3,
    "title": "Greenhouse",
    "version": None,
    "round": {"state": "idle", "progress": 1.0, "detail": None, "error": None},
    **{key: OUTCOME[key] for key in ("tasks", "labels", "waiting", "audit", "controls")},
    **{key: OUTCOME[key] for key in ("left_out", "estimate", "outlook", "accepting", "accepted")},
    "held": {},
    "captured": {"waiting": 2, "returned": 1},
    "versions": ["v1-a"],
}
EVENT = {"at": "2026-01-01", "version": "v0-a", "from": None, "by": "the loop", "reason": ""}


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        (VersionCard, EMPTY_CARD),
        (VersionCard, FULL_CARD),
        (RoundOutcome, OUTCOME),
        (RoundOutcome, OUTCOME | {"cleanup": True, "held": {}, "accepting": {}, "outlook": {}}),
        (ProjectStatus, STATUS),
        (PromotionEvent, EVENT),
    ],
)
def test_json_is_written_with_the_keys_and_values_it_was_read_with(
    kind: Any, row: dict[str, Any]
) -> None:
    assert to_json(from_json(kind, row)) == row


def test_unknown_keys_are_ignored_and_missing_ones_take_defaults() -> None:
    row = {**FULL_CARD, "later": 1, "labels": {"train": 1, "audit": 2, "test": 3}}
    del row["compute"]
    card = from_json(VersionCard, row)
    assert (card.labels.train, card.compute) == (1, None)


@pytest.mark.parametrize("row", [[], {"version": "v0-a"}, FULL_CARD | {"labels": 3}])
def test_json_of_another_shape_is_refused(row: Any) -> None:
    with pytest.raises(TypeError):
        from_json(VersionCard, row)


def test_label_figures_are_read_from_both_shapes_of_metrics() -> None:
    choices = ControlCard(figures={"labels": {"dead": {"precision": FIGURE}}})
    regions = ControlCard(
        figures={"labels": {"leaf": {"precision": 0.9, "intervals": {"precision": FIGURE}}}}
    )
    for card, label in ((choices, "dead"), (regions, "leaf")):
        figures = card.label_figures(label)
        assert figures.precision is not None
        assert (figures.precision.to_json(), figures.recall) == (FIGURE, None)
