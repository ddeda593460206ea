"""What documents show of an answer, against the answer: more may come, less may not."""

from __future__ import annotations

import json
import re
from typing import Any


def like_json(text: str) -> Any:
    """JSON in which an ellipsis stands for more of the same.

    Example:
        >>> like_json('{"a": [1, …], "b": {…}, "c": …, …}')
        {'a': [1], 'b': {}, 'c': None}
    """
    bare = re.sub(r",\s*…|…\s*,(?=\s*[\"\]\[{}])", "", text)
    bare = re.sub(r":\s*…", ": null", bare)
    return json.loads(bare.replace("…", ""))


def missing(shown: Any, real: Any, where: str = "") -> list[str]:
    """What a document shows and the program does not say: keys, and kinds of values.

    Example:
        >>> missing({"a": 1, "b": {"c": "x"}}, {"a": 2.5, "b": {}})
        ['b.c']
        >>> missing([{"a": "x"}], [{"a": 1}])
        ['0.a: a str, not a int']
    """
    if isinstance(shown, dict):
        if not isinstance(real, dict):
            return [f"{where}: an object"]
        found = []
        for key, value in shown.items():
            at = f"{where}.{key}".lstrip(".")
            found += missing(value, real[key], at) if key in real else [at]
        return found
    if isinstance(shown, list):
        pairs = list(zip(shown, real, strict=False)) if isinstance(real, list) else []
        if shown and not pairs:
            return [f"{where}: a list with something in it"]
        return [
            one
            for i, (s, r) in enumerate(pairs)
            for one in missing(s, r, f"{where}.{i}".lstrip("."))
        ]
    numbers = (int, float)
    same = isinstance(real, type(shown)) or (
        isinstance(shown, numbers) and isinstance(real, numbers)
    )
    if shown is None or real is None or same:
        return []
    return [f"{where}: a {type(shown).__name__}, not a {type(real).__name__}"]


def last_json(output: str) -> Any:
    """The last value of JSON that a shell printed, each at the beginning of a line."""
    decoder, found, at = json.JSONDecoder(), None, 0
    while at < len(output):
        start = next((i for i in range(at, len(output)) if output[i] in "{["), len(output))
        try:
            found, at = decoder.raw_decode(output, start)
        except ValueError:
            at = start + 1
    return found
