"""Match the classes of a pretrained network to the labels of a project by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from backend.domain import Label
from backend.vision.encoders.text_prototypes import humanize_name


def match_classes(labels: Sequence[Label], classes: Sequence[str]) -> dict[int, int]:
    """Match class names to label names, ignoring case, spaces, hyphens and plurals.

    Args:
        labels: labels of the control; ``Label.words`` (``predicted_values``) replace the name.
        classes: class names of the network.

    Returns:
        class index → label index; a class that matches several labels is mapped to the first.

    Example:
        >>> labels = [Label("Apples"), Label("vehicle", words=("car", "bus"))]
        >>> match_classes(labels, ["bus", "apple", "dog"])
        {0: 1, 1: 0}
    """
    label_by_key = _labels_by_key(labels)
    matches = ((index, label_by_key.get(_matching_key(name))) for index, name in enumerate(classes))
    return {index: label for index, label in matches if label is not None}


def singularize(name: str) -> str:
    """Convert an English name to lower-case singular words.

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
    """Return a key that is equal for "cell phones" and "Cellphone"."""
    return singularize(name).replace(" ", "")


PLURAL_PATTERN = re.compile(r"(?<=[A-Z]{2})s\b|\(e?s\)$|['’][sS]$")
"""Matches the plural suffix of "TVs", "Cellphone(s)" and "TV's"."""
IRREGULAR_PLURALS = dict(
    pair.split(":")
    for pair in (
        "buses:bus busses:bus broccolis:broccoli tvs:tv skis:ski people:person persons:person "
        "men:man women:woman children:child mice:mouse geese:goose feet:foot teeth:tooth "
        "leaves:leaf knives:knife loaves:loaf wolves:wolf tomatoes:tomato potatoes:potato"
    ).split()
)
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
