"""The classes a pretrained network knows ↔ the labels of a project."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from backend.domain import Label
from backend.vision.encoders.text_prototypes import humanize_name


def match_classes(labels: Sequence[Label], classes: Sequence[str]) -> dict[int, int]:
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
        >>> match_classes(labels, ["bus", "apple", "dog"])
        {0: 1, 1: 0}
    """
    label_by_key = _labels_by_key(labels)
    matches = ((index, label_by_key.get(_matching_key(name))) for index, name in enumerate(classes))
    return {index: label for index, label in matches if label is not None}


def singularize(name: str) -> str:
    """A name in lower case and singular, as far as rules of English go.

    Example:
        >>> [singularize(n) for n in ("Strawberries", "wine_Glasses", "Buses", "people", "bus")]
        ['strawberry', 'wine glass', 'bus', 'person', 'bus']
    """
    words = humanize_name(PLURAL_PATTERN.sub("", name.strip())).split()
    if words:
        words[-1] = _singularize_word(words[-1])
    return " ".join(words)


def _labels_by_key(labels: Sequence[Label]) -> Mapping[str, int]:
    label_by_key: dict[str, int] = {}
    for index, label in enumerate(labels):
        for word in label.words or (label.name,):
            label_by_key.setdefault(_matching_key(word), index)
    return label_by_key


def _matching_key(name: str) -> str:
    """Equal for "cell phones" and "Cellphone"."""
    return singularize(name).replace(" ", "")


PLURAL_PATTERN = re.compile(r"(?<=[A-Z]{2})s\b|\(e?s\)$|['’][sS]$")
"""The end of "TVs", "Cellphone(s)" and "TV's"."""
IRREGULAR_PLURALS = {
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
SINGULAR_SUFFIXES = ("ss", "us", "is")


def _singularize_word(word: str) -> str:
    if word in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "ches", "shes", "xes")) and len(word) > 4:
        return word[:-2]
    if word.endswith("s") and not word.endswith(SINGULAR_SUFFIXES) and len(word) > 3:
        return word[:-1]
    return word
