"""Find the project that a person means by a number, a title, or the start of a title."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

KeyT = TypeVar("KeyT")


def match_projects(text: str, names: Mapping[KeyT, Sequence[str]]) -> list[KeyT]:
    """Return the projects that a text names.

    Args:
        text: id, number, title, or start of a title; "" matches all projects.
        names: project → its id, further names, and at last its title.

    Returns:
        the projects of the first rule that matches any: the id, another name, or the start of the
        title in upper or lower case. A number is never the start of a title.

    Example:
        >>> names = {1: ("1", "Roses"), 2: ("2", "Tulips"), 3: ("3", "Tulips 2024")}
        >>> match_projects("tul", names), match_projects("Tulips", names), match_projects("", names)
        ([2, 3], [2], [1, 2, 3])
    """
    if not text:
        return list(names)
    for matches in (
        [key for key, known in names.items() if text == known[0]],
        [key for key, known in names.items() if text in known],
    ):
        if matches:
            return matches
    start = text.casefold()
    return [
        key
        for key, known in names.items()
        if not text.isdigit() and known[-1].casefold().startswith(start)
    ]
