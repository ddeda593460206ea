"""A response for eyes: marks to draw on the image, and a line of words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from backend.domain import Place
from backend.vision.drawing import Mark

Answer = Mapping[str, Any]


def marks_of(answer: Answer) -> list[Mark]:
    """What to draw of a response to one image, see ``answers.answer``."""
    controls = answer.get("controls") or {"": answer}
    return [mark for one in controls.values() for mark in _marks(one)]


def in_words(answer: Answer) -> str:
    """A response in a line.

    Example:
        >>> in_words({"labelName": "red", "confidence": 0.981})
        'red 98%'
        >>> in_words({"predictions": [...], "counts": {"apple": 3, "pear": 0}})
        '3 apple'
    """
    controls = answer.get("controls")
    if controls:
        return "; ".join(f"{name}: {_words(one)}" for name, one in controls.items())
    return _words(answer)


def _words(answer: Answer) -> str:
    if "predictions" in answer:
        counts = [f"{count} {name}" for name, count in answer["counts"].items() if count]
        return ", ".join(counts) or "nothing found"
    if "labels" in answer:
        return ", ".join(map(_sure, answer["labels"])) or "none of the labels"
    return _sure(answer) if answer["labelName"] else "not certain of any label"


def _sure(one: Answer) -> str:
    return f"{one['labelName']} {one['confidence']:.0%}"


def _marks(answer: Answer) -> Iterator[Mark]:
    if answer.get("labelName"):
        yield Mark(answer["labelName"], answer["confidence"])
    for one in answer.get("labels", []):
        yield Mark(one["labelName"], one["confidence"])
    for one in answer.get("predictions", []):
        yield Mark(one["labelName"], one["confidence"], _place(one))


def _place(one: Answer) -> Place:
    if "center" in one:
        x, y = one["center"]["x"], one["center"]["y"]
        return Place(one["labelName"], x, y, x, y)
    box = one["boundingBox"]
    x, y = box["x"], box["y"]
    return Place(one["labelName"], x, y, x + box["width"], y + box["height"])
