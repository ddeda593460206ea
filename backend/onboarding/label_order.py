"""The order of labels that come from folder names, and the hotkeys of labels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

HOTKEYS = "1234567890"
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def natural_sort_key(name: str) -> list[tuple[int, str]]:
    """Return a sort key by which 2 comes before 10."""
    name_parts = re.split(r"(\d+)", name)
    return [(int(p), "") if p.isdigit() and p.isascii() else (-1, p.lower()) for p in name_parts]


def sort_label_names(names: Iterable[str]) -> list[str]:
    """Return names in natural order; by value if all of them are number words or digits.

    Example:
        >>> sort_label_names(["four", "one", "three"]), sort_label_names(["img10", "img2"])
        (['one', 'three', 'four'], ['img2', 'img10'])
    """
    in_natural_order = sorted(names, key=natural_sort_key)
    digits = {name: _digit_of(name) for name in in_natural_order}
    if all(digits.values()):
        return sorted(in_natural_order, key=digits.__getitem__)
    return in_natural_order


def assign_hotkeys(names: Sequence[str]) -> list[str]:
    """Return the hotkey of each label, a digit; empty for labels beyond ten.

    A label that is a digit or an English number word has that digit. The others have the digits
    that are left, in order.

    Example:
        >>> assign_hotkeys(["none", "two", "1", "1 euro"])
        ['3', '2', '1', '4']
    """
    owners: dict[str, int] = {}
    for index, name in enumerate(names):
        if digit := _digit_of(name):
            owners.setdefault(digit, index)
    own_keys = {index: digit for digit, index in owners.items()}
    free_keys = (key for key in HOTKEYS if key not in owners)
    return [own_keys.get(index) or next(free_keys, "") for index in range(len(names))]


def _digit_of(name: str) -> str:
    """Return the digit that a label names, such as "3" for ``3`` and ``Three``; else ""."""
    if name in HOTKEYS and len(name) == 1:
        return name
    word = name.lower()
    return str(NUMBER_WORDS.index(word)) if word in NUMBER_WORDS else ""
