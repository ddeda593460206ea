"""Which class of a network means which label."""

from __future__ import annotations

import pytest

from backend.domain import Label
from backend.vision.detection.class_matching import match_classes, singularize


@pytest.mark.parametrize(
    ("name", "one"),
    [
        ("Apples", "apple"),
        ("APPLE", "apple"),
        ("wine_Glasses", "wine glass"),
        ("wine-glass", "wine glass"),
        ("WineGlass", "wine glass"),
        ("wine  glass ", "wine glass"),
        ("Strawberries", "strawberry"),
        ("pies", "pie"),
        ("boxes", "box"),
        ("benches", "bench"),
        ("brushes", "brush"),
        ("bus", "bus"),
        ("buses", "bus"),
        ("tennis", "tennis"),
        ("people", "person"),
        ("Women", "woman"),
        ("knives", "knife"),
        ("skis", "ski"),
        ("traffic lights", "traffic light"),
        ("sports balls", "sports ball"),
        ("potted plants", "potted plant"),
        ("gas", "gas"),
        ("TVs", "tv"),
        ("tvs", "tv"),
        ("TV's", "tv"),
        ("broccolis", "broccoli"),
        ("busses", "bus"),
        ("Apple(s)", "apple"),
        ("box(es)", "box"),
        ("番茄", "番茄"),
        ("", ""),
    ],
)
def test_names_become_singular_in_lower_case(name: str, one: str) -> None:
    assert singularize(name) == one
    assert singularize(one) == one


COCO = ["person", "bus", "wine glass", "apple", "sports ball", "potted plant", "cell phone"]


@pytest.mark.parametrize(
    ("labels", "known"),
    [
        ((), {}),
        ((Label("Apples"),), {3: 0}),
        ((Label("WINE_GLASSES"), Label("People")), {2: 0, 0: 1}),
        ((Label("rust"), Label("apple")), {3: 1}),
        ((Label("rust"), Label("scab")), {}),
        ((Label("drink", words=("Wine-Glass",)),), {2: 0}),
        ((Label("thing", words=("apples", "buses")),), {3: 0, 1: 0}),
        ((Label("apple", words=("cell phone",)),), {6: 0}),  # own words count instead of the name
        ((Label("apple"), Label("fruit", words=("apples",))), {3: 0}),  # the first claims it
        ((Label("fruit", words=("apple",)), Label("apple")), {3: 0}),
        ((Label("Cellphone(s)"),), {6: 0}),
        ((Label("cellphones"), Label("WINEGLASS")), {6: 0, 2: 1}),
        ((Label("plant"),), {}),  # part of a name is another name
    ],
)
def test_classes_are_matched_by_label_names(
    labels: tuple[Label, ...], known: dict[int, int]
) -> None:
    assert match_classes(labels, COCO) == known


def test_two_classes_of_one_name_both_match_the_label() -> None:
    assert match_classes((Label("mouse"),), ["mouse", "Mice"]) == {0: 0, 1: 0}
