"""What fine-tuning of a control starts from: what is known of its labels is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from backend.domain import Control, ImageSize, Label, Region
from backend.inference.detections import RegionSample
from backend.training.detector import DetectorTrainingJob, build_start_network
from backend.vision.detection.class_matching import match_classes
from backend.vision.detection.network import (
    SMALL_NETWORK_FILE,
    DetectionNetwork,
    adapt_classes,
    load_base_network,
)
from backend.vision.detection.trained_detector import ClassMapping, TrainedDetector
from tests.support.tiny_networks import raw_outputs, save_pretrained_network

CLASSES = ("cat", "dog", "bird")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> DetectionNetwork:
    return save_pretrained_network(CLASSES, tmp_path_factory.mktemp("weights") / "three.pt")


def job(base: DetectionNetwork, *labels: str, marked: tuple[str, ...] = ()) -> DetectorTrainingJob:
    control = Control("c", "image", "image", tuple(map(Label, labels)), "boxes")
    places = tuple(Region(label, 0.1, 0.1, 0.2, 0.2) for label in marked)
    sample = RegionSample(1, lambda: pytest.fail("not read"), ImageSize(64, 64), places)
    return DetectorTrainingJob(
        *(control, [sample], base, None, 0, 60, 0, lambda *given: pytest.fail("not loaded")),
        *(None, lambda done, of: None, lambda: False),
    )


def learned(base: DetectionNetwork, rows: Mapping[str, float]) -> TrainedDetector:
    """A live version's finder, whose classes lean as given to what they did not before."""
    meant = {label: row for row, label in match_classes([*map(Label, rows)], CLASSES).items()}
    network = adapt_classes(base, tuple(rows), meant or None)
    for branch in network.module.model[-1].cv3:
        branch[-1].bias.data += np.array(list(rows.values()), dtype=np.float32)
    meaning = ClassMapping(False, tuple(rows), {i: i for i in range(len(rows))}, {}, 96)
    return TrainedDetector(network, meaning, "key", lambda *given: pytest.fail("not loaded"))


def logits(network: DetectionNetwork) -> Any:
    return raw_outputs(network)[1][0]


def test_without_a_live_version_classes_are_matched_with_the_base_by_name(
    base: DetectionNetwork,
) -> None:
    start = build_start_network(job(base, "Dogs", "rust", "Cats"), None, ())
    known, found = logits(base), logits(start)
    np.testing.assert_allclose(found[[0, 2]], known[[1, 0]], atol=1e-4)
    assert start.spec.classes == ("Dogs", "rust", "Cats")


def test_a_new_label_starts_from_the_weights_of_the_base(
    base: DetectionNetwork,
) -> None:
    """It would stay at random numbers: nobody marked it, so training says nothing about it."""
    live = learned(base, {"Cats": 0.5})
    for labels in (("Cats", "Dogs"), ("Dogs", "Cats"), ("rust", "Dogs", "Cats")):
        found = logits(build_start_network(job(base, *labels), live, ()))
        known = logits(base)
        np.testing.assert_allclose(found[labels.index("Cats")], known[0] + 0.5, atol=1e-4)
        np.testing.assert_allclose(found[labels.index("Dogs")], known[1], atol=1e-4)


def test_a_label_at_the_index_of_another_does_not_inherit_its_weights(
    base: DetectionNetwork,
) -> None:
    live = learned(base, {"Cats": 0.5})
    found = logits(build_start_network(job(base, "Dogs"), live, ()))
    np.testing.assert_allclose(found[0], logits(base)[1], atol=1e-4)
    unknown = logits(build_start_network(job(base, "rust"), live, ()))[0]
    assert np.abs(unknown - logits(base)[0] - 0.5).max() > 0.1


def test_unlabeled_classes_keep_the_weights_of_the_base(base: DetectionNetwork) -> None:
    live = learned(base, {"Cats": 0.5, "Dogs": 3.0})
    found = logits(build_start_network(job(base, "Cats", "Dogs"), live, (1,)))
    np.testing.assert_allclose(found[1], logits(base)[1], atol=1e-4)


def test_an_untrained_network_is_no_donor() -> None:
    nothing = load_base_network(SMALL_NETWORK_FILE)
    live = learned(nothing, {"object": 0.5})
    found = logits(build_start_network(job(nothing, "ring", "object"), live, ()))
    np.testing.assert_allclose(found[1], logits(nothing)[0] + 0.5, atol=1e-4)
