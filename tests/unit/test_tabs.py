"""Views of the Data Manager's tabs: only what Label Studio's frontend can load."""

from __future__ import annotations

import doctest
import re

import pytest

from backend.label_studio import Json, tab_views, tabs
from backend.label_studio.tab_views import (
    FRONTEND_OPERATORS,
    PREDICTION_SCORE_ORDER,
    convert_task_list,
    open_tasks_view,
    task_list_view,
    unsupported_operators,
)

COLUMNS: list[Json] = [
    {"id": "image", "parent": "data", "target": "tasks", "type": "Image"},
    {"id": "source", "parent": "data", "target": "tasks", "type": "String"},
    {"id": "id", "target": "tasks", "type": "Number"},
    {"id": "predictions_results", "target": "tasks", "type": "String"},
    {
        "id": "file_upload",
        "target": "tasks",
        "visibility_defaults": {"explore": False, "labeling": False},
    },
    {
        "id": "predictions_score",
        "target": "tasks",
        "type": "Number",
        "visibility_defaults": {"explore": False, "labeling": False},
    },
    {"id": "data", "target": "tasks", "children": ["image", "source"]},
]


def listed(tasks: list[int], all_tasks: range) -> list[int]:
    """The tasks that the filter of a list of tasks leaves, as Label Studio applies it."""
    (item,) = task_list_view(tasks).to_json()["filters"]["items"]
    assert item["operator"] == "regex"
    return [task for task in all_tasks if re.search(item["value"], str(task))]


def test_the_examples_of_the_docstrings_hold() -> None:
    for module in (tab_views, tabs):
        assert doctest.testmod(module).attempted
        assert not doctest.testmod(module).failed


@pytest.mark.parametrize("tasks", [[], [7], [1, 11, 111], list(range(5, 900, 2))], ids=len)
def test_a_list_of_tasks_leaves_these_and_no_others(tasks: list[int]) -> None:
    assert listed(tasks, range(1, 1200)) == tasks


def test_every_view_has_only_operators_of_the_frontend() -> None:
    for view in (open_tasks_view(), task_list_view([1]), task_list_view([], by_score=True)):
        assert not unsupported_operators(view.to_json())
        assert view.filter.operator in FRONTEND_OPERATORS


def test_a_regex_is_never_applied_to_a_column_that_the_frontend_takes_for_a_number() -> None:
    data = task_list_view([1, 2]).to_json()
    (item,) = data["filters"]["items"]
    assert data["columnsDisplayType"] == {item["filter"].removeprefix("filter:"): item["type"]}


def test_an_operator_of_a_filter_below_another_is_found() -> None:
    child = {"filter": "filter:tasks:id", "operator": "not_in_list", "type": "List", "value": []}
    item = {"filter": "filter:tasks:id", "operator": "equal", "type": "Number", "value": 1}
    data = {"filters": {"conjunction": "and", "items": [item | {"child_filter": child}]}}
    assert unsupported_operators(data) == ["not_in_list"]
    assert unsupported_operators({"title": "Default"}) == []


@pytest.mark.parametrize(
    ("value", "tasks"), [([3, 30], [3, 30]), ([], []), (["4", 5], [4, 5]), (None, [])]
)
def test_a_broken_list_of_tasks_keeps_its_tasks_and_its_order(
    value: list[object] | None, tasks: list[int]
) -> None:
    item = {"filter": "filter:tasks:id", "operator": "in_list", "type": "List", "value": value}
    data = {
        "ordering": [PREDICTION_SCORE_ORDER],
        "filters": {"conjunction": "and", "items": [item]},
    }
    assert convert_task_list(data) == task_list_view(tasks, by_score=True)


def test_other_filters_are_not_converted() -> None:
    for view in (open_tasks_view(), task_list_view([1])):
        assert convert_task_list(view.to_json()) is None


def test_a_tab_shows_the_image_the_suggestion_and_the_id_not_the_rank_as_a_score() -> None:
    columns = open_tasks_view().columns_json(COLUMNS)
    hidden_by_default = ["tasks:file_upload", PREDICTION_SCORE_ORDER]
    assert columns["hiddenColumns"]["explore"] == ["tasks:data.source", *hidden_by_default]
    assert columns["hiddenColumns"]["labeling"] == hidden_by_default
