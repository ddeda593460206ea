"""Labels are renamed in annotations; those that the config lost are counted and decided on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.domain import Control, Label
from backend.errors import UsageError
from backend.label_studio.annotation_relabeling import (
    LabelRename,
    count_removed_labels,
    rename_in_result,
)
from backend.loop.rename_label import find_control
from backend.store.label_answers import (
    LABEL_ANSWERS_FILE,
    LabelAnswer,
    read_label_answers,
    remove_label_answer,
    save_label_answer,
)

CLOTHES = Control("clothes", "image", "image", (Label("dress"), Label("trousers")))
BOXES = Control("boxes", "image", "image", (Label("shoe"),), kind="boxes")
RENAME = LabelRename("clothes", "pants", "trousers")


def choice(*labels: str, control: str = "clothes") -> dict[str, Any]:
    return {"from_name": control, "type": "choices", "value": {"choices": list(labels)}}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([choice("pants")], [choice("trousers")]),
        ([choice("dress", "pants")], [choice("dress", "trousers")]),
        ([choice("pants", "dress", "trousers")], [choice("trousers", "dress")]),
        ([choice("pants", control="other")], None),
        ([choice("dress"), {"from_name": "clothes", "value": "damaged"}], None),
        ([choice("dress"), {"type": "relation"}], None),
        (
            [
                {
                    "from_name": "clothes",
                    "value": {"x": 1.5, "rectanglelabels": ["pants"]},
                    "id": "a",
                }
            ],
            [
                {
                    "from_name": "clothes",
                    "value": {"x": 1.5, "rectanglelabels": ["trousers"]},
                    "id": "a",
                }
            ],
        ),
        ([{"from_name": "clothes", "value": {"text": ["pants"]}}], None),
    ],
)
def test_only_the_label_of_the_control_is_renamed(
    before: list[dict[str, Any]], after: list[dict[str, Any]] | None
) -> None:
    assert rename_in_result(before, RENAME) == after


def test_labels_that_the_config_lost_are_counted_once_per_annotation() -> None:
    box = {"from_name": "boxes", "value": {"rectanglelabels": ["hat"]}}
    annotations: list[dict[str, Any]] = [
        {"result": [choice("pants"), box, box]},
        {"result": [choice("pants", "dress")]},
        {"result": [choice("pants")], "was_cancelled": True},
        {"result": [choice("pants", control="gone")]},
        {"result": None},
    ]
    counts = count_removed_labels(annotations, [CLOTHES, BOXES])
    assert counts == {("clothes", "pants"): 2, ("boxes", "hat"): 1}


@pytest.mark.parametrize(
    ("rename", "problem"),
    [
        (LabelRename("", "dress", ""), "is not a new name"),
        (LabelRename("", "dress", " gown"), "is not a new name"),
        (LabelRename("", "dress", "dress"), "is not a new name"),
        (LabelRename("", "hat", "cap"), "No control has the label 'hat'. The labels are clothes:"),
        (LabelRename("boxes", "dress", "gown"), "No control has the label"),
    ],
)
def test_a_rename_that_does_not_fit_the_config_is_refused(
    rename: LabelRename, problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        find_control([CLOTHES, BOXES], rename)


def test_the_control_of_a_rename_is_found_by_the_old_or_else_the_new_label() -> None:
    assert find_control([CLOTHES, BOXES], LabelRename("", "dress", "gown")) is CLOTHES
    assert find_control([CLOTHES, BOXES], LabelRename("", "boot", "shoe")) is BOXES


def test_a_later_answer_replaces_the_earlier_one(tmp_path: Path) -> None:
    assert read_label_answers(tmp_path) == ()
    other = LabelAnswer("boxes", "hat", "")
    for answer in (LabelAnswer("clothes", "pants", "jeans"), other):
        save_label_answer(tmp_path, answer)
    latest = LabelAnswer("clothes", "pants", "trousers", keeps_old=True)
    save_label_answer(tmp_path, latest)
    assert read_label_answers(tmp_path) == (other, latest)
    remove_label_answer(tmp_path, "clothes", "pants", new="an earlier decision")
    assert read_label_answers(tmp_path) == (other, latest)
    remove_label_answer(tmp_path, "clothes", "pants")
    assert read_label_answers(tmp_path) == (other,)
    (tmp_path / LABEL_ANSWERS_FILE).write_text("{")
    assert read_label_answers(tmp_path) == (), "people are asked again"
