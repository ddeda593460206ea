"""Finds equal ultralytics' own, for the same weights and images."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.arrays import Floats
from backend.vision.detection.detections import Detections
from backend.vision.detection.network import DetectionNetwork
from backend.vision.detection.network_runner import (
    NetworkRunner,
    example_input,
    load_network_runner,
    output_difference,
)
from backend.vision.detection.raw_network import build_raw_network
from backend.vision.runtime import TorchRunner
from backend.vision.runtime.fastest_runner import MAX_DIFFERENCE_BY_KIND
from tests.support.drawings import SHAPE_LABELS, Drawing, make_drawing, make_drawings
from tests.support.tiny_networks import DETECTOR_SIDE, make_torch_runner

SURE = 0.35


def theirs(
    network: DetectionNetwork, path: Path, images: list[Image.Image], kind: str
) -> list[Any]:
    """What ultralytics predicts: x0 y0 x1 y1 in pixels, confidence and class, of each image."""
    import torch

    from backend.vision.ultralytics_models import import_ultralytics

    ultralytics = import_ultralytics()
    module = deepcopy(network.module)
    module.task = "detect"
    torch.save({"model": module, "train_args": {"imgsz": DETECTOR_SIDE, "task": "detect"}}, path)
    model = getattr(ultralytics, kind)(str(path))
    options = {"imgsz": DETECTOR_SIDE, "conf": 0.01, "iou": 0.6, "device": "cpu", "verbose": False}
    results = [model.predict(image, save=False, **options)[0] for image in images]
    return [result.boxes.data.numpy() for result in results]


def pixels(found: Detections, image: Image.Image) -> Floats:
    return np.asarray(found.boxes * np.array([*image.size, *image.size]), dtype=np.float32)


def same(found: Detections, image: Image.Image, expected: Any, pixel: float, share: float) -> int:
    """How many sure finds there are; each must be one of theirs, and each of theirs ours."""
    edge = np.array([*image.size, *image.size])
    ours = np.clip(pixels(found, image), 0, edge)
    for row in np.flatnonzero(found.confidence > SURE):
        off = np.abs(expected[:, :4] - ours[row]).max(axis=1) + 1e3 * (
            expected[:, 5] != found.labels[row]
        )
        near = int(off.argmin())
        assert off[near] < pixel
        assert abs(expected[near, 4] - found.confidence[row]) < share
    for row in expected[expected[:, 4] > SURE + share]:
        off = np.abs(ours - row[:4]).max(axis=1) + 1e3 * (found.labels != row[5])
        assert off.min() < pixel
    return int((found.confidence > SURE).sum())


@pytest.mark.parametrize("which", ["yolo11_like", "yolo26_like"])
def test_grid_detections_equal_those_of_ultralytics(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    network: DetectionNetwork = request.getfixturevalue(which)
    sizes = ((160, 120), (90, 160), (160, 60), (160, 160), (80, 66))
    drawn = [make_drawing(300 + i, size, network.spec.classes) for i, size in enumerate(sizes)]
    images = [one.image for one in drawn]
    expected = theirs(network, tmp_path / "made.pt", images, "YOLO")
    found = make_torch_runner(network).detect(images, 0.01)
    counts = [
        same(f, image, e, pixel=1.5, share=0.02)
        for f, image, e in zip(found, images, expected, strict=True)
    ]
    assert sum(counts[:4]) >= 6
    for one in found:
        assert (np.diff(one.confidence) <= 0).all()
        assert one.boxes.dtype == one.confidence.dtype == np.float32


def test_query_detections_equal_those_of_ultralytics(
    rtdetr: DetectionNetwork, tmp_path: Path
) -> None:
    """Which stretches an image to a square, and scales it a little differently: of random weights
    some queries look elsewhere then."""
    sizes = ((DETECTOR_SIDE, DETECTOR_SIDE), (160, 90), (70, 160), (320, 200))
    images = [make_drawing(310 + i, size).image for i, size in enumerate(sizes)]
    expected = theirs(rtdetr, tmp_path / "rtdetr-made.pt", images, "RTDETR")
    shares = []
    for found, image, rows in zip(
        make_torch_runner(rtdetr).detect(images, 0.01), images, expected, strict=True
    ):
        ours = pixels(found, image)
        listed = np.flatnonzero(found.confidence > rows[:, 4].min() + 1e-3)
        assert len(listed) >= 8
        assert np.ptp(found.confidence[listed]) > 0.02
        equal = 0
        for row in listed:
            off = np.abs(rows[:, :4] - ours[row]).max(axis=1) + 1e3 * (
                rows[:, 5] != found.labels[row]
            )
            beside = np.abs(rows[:, 4] - found.confidence[row])
            equal += bool(((off < 1.0) & (beside < 5e-3)).any())
        shares.append(equal / len(listed))
    print("queries that are the same:", shares)
    assert shares[0] == 1.0
    assert min(shares) >= 0.75


def test_boxes_are_fractions_of_the_upright_image(yolo26_like: DetectionNetwork) -> None:
    """Twice as large a picture gives the same places."""
    drawn = make_drawing(321, (DETECTOR_SIDE, 120), ("disc",))
    twice = drawn.image.resize((320, 240), Image.Resampling.NEAREST)
    small, large = make_torch_runner(yolo26_like).detect([drawn.image, twice], 0.3)
    assert len(drawn.objects) == len(small) == len(large)
    for thing in drawn.objects:
        for found in (small, large):
            assert np.abs(found.boxes - np.array(thing.box)).max(axis=1).min() < 0.03


def test_the_minimum_confidence_holds_and_an_empty_image_has_no_detections(
    yolo26_like: DetectionNetwork,
) -> None:
    detector = make_torch_runner(yolo26_like)
    image = make_drawing(321, (DETECTOR_SIDE, 120), ("disc",)).image
    many, few = (detector.detect([image], least)[0] for least in (0.001, 0.5))
    assert few.confidence.min() >= 0.5
    assert len(many) > len(few) > 0
    (none,) = detector.detect([Image.new("RGB", (50, 70), (120, 120, 120))], 0.9)
    assert none.boxes.shape == (0, 4)
    assert detector.detect([]) == []


def test_odd_image_sizes_are_detected_too(
    yolo26_like: DetectionNetwork, rtdetr: DetectionNetwork
) -> None:
    sizes = ((1, 1), (3, 700), (700, 3), (33, 31))
    for network in (yolo26_like, rtdetr):
        found = make_torch_runner(network).detect([Image.new("RGB", size) for size in sizes], 0.001)
        assert len(found) == len(sizes)
        assert all(np.isfinite(one.boxes).all() for one in found)


def test_many_images_come_back_in_order(
    yolo26_like: DetectionNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.vision.detection.network_runner.DETECTION_BATCH_SIZE", 3)
    drawn: list[Drawing] = make_drawings(8, 330, "disc")
    detector = make_torch_runner(yolo26_like)
    together = detector.detect([one.image for one in drawn], 0.3)
    for one, found in zip(drawn, together, strict=True):
        (alone,) = detector.detect([one.image], 0.3)
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=1e-5)


def test_the_fastest_runner_has_the_same_detections(
    yolo26_like: DetectionNetwork,
    rtdetr: DetectionNetwork,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """OpenVINO in f32, whatever is fastest here: bfloat16 would hide a mistake of 1 %."""
    from backend.vision import runtime

    said: list[str] = []
    fastest = runtime.select_fastest_runner
    monkeypatch.setattr(
        runtime,
        "select_fastest_runner",
        lambda *given, **named: fastest(*given, **{**named, "forced_kind": "openvino"}),
    )
    images = [
        make_drawing(340, (DETECTOR_SIDE, 120), ("disc",)).image,
        make_drawing(341, (90, 160), ("disc",)).image,
    ]
    for network in (yolo26_like, rtdetr):
        quick: NetworkRunner = load_network_runner(
            network, DETECTOR_SIDE, "key", tmp_path / network.spec.family, said.append
        )
        assert (quick.runner.kind, said) == ("openvino", [])
        least = 0.3 if network is yolo26_like else 0.0001
        for one, other in zip(
            quick.detect(images, least),
            make_torch_runner(network).detect(images, least),
            strict=True,
        ):
            assert len(one) == len(other) > 0
            if network is yolo26_like:
                np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-4)
                np.testing.assert_allclose(one.confidence, other.confidence, atol=1e-4)
    assert quick.classes == SHAPE_LABELS


def raw(network: DetectionNetwork) -> tuple[Floats, ...]:
    """What torch answers to the picture that networks are tried on."""
    return TorchRunner(build_raw_network(network), "cpu")(example_input(DETECTOR_SIDE))


@pytest.mark.parametrize("which", ["yolo26_like", "yolo11_like"])
def test_a_runner_with_missing_or_shifted_boxes_differs(
    which: str, request: pytest.FixtureRequest
) -> None:
    """The example shows next to nothing, so that confidence alone would not tell."""
    network: DetectionNetwork = request.getfixturevalue(which)
    boxes, logits = raw(network)
    bf16 = MAX_DIFFERENCE_BY_KIND["openvino-bf16"]
    assert output_difference((boxes, logits), (boxes, logits), network) == 0.0
    assert output_difference((boxes, np.full_like(logits, -20)), (boxes, logits), network) > bf16
    assert output_difference((boxes[:, ::-1], logits), (boxes, logits), network) > bf16
    # of 16 bins per edge, the far ones: by many pixels, whatever the processor made of the weights
    far_bins = np.tile(np.arange(16, dtype=np.float32), 4)[:, None]
    moved = boxes + (0.5 if boxes.shape[1] == 4 else far_bins)
    assert output_difference((moved, logits), (boxes, logits), network) > bf16
    assert output_difference((boxes * np.nan, logits), (boxes, logits), network) > 1
    nearly = boxes * np.float32(1 + 1e-6), logits + np.float32(1e-5)
    assert output_difference(nearly, (boxes, logits), network) < MAX_DIFFERENCE_BY_KIND["openvino"]


def test_queries_in_another_order_do_not_differ(rtdetr: DetectionNetwork) -> None:
    places, confidence = raw(rtdetr)
    turned = places[:, ::-1], confidence[:, ::-1]
    assert output_difference(turned, (places, confidence), rtdetr) == 0.0
    assert output_difference((places + 0.1, confidence), (places, confidence), rtdetr) > 0.05
    assert output_difference((places, confidence * 0), (places, confidence), rtdetr) > 0.05
