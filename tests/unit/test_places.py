"""Label Studio's boxes and points ↔ places."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from backend.domain import Control, ImageSize, Label, Prediction, Region, RegionPrediction
from backend.label_studio.region_results import (
    complete_regions,
    drawn_regions,
    format_regions,
    repeat_drawn,
)
from backend.label_studio.task_results import format_prediction, parse_task

LABELS = (Label("disc"), Label("square"))
BOX = Control("box", "image", "image", LABELS, "boxes")
DOT = Control("dot", "image", "image", LABELS, "points")
BUSY = Control("busy", "image", "image", (Label("yes"), Label("no")))


def box(label: str = "disc", **value: Any) -> dict[str, Any]:
    given = {"x": 10, "y": 20, "width": 30, "height": 40, "rectanglelabels": [label], **value}
    return {"from_name": "box", "type": "rectanglelabels", "value": given}


def plain_box() -> dict[str, Any]:
    """A box that nobody gave a label."""
    value = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0}
    return {"from_name": "box", "type": "rectangle", "value": value}


def polygon(label: str, **more: Any) -> dict[str, Any]:
    value = {"points": [[1, 1], [2, 2], [3, 1]], "polygonlabels": [label]}
    return {"from_name": "outline", "type": "polygonlabels", "value": value, **more}


def dot(x: float, y: float, label: str = "disc") -> dict[str, Any]:
    value = {"x": x, "y": y, "width": 0.7, "keypointlabels": [label]}
    return {"from_name": "dot", "type": "keypointlabels", "value": value}


def corners(places: tuple[Region, ...] | None) -> list[tuple[float, ...]]:
    return [tuple(round(v, 6) for v in (p.x0, p.y0, p.x1, p.y1)) for p in places or ()]


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        (box(), (0.1, 0.2, 0.4, 0.6)),
        # beyond the border: cut off at it
        (box(x=-5, y=90, width=20, height=20), (0.0, 0.9, 0.15, 1.0)),
        (box(x=0, y=0, width=100, height=100), (0, 0, 1, 1)),
        # a rotation that is none
        (box(rotation=0), (0.1, 0.2, 0.4, 0.6)),
        (box(rotation=360), (0.1, 0.2, 0.4, 0.6)),
        (box(rotation=None), (0.1, 0.2, 0.4, 0.6)),
    ],
)
def test_a_box_in_percent_is_a_place_in_shares(
    region: dict[str, Any], expected: tuple[float, ...]
) -> None:
    left: Counter[str] = Counter()
    assert corners(complete_regions([region], BOX, left)) == [pytest.approx(expected)]
    assert not left


@pytest.mark.parametrize(
    ("region", "reason"),
    [
        (box(rotation=30), "rotated box"),
        (box(rotation=-0.5), "rotated box"),
        (box(x="left"), "region without coordinates"),
        (box(width=None), "region without coordinates"),
        (box(x=float("nan")), "region without coordinates"),
        (box(width=-10), "region outside the image"),
        (box(x=140), "region outside the image"),
        (box("gone"), "label no longer in the labeling config"),
        # a rotation that cannot be read is none that is known
        (box(rotation="abc"), "region without coordinates"),
        (box(rotation=[1]), "region without coordinates"),
        (box(rotation=float("nan")), "region without coordinates"),
        (box(rotation="inf"), "region without coordinates"),
        (box(width=0), "box without area"),
        (box(x=100, width=5), "box without area"),
        (box(x=-5, width=5), "box without area"),
        ({**box(), "image_rotation": 90}, "region drawn on a rotated image"),
        (plain_box(), "region without a label"),
        (box(rectanglelabels=[]), "region without a label"),
        (box(rectanglelabels="disc"), "region without a label"),
        ({**box(), "value": [1]}, "region without coordinates"),
    ],
)
def test_what_is_no_box_is_counted_and_says_nothing(region: dict[str, Any], reason: str) -> None:
    left: Counter[str] = Counter()
    assert complete_regions([region], BOX, left) is None, "not the same as: there is none"
    assert left == {reason: 1}


@pytest.mark.parametrize(
    "beside",
    [
        box(x=60, rotation=30),
        plain_box(),
        {**box(x=60), "image_rotation": 90},
        polygon("disc"),
        polygon("disc", to_name="image"),
        {**polygon("square"), "type": "ellipselabels"},
    ],
)
def test_where_one_object_cannot_be_used_the_others_do_not_pass_for_all(
    beside: dict[str, Any],
) -> None:
    assert complete_regions([box(), beside], BOX, Counter()) is None
    assert complete_regions([beside], BOX, Counter()) is None


@pytest.mark.parametrize(
    "beside",
    [
        polygon("leaf"),  # something else
        polygon("disc", to_name="another image"),
        box("gone"),  # whatever it was called, it is no object of today's labels
        {**dot(60, 60), "from_name": "hint", "type": "keypointlabels"},  # of a smart tool
        {"from_name": "mood", "type": "choices", "value": {"choices": ["disc"]}},
    ],
)
def test_what_is_no_object_of_the_control_leaves_its_boxes_alone(beside: dict[str, Any]) -> None:
    assert corners(complete_regions([box(), beside], BOX, Counter())) == [(0.1, 0.2, 0.4, 0.6)]


def test_a_shape_whose_label_stands_in_a_region_of_its_own_is_an_object_too() -> None:
    """As ``Polygon`` and ``Labels`` write it: two regions of one id."""
    shape = {"id": "a", "from_name": "outline", "type": "polygon", "value": {"points": []}}
    name = {"id": "a", "from_name": "name", "type": "labels", "value": {"labels": ["disc"]}}
    other = {**name, "value": {"labels": ["leaf"]}}
    assert complete_regions([shape, name], BOX, Counter()) is None
    assert complete_regions([shape, other], BOX, Counter()) == ()


def test_a_click_on_what_is_not_meant_is_no_object() -> None:
    left: Counter[str] = Counter()
    regions = [dot(25, 75), {**dot(50, 50), "is_positive": False}]
    assert corners(complete_regions(regions, DOT, left)) == [(0.25, 0.75, 0.25, 0.75)]
    assert left == {"negative click of a smart tool": 1}


def test_a_smart_tool_takes_what_can_be_used() -> None:
    assert corners(drawn_regions([box(), box(rotation=30)], BOX)) == [(0.1, 0.2, 0.4, 0.6)]
    assert drawn_regions([{**dot(1, 1), "is_positive": False}], DOT) == ()


def test_a_region_on_another_image_is_not_the_controls() -> None:
    assert complete_regions([{**box(), "to_name": "other"}], BOX, Counter()) == ()


def test_a_point_has_no_extent_whatever_the_width_of_its_dot() -> None:
    assert corners(complete_regions([dot(25, 75)], DOT, Counter())) == [(0.25, 0.75, 0.25, 0.75)]


def test_nothing_marked_means_there_is_none() -> None:
    assert complete_regions([], BOX, Counter()) == ()
    assert complete_regions([dot(1, 1)], BOX, Counter()) == ()


def finding(
    control: Control, *places: Region, size: tuple[int, int] = (640, 480)
) -> RegionPrediction:
    return RegionPrediction(control.name, places, (0.9, 0.6, 0.3)[: len(places)], ImageSize(*size))


def test_boxes_go_out_in_percent_inside_the_image_with_all_that_label_studio_wants() -> None:
    over = Region("disc", -0.1, 0.5, 0.25, 1.2)
    (region,) = format_regions(7, finding(BOX, over), BOX)
    assert region["value"] == {
        "x": 0.0,
        "y": 50.0,
        "width": 25.0,
        "height": 50.0,
        "rotation": 0,
        "rectanglelabels": ["disc"],
    }
    assert (region["from_name"], region["to_name"]) == ("box", "image")
    assert (region["type"], region["image_rotation"]) == ("rectanglelabels", 0)
    assert (region["original_width"], region["original_height"]) == (640, 480)
    assert region["score"] == 0.9
    assert region["id"]


@pytest.mark.parametrize("control", [BOX, DOT])
@pytest.mark.parametrize("size", [(1, 1), (640, 480), (3, 4000), (9000, 5600)])
def test_what_goes_out_comes_back(control: Control, size: tuple[int, int]) -> None:
    places: tuple[Region, ...] = (
        Region("disc", 0.123456, 0.2, 0.3, 0.456789),
        Region("square", 0.9, 0.9, 1.0, 1.0),
    )
    if control.kind == "points":
        places = tuple(Region(p.label, p.x0, p.y0, p.x0, p.y0) for p in places)
    regions = format_regions(7, finding(control, *places, size=size), control)
    back = complete_regions(regions, control, Counter())
    assert corners(back) == [pytest.approx(c, abs=1e-7) for c in corners(places)]


def test_every_region_of_a_task_has_an_id_of_its_own_and_a_suggestion_another() -> None:
    found = finding(BOX, *(Region("disc", 0, 0, 0.1, 0.1) for _ in range(3)))
    first = {region["id"] for region in format_regions(7, found, BOX)}
    second = {region["id"] for region in format_regions(7, found, BOX, salt="suggestion")}
    assert len(first | second) == 6
    assert {region["id"] for region in format_regions(7, found, BOX)} == first


def test_what_was_drawn_is_repeated_with_its_id_and_all_that_belongs_to_it() -> None:
    drawn, turned = box() | {"id": "a"}, box(rotation=30) | {"id": "b"}
    note = {"id": "a", "from_name": "note", "type": "textarea", "value": {"text": ["?"]}}
    accepted = box() | {"id": "c", "score": 0.7}
    negative = box() | {"id": "d", "is_positive": False}
    result = [accepted, drawn, note, turned, negative]
    assert repeat_drawn(result, BOX) == [row | {"score": 1.0} for row in (drawn, note, turned)]
    other = replace(BOX, name="another")
    assert repeat_drawn(result, other) == []


def test_objects_below_the_configs_threshold_are_left_out() -> None:
    control = Control("box", "image", "image", LABELS, "boxes", threshold=0.5)
    found = finding(control, *(Region("disc", 0, 0, 0.1, 0.1) for _ in range(3)))
    assert [region["score"] for region in format_regions(7, found, control)] == [0.9, 0.6]


def test_one_prediction_serves_all_controls() -> None:
    found = (
        finding(BOX, Region("disc", 0, 0, 1, 1)),
        finding(DOT, Region("disc", 0.5, 0.5, 0.5, 0.5)),
    )
    made = format_prediction(Prediction(3, (), 0.25, found), {"box": BOX, "dot": DOT}, "v1")
    assert [region["type"] for region in made["result"]] == ["rectanglelabels", "keypointlabels"]
    assert (made["task"], made["score"], made["model_version"]) == (3, 0.25, "v1")


# -- tasks ----------------------------------------------------------------------------------


def annotation(*regions: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"result": list(regions), "updated_at": "2026-01-02", **more}


def read(*annotations: dict[str, Any], **added: str) -> tuple[dict[str, Any], Counter[str]]:
    row = {"id": 1, "data": {"image": "x"}, "is_labeled": True, "annotations": list(annotations)}
    left: Counter[str] = Counter()
    times = {name: {"disc": when, "square": when} for name, when in added.items()}
    task = parse_task(row, [BOX, DOT, BUSY], times, left)
    return {name: corners(places) for name, places in (task.regions or {}).items()}, left


def test_an_image_annotated_as_empty_is_an_answer_and_an_image_not_annotated_is_none() -> None:
    assert read(annotation())[0] == {"box": [], "dot": []}
    assert read()[0] == {}
    assert read(annotation(was_cancelled=True))[0] == {}


def test_points_that_nobody_set_are_the_centres_of_boxes_of_the_same_label() -> None:
    assert read(annotation(box()))[0]["dot"] == [(0.25, 0.4, 0.25, 0.4)]
    assert read(annotation(box(), dot(1, 2)))[0]["dot"] == [(0.01, 0.02, 0.01, 0.02)]


def test_the_latest_annotation_stands_and_a_ground_truth_outranks_it() -> None:
    early, late = annotation(dot(1, 1)), annotation(dot(2, 2), updated_at="2026-01-03")
    assert read(early, late)[0]["dot"] == [(0.02, 0.02, 0.02, 0.02)]
    early["ground_truth"] = True
    assert read(early, late)[0]["dot"] == [(0.01, 0.01, 0.01, 0.01)]


def test_an_annotation_older_than_a_control_says_nothing_about_it() -> None:
    assert read(annotation(dot(1, 1)), box="2026-01-09")[0].keys() == {"dot"}
    assert read(annotation(box()), box="2026-01-09")[0]["box"] == [(0.1, 0.2, 0.4, 0.6)]


def test_an_image_with_an_object_that_cannot_be_used_is_left_out_and_counted() -> None:
    found, left = read(annotation(box(), box(x=60, rotation=30)))
    assert found == {"dot": []}
    assert left == {
        "rotated box": 1,
        "image left out of box: not all its objects are known": 1,
    }
    found, left = read(annotation(polygon("disc")))
    assert found == {}
    assert left["image left out of box: not all its objects are known"] == 1
    assert left["image left out of dot: not all its objects are known"] == 1


def test_who_drew_it_whole_before_does_not_stand_for_a_later_one_who_did_not() -> None:
    early, late = annotation(), annotation(box(rotation=30), updated_at="2026-01-03")
    assert "box" not in read(early, late)[0]
    early["ground_truth"] = True
    assert read(early, late)[0]["box"] == []


def test_boxes_of_an_image_are_not_known_where_points_lie_beside_them() -> None:
    assert read(annotation(dot(1, 1)))[0].keys() == {"dot"}
    assert read(annotation(box(), dot(1, 1)))[0].keys() == {"dot"}
    assert read(annotation(box(), dot(25, 40)))[0].keys() == {"box", "dot"}
    assert read(annotation(box(), dot(25, 40, "square")))[0].keys() == {"dot"}


def test_boxes_of_one_image_are_no_points_of_another() -> None:
    """A task with two images, each with a control of its own."""
    beside = replace(DOT, to_name="other", image_key="other")
    row = {"id": 1, "data": {"image": "x", "other": "y"}, "annotations": [annotation(box())]}
    task = parse_task(row, [BOX, beside], {}, Counter())
    assert (task.regions or {}).keys() == {"box", "dot"}
    assert (task.regions or {})["dot"] == ()


def test_regions_of_other_kinds_are_counted_by_kind() -> None:
    outline = {"from_name": "outline", "type": "polygonlabels", "value": {}}
    brush = {"from_name": "mask", "type": "brushlabels", "value": {}}
    _, left = read(annotation(outline, outline, brush, box(), dot(25, 40)))
    assert left == {
        "region of type polygonlabels, which is not served": 2,
        "region of type brushlabels, which is not served": 1,
    }
