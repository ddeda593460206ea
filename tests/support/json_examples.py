"""Compare JSON examples in documents with real responses."""

from __future__ import annotations

import json
import re
from typing import Any


def parse_elided_json(text: str) -> Any:
    """Parse JSON in which an ellipsis stands for more entries.

    Example:
        >>> parse_elided_json('{"a": [1, …], "b": {…}, "c": …, …}')
        {'a': [1], 'b': {}, 'c': None}
    """
    without_ellipsis = re.sub(r",\s*…|…\s*,(?=\s*[\"\]\[{}])", "", text)
    without_ellipsis = re.sub(r":\s*…", ": null", without_ellipsis)
    return json.loads(without_ellipsis.replace("…", ""))


def find_missing_keys(documented: Any, actual: Any, path: str = "") -> list[str]:
    """Return the keys and types of an example that a response lacks.

    Example:
        >>> find_missing_keys({"a": 1, "b": {"c": "x"}}, {"a": 2.5, "b": {}})
        ['b.c']
        >>> find_missing_keys([{"a": "x"}], [{"a": 1}])
        ['0.a: a str, not a int']
    """
    if isinstance(documented, dict):
        if not isinstance(actual, dict):
            return [f"{path}: an object"]
        differences = []
        for key, value in documented.items():
            key_path = f"{path}.{key}".lstrip(".")
            differences += (
                find_missing_keys(value, actual[key], key_path) if key in actual else [key_path]
            )
        return differences
    if isinstance(documented, list):
        pairs = list(zip(documented, actual, strict=False)) if isinstance(actual, list) else []
        if documented and not pairs:
            return [f"{path}: a list with something in it"]
        return [
            difference
            for i, (s, r) in enumerate(pairs)
            for difference in find_missing_keys(s, r, f"{path}.{i}".lstrip("."))
        ]
    numbers = (int, float)
    is_same_type = isinstance(actual, type(documented)) or (
        isinstance(documented, numbers) and isinstance(actual, numbers)
    )
    if documented is None or actual is None or is_same_type:
        return []
    return [f"{path}: a {type(documented).__name__}, not a {type(actual).__name__}"]


def parse_last_json(output: str) -> Any:
    """Parse the last JSON value that a shell printed."""
    decoder, value, position = json.JSONDecoder(), None, 0
    while position < len(output):
        start = next((i for i in range(position, len(output)) if output[i] in "{["), len(output))
        try:
            value, position = decoder.raw_decode(output, start)
        except ValueError:
            position = start + 1
    return value
