"""Tabs of a project's Data Manager: create and update Prelabel's, and repair broken ones."""

from __future__ import annotations

from dataclasses import dataclass

from backend.errors import LabelStudioError
from backend.label_studio import Json
from backend.label_studio.api_session import ApiSession
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.tab_views import (
    TabView,
    convert_task_list,
    default_hidden_columns,
    open_tasks_view,
    unsupported_operators,
)

LABEL_NEXT_TAB = "Prelabel: label next"
"""Title of the tab in the order of the queue."""
LABEL_ERRORS_TAB = "Prelabel: check labels"
SIMILAR_TAB = "Prelabel: similar"
FORMER_TITLES = {"Prelabel: ask next": LABEL_NEXT_TAB}
OWN_TITLES = frozenset({LABEL_NEXT_TAB, LABEL_ERRORS_TAB, SIMILAR_TAB, *FORMER_TITLES})
DEFAULT_TAB = "Default"
"""Title of the tab that the frontend creates in a project without tabs."""
VIEWS_PATH = "api/dm/views/"


@dataclass(frozen=True)
class BrokenTab:
    """A tab that Label Studio's frontend cannot load.

    Attributes:
        id: its number.
        title: its title.
        operators: operators of its filters that the frontend does not have.
        is_own: Prelabel created it, and repairs it.
    """

    id: int
    title: str
    operators: tuple[str, ...]
    is_own: bool


class ProjectTabs:
    """The tabs of one project. Tabs that people created are never changed.

    Args:
        client: client of Label Studio.
        number: the project's.
    """

    def __init__(self, client: ApiSession, number: int) -> None:
        self._client = client
        self._query = {"project": number}

    def ensure_label_next(self) -> int:
        """Create or update the tab in the order of the queue, and return its id."""
        return self.ensure(LABEL_NEXT_TAB, open_tasks_view())

    def ensure(self, title: str, view: TabView) -> int:
        """Create or update one of Prelabel's tabs, and return its id; repairs all others."""
        rows = self._repair(self._list())
        row = _find(rows, title)
        if row is not None:
            self._update(row, view)
            return int(row["id"])
        columns = self._columns()
        if not rows:  # the frontend creates it only where there is no tab yet
            default = {"title": DEFAULT_TAB, "hiddenColumns": default_hidden_columns(columns)}
            self._create(default)
        return self._create({"title": title, **view.to_json(), **view.columns_json(columns)})

    def update(self, title: str, view: TabView) -> None:
        """Update one of Prelabel's tabs if it exists; repairs all others."""
        row = _find(self._repair(self._list()), title)
        if row is not None:
            self._update(row, view)

    def repair(self) -> None:
        """Replace the filters of Prelabel's tabs that the frontend cannot load."""
        self._repair(self._list())

    def find_broken(self) -> list[BrokenTab]:
        """Return the tabs that the frontend cannot load; one of them hides all tabs."""
        broken = []
        for row in self._list():
            title = str(row["data"].get("title") or "")
            operators = unsupported_operators(row["data"])
            if operators:
                is_own = _is_repairable(row)
                broken.append(BrokenTab(int(row["id"]), title, tuple(operators), is_own))
        return broken

    def _repair(self, rows: list[Json]) -> list[Json]:
        """Repair tabs, give renamed ones their new title, and return all tabs."""
        return [self._repair_tab(row) for row in rows]

    def _repair_tab(self, row: Json) -> Json:
        data = row["data"]
        title = str(data.get("title") or "")
        new_title = FORMER_TITLES.get(title, title)
        view = convert_task_list(data) if _is_repairable(row) else None
        if view is None and new_title != title:
            view = open_tasks_view()
        if view is None:
            return row
        columns = view.columns_json(self._columns())
        return self._patch(row, {"title": new_title, **view.to_json(), **columns})

    def _update(self, row: Json, view: TabView) -> None:
        wanted = view.to_json()
        if any(_without_children(row["data"].get(key)) != value for key, value in wanted.items()):
            self._patch(row, wanted)

    def _list(self) -> list[Json]:
        rows = self._client.get_json(VIEWS_PATH, self._query)
        return [{**row, "data": row.get("data") or {}} for row in rows]

    def _columns(self) -> list[Json]:
        return list(self._client.get_json("api/dm/columns/", self._query)["columns"])

    def _create(self, data: Json) -> int:
        body = {**self._query, "data": data}
        return int(self._client.request_json("POST", VIEWS_PATH, self._query, json=body)["id"])

    def _patch(self, row: Json, changes: Json) -> Json:
        body = {**self._query, "data": {**row["data"], **changes}}
        self._client.request_json("PATCH", f"{VIEWS_PATH}{row['id']}/", self._query, json=body)
        return {**row, "data": body["data"]}


def labeling_path(tab: int) -> str:
    """Return the address at which Label Studio serves the tasks of a tab one after the other.

    Without a tab it serves them in the order of the Data Manager's first one.

    Example:
        >>> labeling_path(12)
        'data?tab=12&labeling=1'
    """
    return f"data?tab={tab}&labeling=1"


@dataclass(frozen=True)
class LabelingLink:
    """Where people label a project.

    Attributes:
        url: the queue, or the list of all tasks if no task is open.
        has_open_tasks: a task has no annotation yet.
    """

    url: str
    has_open_tasks: bool

    @property
    def line(self) -> str:
        """The link, as commands print it."""
        if self.has_open_tasks:
            return f"Label here: {self.url}"
        return f"Every image is labeled. See them here: {self.url}"


def ensure_labeling_link(client: LabelStudioClient, number: int, server: str = "") -> LabelingLink:
    """Create the tab in the order of the queue, and return the link to it.

    Args:
        client: client of Label Studio.
        number: the project's.
        server: Label Studio's address in the browser; by default the client's.
    """
    url = ensure_labeling_url(client, number, server)
    project = client.get_project(number)
    task_count = int(project.get("task_number") or 0)
    annotated_count = int(project.get("num_tasks_with_annotations") or 0)
    has_open_tasks = task_count == 0 or annotated_count < task_count
    return LabelingLink(url if has_open_tasks else url.partition("?")[0], has_open_tasks)


def ensure_labeling_url(client: ApiSession, number: int, server: str = "") -> str:
    """Return the address at which people label a project in the order of the queue.

    Args:
        client: client of Label Studio.
        number: the project's.
        server: Label Studio's address in the browser; by default the client's.
    """
    project_url = f"{(server or client.server).rstrip('/')}/projects/{number}"
    try:
        tab = ProjectTabs(client, number).ensure_label_next()
    except LabelStudioError:  # the token may read tasks, and not write tabs
        return f"{project_url}/data?labeling=1"
    return f"{project_url}/{labeling_path(tab)}"


def _find(rows: list[Json], title: str) -> Json | None:
    return next((row for row in rows if row["data"].get("title") == title), None)


def _is_repairable(row: Json) -> bool:
    return row["data"].get("title") in OWN_TITLES and convert_task_list(row["data"]) is not None


def _without_children(value: object) -> object:
    """Return filters without the empty field that the frontend adds when it saves a tab."""
    if not isinstance(value, dict) or "items" not in value:
        return value
    items = [
        {key: part for key, part in item.items() if key != "child_filter" or part}
        for item in value["items"]
    ]
    return {**value, "items": items}
