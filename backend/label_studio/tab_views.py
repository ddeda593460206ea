"""Build filters and orderings of tasks, which are also the views of Data Manager tabs."""

from __future__ import annotations

from collections.abc import Iterable

TabView = dict[str, object]
PREDICTION_SCORE_COLUMN = "tasks:predictions_score"


def unlabeled_view() -> TabView:
    """Return the view of all unlabeled tasks in the order of their prediction scores."""
    filters = task_filter("total_annotations", "equal", "Number", 0)
    return {"ordering": [PREDICTION_SCORE_COLUMN], **filters}


def task_list_view(tasks: Iterable[int], by_score: bool = False) -> TabView:
    """Return the view of some tasks, optionally sorted by prediction score."""
    ordering = [PREDICTION_SCORE_COLUMN] if by_score else []
    return {"ordering": ordering, **task_filter("id", "in_list", "List", list(tasks))}


def task_filter(field: str, operator: str, kind: str, value: object) -> TabView:
    """Return a view of the tasks whose field meets a condition, such as ``equal`` to a number."""
    item = {"filter": f"filter:tasks:{field}", "operator": operator, "type": kind, "value": value}
    return {"filters": {"conjunction": "and", "items": [item]}}
