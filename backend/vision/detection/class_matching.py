"""The classes a pretrained network knows ↔ the labels of a project."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from backend.domain import Label
from backend.vision.encoders.text_prototypes import readable


def known_as(labels: Sequence[Label], classes: Sequence[str]) -> dict[int, int]:
    """Which classes of a network mean a label of the project.

    Args:
        labels: of the control. Where a label has words of its own (``predicted_values``) they
            count, and else its name; upper and lower case, spaces, joints and plurals do
            not matter.
        classes: names that the network was trained on, in its order.

    Returns:
        class index → label index; classes that mean no label are absent, and a class that two
        labels claim belongs to the first.

    Example:
        >>> labels = [Label("Apples"), Label("vehicle", words=("car", "bus"))]
        >>> known_as(labels, ["bus", "apple", "dog"])
        {0: 1, 1: 0}
    """
    meant = _meant(labels)
    found = ((index, meant.get(_key(name))) for index, name in enumerate(classes))
    return {index: label for index, label in found if label is not None}


def singular(name: str) -> str:
    """A name in lower case and singular, as far as rules of English go.

    Example:
        >>> [singular(n) for n in ("Strawberries", "wine_Glasses", "Buses", "people", "bus")]
        ['strawberry', 'wine glass', 'bus', 'person', 'bus']
    """
    words = readable(PLURAL_MARK.sub("", name.strip())).split()
    if words:
        words[-1] = _one(words[-1])
    return " ".join(words)


def _meant(labels: Sequence[Label]) -> Mapping[str, int]:
    meant: dict[str, int] = {}
    for index, label in enumerate(labels):
        for word in label.words or (label.name,):
            meant.setdefault(_key(word), index)
    return meant


def _key(name: str) -> str:
    """Equal for "cell phones" and "Cellphone"."""
    return singular(name).replace(" ", "")


PLURAL_MARK = re.compile(r"(?<=[A-Z]{2})s\b|\(e?s\)$|['’][sS]$")
"""The end of "TVs", "Cellphone(s)" and "TV's"."""
IRREGULAR = {
    "buses": "bus",
    "busses": "bus",
    "broccolis": "broccoli",
    "tvs": "tv",
    "skis": "ski",
    "people": "person",
    "persons": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "mice": "mouse",
    "geese": "goose",
    "feet": "foot",
    "teeth": "tooth",
    "leaves": "leaf",
    "knives": "knife",
    "loaves": "loaf",
    "wolves": "wolf",
    "tomatoes": "tomato",
    "potatoes": "potato",
}
SINGULAR_ENDS = ("ss", "us", "is")


def _one(word: str) -> str:
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "ches", "shes", "xes")) and len(word) > 4:
        return word[:-2]
    if word.endswith("s") and not word.endswith(SINGULAR_ENDS) and len(word) > 3:
        return word[:-1]
    return word
