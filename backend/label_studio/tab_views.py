"""Views of Data Manager tabs, as Label Studio's API takes them."""

from __future__ import annotations

from collections.abc import Iterable

TabView = dict[str, object]
PREDICTION_SCORE_COLUMN = "tasks:predictions_score"


def unlabeled_view() -> TabView:
    """Return the view of all unlabeled tasks in the order of their prediction scores."""
    return _view(_filter("total_annotations", "equal", "Number", 0), [PREDICTION_SCORE_COLUMN])


def task_list_view(tasks: Iterable[int], by_score: bool = False) -> TabView:
    """Return the view of some tasks, sorted by prediction score on request."""
    ordering = [PREDICTION_SCORE_COLUMN] if by_score else []
    return _view(_filter("id", "in_list", "List", list(tasks)), ordering)


def _filter(field: str, operator: str, kind: str, value: object) -> TabView:
    return {"filter": f"filter:tasks:{field}", "operator": operator, "type": kind, "value": value}


def _view(item: TabView, ordering: list[str]) -> TabView:
    return {"ordering": ordering, "filters": {"conjunction": "and", "items": [item]}}
