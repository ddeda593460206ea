"""Somebody drew one object: which of the finds is it, and which are the others."""

from __future__ import annotations

import pytest
from PIL import Image

from backend.domain import Control, ImageSize, Label, Place
from backend.inference.model import Model
from backend.inference.smart_tools import Drawn, _like, drawn_in
from backend.label_studio.region_results import Json
from backend.vision.detection.network import Network
from backend.vision.detection.trained_detector import Finder, Meaning
from tests.support.drawings import Drawing, drawing
from tests.unit.vision.detection.conftest import SIDE, on_torch

DOT = Control("dot", "image", "image", (Label("disc"),), "points", smart=True)


def point(x: float, y: float, size: tuple[int, int]) -> Place:
    """A point given in pixels."""
    return Place("disc", x / size[0], y / size[1], x / size[0], y / size[1])


@pytest.mark.parametrize("off", [0, 8, 14, 30, 60, 79])
def test_a_click_anywhere_on_an_object_means_that_object(off: int) -> None:
    """160 pixels wide, whatever the share of the image that is."""
    size = (640, 480)
    for way in ((off, 0), (0, off)):
        click = point(150 + way[0], 150 + way[1], size)
        drawn = Drawn(DOT, Image.new("RGB", size), (click,), 160 / 640)
        assert drawn.has(point(150, 150, size))
        assert not drawn.has(point(450, 150, size))


def test_neighbours_of_a_small_object_are_others() -> None:
    """Seven, 10 pixels wide, 12 pixels apart."""
    size = (1280, 960)
    row = [point(600 + 12 * number, 480, size) for number in range(7)]
    drawn = Drawn(DOT, Image.new("RGB", size), (row[3],), 10 / 1280)
    assert [drawn.has(place) for place in row] == [False] * 3 + [True] + [False] * 3


def test_a_click_beside_the_middle_still_asks_the_learned_network(yolo26_like: Network) -> None:
    """What merely looks alike has no confidence of the network."""
    busy: Drawing = max((drawing(i, labels=("disc",)) for i in range(20)), key=_count)
    meaning = Meaning(True, ("disc",), {0: 0}, {"disc": 18 / SIDE}, SIDE)
    detector = on_torch(yolo26_like)
    model = Model({}, {"dot": Finder(yolo26_like, meaning, "key", lambda *given: detector)})
    size = ImageSize(*busy.image.size)
    everything = model.finders["dot"].find([busy.image], 0.25)[0]
    x, y = busy.things[0].centre
    click = point(x * size.width + 4, y * size.height + 4, busy.image.size)
    found = _like(model, DOT, busy.image, (click,), size)
    assert len(found.places) == len(everything) - 1 >= 2
    assert set(found.confidence) < set(map(float, everything.confidence))


def _count(drawn: Drawing) -> int:
    return len(drawn.things)


def test_a_click_on_what_is_not_meant_is_no_example() -> None:
    value = {"x": 5, "y": 5, "width": 1, "keypointlabels": ["disc"]}
    region: Json = {"from_name": "dot", "type": "keypointlabels", "value": value}
    assert drawn_in({"result": [{**region, "is_positive": False}]}, [DOT]) == {}
    assert len(drawn_in({"result": [{**region, "is_positive": True}, region]}, [DOT])["dot"]) == 2
