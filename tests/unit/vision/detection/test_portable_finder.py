"""An exported detector finds what the detector itself finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from backend.vision.detection.detections import Detections
from backend.vision.detection.network import DetectionNetwork
from backend.vision.detection.network_runner import to_network_input
from backend.vision.detection.trained_detector import ClassMapping, TrainedDetector
from backend.vision.onnx.export import write_onnx
from backend.vision.onnx.networks import build_detector_graph
from tests.support.drawings import SHAPE_LABELS, make_drawings
from tests.support.tiny_networks import DETECTOR_SIDE, make_torch_runner


def finder(
    network: DetectionNetwork, classes: dict[int, int], labels: tuple[str, ...]
) -> TrainedDetector:
    detector = make_torch_runner(network)
    meaning = ClassMapping(False, labels, classes, {}, DETECTOR_SIDE)
    return TrainedDetector(network, meaning, "key", lambda *given: detector)


def exported(finder: TrainedDetector, file: Path) -> list[Detections]:
    """What it finds by onnxruntime, in images of several shapes."""
    write_onnx(build_detector_graph(finder), file)
    session = onnxruntime.InferenceSession(file)
    found = []
    for image in images():
        batch, box = to_network_input(image, finder.network, DETECTOR_SIDE)
        boxes, confidence, label = session.run(None, {"image": batch})
        found.append(Detections(np.clip(box.to_image_boxes(boxes), 0, 1), confidence, label))
    return found


def images() -> list:  # type: ignore[type-arg]
    drawn = [one.image for one in make_drawings(4, 50, *SHAPE_LABELS)]
    return [*drawn, drawn[0].resize((90, 150)), drawn[1].resize((300, 60))]


@pytest.mark.parametrize("kind", ["yolo26_like", "yolo11_like", "rtdetr"])
def test_an_exported_detector_has_the_same_detections(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Nearly, of an RT-DETR's random boxes: they are compared before they end at the edge."""
    network: DetectionNetwork = request.getfixturevalue(kind)
    names = network.spec.classes
    made = finder(network, {i: i for i in range(len(names))}, names)
    least = 0.3 if kind == "rtdetr" else 0.05
    theirs = [_certain(one, least) for one in exported(made, tmp_path / "finder.onnx")]
    ours = made.detect(images(), least)
    same = sum(_shared(*pair) for pair in zip(theirs, ours, strict=True))
    counts = sum(map(len, theirs)), sum(map(len, ours))
    assert min(counts) >= 8
    assert same >= (0.9 if kind == "rtdetr" else 1.0) * max(counts), counts


def _certain(found: Detections, least: float) -> Detections:
    inside = (found.boxes[:, 2:] > found.boxes[:, :2]).all(axis=1)
    return found.select((found.confidence >= least) & inside)


def _shared(one: Detections, other: Detections) -> int:
    """Objects that are in both: the same label, place and confidence."""
    if not len(one) or not len(other):
        return 0
    near = np.abs(one.boxes[:, None] - other.boxes).max(axis=2) < 5e-3
    sure = np.abs(one.confidence[:, None] - other.confidence) < 2e-3
    label = one.labels[:, None] == other.labels
    return int((near & sure & label).any(axis=1).sum())


def test_classes_of_one_label_detect_an_object_once(
    yolo11_like: DetectionNetwork, tmp_path: Path
) -> None:
    made = finder(yolo11_like, {0: 0, 1: 0}, ("thing",))
    for one, ours in zip(
        exported(made, tmp_path / "finder.onnx"), made.detect(images(), 0.05), strict=True
    ):
        rows = one.confidence >= 0.05
        assert set(one.labels.tolist()) <= {0}
        assert rows.sum() == len(ours)


def test_classes_without_a_label_are_left_out(
    yolo11_like: DetectionNetwork, tmp_path: Path
) -> None:
    made = finder(yolo11_like, {1: 0}, ("square",))
    everything = finder(yolo11_like, {0: 0, 1: 1}, SHAPE_LABELS)
    pairs = zip(
        exported(made, tmp_path / "one.onnx"), everything.detect(images(), 0.05), strict=True
    )
    for one, ours in pairs:
        assert (one.confidence >= 0.05).sum() == (ours.labels == 1).sum()
