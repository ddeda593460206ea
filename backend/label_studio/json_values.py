"""Read values of JSON that anybody may have written: annotations and the data of tasks.

A value of another type than expected counts as missing, so that it costs one annotation at most.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from backend.label_studio import Json


def read_object(row: Mapping[str, object], key: str) -> Json:
    """Return an object; an empty one if the value is not an object."""
    value = row.get(key)
    return value if isinstance(value, dict) else {}


def read_objects(row: Mapping[str, object], key: str) -> list[Json]:
    """Return the objects of a list, without its other items."""
    value = row.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def read_strings(row: Mapping[str, object], key: str) -> list[str]:
    """Return the strings of a list, without its other items."""
    value = row.get(key)
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def read_field(data: Mapping[str, object], path: str) -> object:
    """Return the field of a task's data that ``value="$path"`` names; None if it is missing.

    As in Label Studio, a field with that exact name comes before a nested one.

    Example:
        >>> read_field({"meta": {"images": ["a.jpg"]}}, "meta.images[0]")
        'a.jpg'
    """
    if path in data:
        return data[path]
    value: object = data
    for key in re.findall(r"[^.\[\]]+", path):
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and key.isdecimal() and len(key) < 10:
            value = value[int(key)] if int(key) < len(value) else None
        else:
            return None
    return value
