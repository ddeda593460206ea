"""Views of Data Manager tabs that Label Studio's API and its frontend both accept.

The API stores any filter. The frontend fails on an operator that it does not have, and then shows
no tab of the project to anybody. So filters are built here only, from operators that it has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from backend.label_studio import Json

FrontendOperator = Literal["empty", "regex"]
FRONTEND_OPERATORS = frozenset(
    (
        *("equal", "not_equal", "less", "greater", "less_or_equal", "greater_or_equal"),
        *("in", "not_in", "contains", "not_contains", "regex", "empty"),
    )
)
"""Operators of the frontend of Label Studio 1.23 (``TabFilter`` in its ``167.js``)."""
PREDICTION_SCORE_ORDER = "tasks:predictions_score"
TASK_ID_COLUMN = "tasks:id"
SUGGESTION_COLUMN = "tasks:predictions_results"
ANSWER_COLUMN = "tasks:annotations_results"
RESULT_COLUMN_WIDTH = 360
"""Pixels; a result is shown as three lines of JSON."""


@dataclass(frozen=True)
class TabFilter:
    """A condition on one column.

    Attributes:
        column: such as ``tasks:id``.
        operator: a filter operator that the frontend has for columns of this type.
        type: type of the column in the frontend; see ``TabView.column_types``.
        value: the value to compare with.
    """

    column: str
    operator: FrontendOperator
    type: Literal["Datetime", "String"]
    value: str | bool

    def to_json(self) -> Json:
        """Return the filter as the API takes it."""
        column = f"filter:{self.column}"
        return {
            "filter": column,
            "operator": self.operator,
            "type": self.type,
            "value": self.value,
        }


@dataclass(frozen=True)
class TabView:
    """Which tasks a tab lists, in which order.

    Attributes:
        filter: filter of the tasks.
        ordering: columns to sort by.
        column_types: column → type that replaces its own one in the frontend.
        columns: visible columns besides the images.
    """

    filter: TabFilter
    ordering: Sequence[str] = ()
    column_types: dict[str, str] = field(default_factory=dict)
    columns: Sequence[str] = (TASK_ID_COLUMN, SUGGESTION_COLUMN)

    def to_json(self) -> Json:
        """Return filters, ordering and column types as the API takes them."""
        return {
            "ordering": list(self.ordering),
            "filters": {"conjunction": "and", "items": [self.filter.to_json()]},
            "columnsDisplayType": self.column_types,
        }

    def columns_json(self, columns: Sequence[Json]) -> Json:
        """Return which columns are hidden, and their widths.

        Args:
            columns: all columns of the project, as the API lists them.
        """
        images = {column_id(column) for column in columns if column.get("type") == "Image"}
        visible = {*images, *self.columns}
        hidden = default_hidden_columns(columns)
        hidden["explore"] = [
            column_id(c) for c in columns if not c.get("children") and column_id(c) not in visible
        ]
        widths = {
            column: RESULT_COLUMN_WIDTH
            for column in self.columns
            if column in (SUGGESTION_COLUMN, ANSWER_COLUMN)
        }
        return {"hiddenColumns": hidden, "columnsWidth": widths}


def open_tasks_view() -> TabView:
    """Return the view of the tasks that need annotations, lowest prediction score first."""
    unfinished = TabFilter("tasks:completed_at", "empty", "Datetime", True)
    return TabView(unfinished, (PREDICTION_SCORE_ORDER,))


def task_list_view(tasks: Iterable[int], by_score: bool = False) -> TabView:
    """Return the view of some tasks, sorted by prediction score on request.

    The frontend has no operator for a list of numbers. A regular expression keeps hundreds of
    tasks in one condition. It needs the type String: the frontend saves a tab when it opens it,
    and would turn the expression into a number.

    Args:
        tasks: ids; without any, the view is empty.
        by_score: sort by prediction score, low first.
    """
    pattern = f"^({'|'.join(map(str, tasks))})$"
    return TabView(
        TabFilter(TASK_ID_COLUMN, "regex", "String", pattern),
        (PREDICTION_SCORE_ORDER,) if by_score else (),
        {TASK_ID_COLUMN: "String"},
        (TASK_ID_COLUMN, ANSWER_COLUMN, SUGGESTION_COLUMN),
    )


def unsupported_operators(data: Json) -> list[str]:
    """Return the operators of a tab's filters that the frontend does not have.

    Args:
        data: data of the tab, as the API returns it.
    """
    return [
        str(item.get("operator"))
        for item in _filter_items(data)
        if item.get("operator") is not None and item["operator"] not in FRONTEND_OPERATORS
    ]


def convert_task_list(data: Json) -> TabView | None:
    """Return the view of a tab whose filter is an ``in_list`` of task ids; None for other tabs."""
    items = _filter_items(data)
    if len(items) != 1 or items[0].get("operator") != "in_list":
        return None
    if items[0].get("filter") != f"filter:{TASK_ID_COLUMN}":
        return None
    value = items[0].get("value")
    tasks = [int(id) for id in re.findall(r"\d+", str(value))]
    return task_list_view(tasks, by_score=PREDICTION_SCORE_ORDER in (data.get("ordering") or []))


def default_hidden_columns(columns: Sequence[Json]) -> dict[str, list[str]]:
    """Return the columns that a new tab of the frontend hides, by its mode."""
    return {
        mode: [
            column_id(column)
            for column in columns
            if not (column.get("visibility_defaults") or {}).get(mode, True)
        ]
        for mode in ("explore", "labeling")
    }


def column_id(column: Json) -> str:
    """Return the id of a column in a tab.

    Example:
        >>> column_id({"id": "image", "parent": "data", "target": "tasks"})
        'tasks:data.image'
    """
    parent = f"{column['parent']}." if column.get("parent") else ""
    return f"{column['target']}:{parent}{column['id']}"


def _filter_items(data: Json) -> list[Json]:
    """Return a tab's filters with the filters below them."""
    found: list[Json] = []
    pending = list((data.get("filters") or {}).get("items") or [])
    while pending:
        item = pending.pop(0)
        found.append(item)
        if item.get("child_filter"):
            pending.append(item["child_filter"])
    return found
