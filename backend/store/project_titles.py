"""Tell projects with the same title apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from backend.records import ProjectStatus


def title_notes(projects: Iterable[ProjectStatus]) -> dict[int | str, str]:
    """Return what tells a project apart, by id, for those whose title is not unique.

    Example:
        >>> first, second = (ProjectStatus("plants", id=n, number=n) for n in (3, 7))
        >>> title_notes([first, second, ProjectStatus("apples", id=8, number=8)])
        {3: 'project 3', 7: 'project 7'}
    """
    projects = list(projects)
    counts = Counter(project.title for project in projects)
    has_servers = len({project.server for project in projects}) > 1
    return {
        project.id: f"project {project.number}" + f" at {project.server}" * has_servers
        for project in projects
        if counts[project.title] > 1
    }
