"""Somebody drew one object: which of the finds is it, and which are the others."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from backend.domain import Control, ImageSize, Label, Region
from backend.inference.model import Model
from backend.inference.smart_tools import (
    Candidates,
    DrawnObjects,
    _find_similar,
    drawn_by_control,
)
from backend.label_studio import Json
from backend.vision.detection.network import DetectionNetwork
from backend.vision.detection.trained_detector import ClassMapping, TrainedDetector
from tests.support.drawings import Drawing, make_drawing
from tests.support.tiny_networks import DETECTOR_SIDE, make_torch_runner

DOT = Control("dot", "image", "image", (Label("disc"),), "points", smart=True)


def point(x: float, y: float, size: tuple[int, int]) -> Region:
    """A point given in pixels."""
    return Region("disc", x / size[0], y / size[1], x / size[0], y / size[1])


@pytest.mark.parametrize("off", [0, 8, 14, 30, 60, 79])
def test_a_click_anywhere_on_an_object_selects_that_object(off: int) -> None:
    """160 pixels wide, whatever the share of the image that is."""
    size = (640, 480)
    for way in ((off, 0), (0, off)):
        click = point(150 + way[0], 150 + way[1], size)
        drawn = DrawnObjects(DOT, Image.new("RGB", size), (click,), 160 / 640)
        assert drawn.contains(point(150, 150, size))
        assert not drawn.contains(point(450, 150, size))


def test_neighbours_of_a_small_object_are_separate_suggestions() -> None:
    """Seven, 10 pixels wide, 12 pixels apart."""
    size = (1280, 960)
    row = [point(600 + 12 * number, 480, size) for number in range(7)]
    drawn = DrawnObjects(DOT, Image.new("RGB", size), (row[3],), 10 / 1280)
    assert [drawn.contains(place) for place in row] == [False] * 3 + [True] + [False] * 3


def test_a_click_off_centre_still_uses_the_trained_network(
    yolo26_like: DetectionNetwork,
) -> None:
    """What merely looks alike has no confidence of the network."""
    busy: Drawing = max((make_drawing(i, labels=("disc",)) for i in range(20)), key=_count)
    meaning = ClassMapping(True, ("disc",), {0: 0}, {"disc": 18 / DETECTOR_SIDE}, DETECTOR_SIDE)
    detector = make_torch_runner(yolo26_like)
    model = Model(
        {}, {"dot": TrainedDetector(yolo26_like, meaning, "key", lambda *given: detector)}
    )
    size = ImageSize(*busy.image.size)
    everything = model.detectors["dot"].detect([busy.image], 0.25)[0]
    x, y = busy.objects[0].center
    click = point(x * size.width + 4, y * size.height + 4, busy.image.size)
    found, reasons = _find_similar(model, DOT, busy.image, (click,), size)
    assert reasons == []
    assert len(found.regions) == len(everything) - 1 >= 2
    assert set(found.confidence) < set(map(float, everything.confidence))


def _count(drawn: Drawing) -> int:
    return len(drawn.objects)


def test_a_click_on_the_background_is_not_an_example() -> None:
    value = {"x": 5, "y": 5, "width": 1, "keypointlabels": ["disc"]}
    region: Json = {"from_name": "dot", "type": "keypointlabels", "value": value}
    assert drawn_by_control({"result": [{**region, "is_positive": False}]}, [DOT]) == {}
    assert (
        len(drawn_by_control({"result": [{**region, "is_positive": True}, region]}, [DOT])["dot"])
        == 2
    )


def test_an_answer_without_suggestions_says_why() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    image.paste("red", (40, 40, 80, 80))  # the only object
    box = Control("box", "image", "image", (Label("a"),), "boxes", smart=True)
    drawn = (Region("a", 40 / 320, 40 / 240, 80 / 320, 80 / 240),)
    found, (reason,) = _find_similar(None, box, image, drawn, ImageSize(320, 240))
    assert found.regions == ()
    assert reason.startswith("Nothing else in the image is similar to the drawn a")


@pytest.mark.parametrize(
    ("is_detected", "best", "reason"),
    [
        (
            *(True, 0.37),
            "The detector found no other a with a confidence of at least 50%; the best candidate "
            "has 37%.",
        ),
        (
            *(False, 0.37),
            "Nothing else in the image is similar to the drawn a with a confidence of at least "
            "50%; the best candidate has 37%.",
        ),
        (True, None, "The detector found no other a."),
    ],
)
def test_the_reason_names_the_threshold_and_the_best_candidate(
    is_detected: bool, best: float | None, reason: str
) -> None:
    assert Candidates([], 0.5, is_detected).explain_none("a", best) == reason
