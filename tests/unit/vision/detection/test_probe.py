"""Quick detectors: a linear layer on the features of a frozen network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.domain import Control, ImageSize, Label, Region
from backend.errors import DamagedDetectorError, RoundCancelledError
from backend.inference.detections import RegionSample, predict_samples
from backend.inference.model import Model, load_model, save_model
from backend.learning.detection_metrics import RegionKind, evaluate_detections
from backend.training.detector import (
    DetectorTrainingJob,
    suits_quick_training,
    train_detector,
    undetectable_labels,
    warm_start_detector,
)
from backend.training.quick_detector import QuickTrainingJob, train_quick_detector
from backend.vision.detection.box_features import GRID_SIZE, box_features
from backend.vision.detection.feature_network import (
    FeatureRunner,
    has_features,
    load_feature_runner,
)
from backend.vision.detection.letterbox import Letterbox
from backend.vision.detection.network import DetectionNetwork
from backend.vision.detection.network_runner import NetworkRunner
from backend.vision.detection.probe_detector import PROBE_FILE, Probe, ProbeDetector
from backend.vision.detection.raw_network import build_feature_network
from backend.vision.detection.trained_detector import (
    ClassMapping,
    Detector,
    TrainedDetector,
    hash_network,
)
from backend.vision.runtime import TorchRunner
from tests.support.drawings import SHAPE_LABELS, Drawing, make_drawings
from tests.support.tiny_networks import DETECTOR_SIDE, make_torch_runner, save_pretrained_network


def load_features(network: DetectionNetwork, size: int, key: str) -> FeatureRunner:
    return FeatureRunner(network, size, TorchRunner(build_feature_network(network), "cpu"))


def load_runner(network: DetectionNetwork, size: int, key: str) -> NetworkRunner:
    return make_torch_runner(network, size)


def shapes(count: int, start: int) -> list[Drawing]:
    return make_drawings(count, start, *SHAPE_LABELS)


def control(kind: RegionKind = "boxes", labels: Sequence[str] = SHAPE_LABELS) -> Control:
    return Control("c", "image", "image", tuple(map(Label, labels)), kind)


def make_samples(drawings: Sequence[Drawing], kind: RegionKind = "boxes") -> list[RegionSample]:
    samples = []
    for number, drawing in enumerate(drawings):
        regions = []
        for thing in drawing.objects:
            corners = thing.box if kind == "boxes" else (*thing.center, *thing.center)
            regions.append(Region(thing.label, *corners))
        size = ImageSize(*drawing.image.size)
        samples.append(
            RegionSample(number, lambda drawing=drawing: drawing.image, size, tuple(regions))  # type: ignore[misc]
        )
    return samples


def quick_job(
    network: DetectionNetwork, samples: Sequence[RegionSample], kind: RegionKind = "boxes"
) -> QuickTrainingJob:
    return QuickTrainingJob(
        control=control(kind),
        samples=samples,
        network=network,
        network_tasks=frozenset(),
        rival=None,
        input_size=DETECTOR_SIDE,
        seed=0,
        load_feature_runner=load_features,
        report=lambda done, total: None,
        cancelled=lambda: False,
    )


def figure(detector: Detector, samples: Sequence[RegionSample], kind: RegionKind) -> float:
    judged = predict_samples(detector, control(kind), samples)
    extents = dict.fromkeys(SHAPE_LABELS, 0.125)
    metrics = evaluate_detections(judged, SHAPE_LABELS, kind, extents, detector.class_mapping.shown)
    return metrics.f1.value or 0.0


@pytest.fixture(scope="module")
def disc_network(yolo26_like: DetectionNetwork) -> DetectionNetwork:
    """A network that was trained on discs only."""
    return yolo26_like


def test_box_features_equal_those_of_roi_align() -> None:
    from torchvision.ops import roi_align

    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(5, 16, 24)).astype(np.float32), np.ones((3, 4, 6), dtype=np.float32)]
    corners = rng.uniform(2, 80, (40, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(3, 40, (40, 2))], 1).astype(np.float32)
    position = Letterbox((192, 128), (192, 128))
    expected = []
    for feature_map in maps:
        scale = feature_map.shape[2] / 192
        cells = roi_align(
            *(torch.from_numpy(feature_map)[None], [torch.from_numpy(boxes)]),
            *((GRID_SIZE, GRID_SIZE), scale, 1, True),
        )
        expected += [cells.mean((2, 3)).numpy(), cells.amax((2, 3)).numpy()]
    found = box_features(maps, boxes, position)
    np.testing.assert_allclose(found, np.concatenate(expected, 1), rtol=1e-4, atol=1e-5)
    assert box_features(maps, boxes[:0], position).shape == (0, 16)


@pytest.mark.parametrize("name", ["yolo11_like", "yolo26_like"])
def test_a_probe_with_the_weights_of_the_class_layer_detects_as_the_network_does(
    name: str, request: pytest.FixtureRequest
) -> None:
    network: DetectionNetwork = request.getfixturevalue(name)
    layers = [branch[-1] for branch in network.module.model[-1].cv3]
    probe = Probe(
        np.stack([layer.weight.data[:, :, 0, 0].numpy() for layer in layers]),
        np.stack([layer.bias.data.numpy() for layer in layers]),
        np.zeros((0, 0), dtype=np.float32),
        np.zeros(0, dtype=np.float32),
    )
    labels = network.spec.classes
    mapping = ClassMapping(False, labels, {i: i for i in range(len(labels))}, {}, DETECTOR_SIDE)
    key = hash_network(network)
    quick = ProbeDetector(network, mapping, key, probe, load_features)
    usual = TrainedDetector(network, mapping, key, load_runner)
    images = [drawing.image for drawing in shapes(6, 50)]
    pairs = zip(quick.detect(images, 0.1), usual.detect(images, 0.1), strict=True)
    counts = []
    for found, expected in pairs:
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-4)
        np.testing.assert_allclose(found.confidence, expected.confidence, atol=1e-4)
        assert found.labels.tolist() == expected.labels.tolist()
        counts.append(len(found))
    assert sum(counts) > 5


@pytest.mark.parametrize("kind", ["boxes", "points"])
def test_a_label_that_the_network_never_learned_is_found_after_seconds(
    disc_network: DetectionNetwork, kind: RegionKind
) -> None:
    drawings = shapes(16, 100)
    samples = make_samples(drawings, kind)
    detector = train_quick_detector(quick_job(disc_network, samples, kind))
    assert detector is not None
    assert undetectable_labels(detector, control(kind)) == ()
    assert figure(detector, make_samples(shapes(10, 200), kind), kind) > 0.7


def test_a_saved_quick_detector_detects_the_same(
    disc_network: DetectionNetwork, tmp_path: Path
) -> None:
    detector = train_quick_detector(quick_job(disc_network, make_samples(shapes(8, 100))))
    assert detector is not None
    save_model(Model({}, {"c": detector}), tmp_path)
    kept = load_model(
        tmp_path,
        load_runner,
        load_features,
        lambda name: pytest.fail("no prompts"),
    ).detectors["c"]
    assert kept.class_mapping == detector.class_mapping
    images = [drawing.image for drawing in shapes(4, 300)]
    for found, expected in zip(
        kept.detect(images, 0.05), detector.detect(images, 0.05), strict=True
    ):
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=2e-3)  # saved as float16
    (tmp_path / "finder-0" / PROBE_FILE).write_bytes(b"no arrays")
    with pytest.raises(DamagedDetectorError, match="roll back"):
        load_model(tmp_path, load_runner, load_features, lambda name: pytest.fail("none"))


def test_images_of_the_audit_set_are_not_trained_on(disc_network: DetectionNetwork) -> None:
    samples = make_samples(shapes(8, 100))
    audit = replace(samples[0], is_audit=True, load_image=lambda: pytest.fail("read"))
    assert train_quick_detector(quick_job(disc_network, [audit, *samples[1:]])) is not None


def test_a_better_live_detector_stays(
    disc_network: DetectionNetwork, yolo11_like: DetectionNetwork
) -> None:
    """The live detector knows both labels; a probe on features of discs does not surpass it."""
    mapping = ClassMapping(False, SHAPE_LABELS, {0: 0, 1: 1}, {}, DETECTOR_SIDE)
    rival = TrainedDetector(yolo11_like, mapping, "key", load_runner)
    job = quick_job(disc_network, make_samples(shapes(6, 100)))
    assert train_quick_detector(job) is not None
    assert train_quick_detector(replace(job, rival=rival)) is None


def test_images_that_the_network_was_trained_on_say_nothing(disc_network: DetectionNetwork) -> None:
    samples = make_samples(shapes(12, 100))
    marked = [sample.task_id for sample in samples if sample.regions]
    job = quick_job(disc_network, samples)
    assert train_quick_detector(replace(job, network_tasks=frozenset(marked[2:]))) is None
    assert train_quick_detector(replace(job, network_tasks=frozenset(marked[3:]))) is not None


def test_a_network_that_finds_no_object_gives_no_quick_detector(tmp_path: Path) -> None:
    random_network = save_pretrained_network(("cat", "dog"), tmp_path / "pets.pt")
    assert train_quick_detector(quick_job(random_network, make_samples(shapes(12, 100)))) is None


def test_a_quick_training_is_cancelled(disc_network: DetectionNetwork) -> None:
    job = quick_job(disc_network, make_samples(shapes(8, 100)))
    with pytest.raises(RoundCancelledError):
        train_quick_detector(replace(job, cancelled=lambda: True))


def test_an_rtdetr_has_no_features(rtdetr: DetectionNetwork) -> None:
    assert not has_features(rtdetr)
    assert train_quick_detector(quick_job(rtdetr, make_samples(shapes(8, 100)))) is None


def test_features_run_on_the_fastest_runtime_from_the_cache(
    disc_network: DetectionNetwork, tmp_path: Path
) -> None:
    image = shapes(1, 7)[0].image
    (expected,) = load_features(disc_network, DETECTOR_SIDE, "key").features([image])
    for _ in range(2):
        runner = load_feature_runner(disc_network, DETECTOR_SIDE, "key", tmp_path)
        (found,) = runner.features([image])
        assert [m.shape for m in found.maps] == [m.shape for m in expected.maps]
        np.testing.assert_allclose(found.cells, expected.cells, atol=1e-2)
    assert list(tmp_path.iterdir())


def full_job(base: DetectionNetwork, count: int, **given: object) -> DetectorTrainingJob:
    return DetectorTrainingJob(
        *(control(), make_samples(shapes(count, 100)), base),
        *(given.get("previous"), DETECTOR_SIDE, 60, 0, load_runner, None),  # type: ignore[arg-type]
        *(lambda done, total: None, lambda: False),
    )


def test_a_quick_training_is_for_learned_features_and_new_labels(
    disc_network: DetectionNetwork, tmp_path: Path
) -> None:
    pretrained = save_pretrained_network(("cat", "dog"), tmp_path / "pets.pt")
    assert suits_quick_training(full_job(pretrained, 20))
    known = save_pretrained_network(SHAPE_LABELS, tmp_path / "shapes.pt")
    assert not suits_quick_training(full_job(known, 20))  # detected by their names
    assert not suits_quick_training(full_job(disc_network, 20))  # an untrained base
    mapping = ClassMapping(False, SHAPE_LABELS, {0: 0, 1: 1}, {}, DETECTOR_SIDE)
    live = TrainedDetector(disc_network, mapping, "key", load_runner)
    assert suits_quick_training(full_job(disc_network, 20, previous=live))


def test_the_full_training_starts_from_the_network_under_a_quick_detector(
    disc_network: DetectionNetwork, tmp_path: Path
) -> None:
    pretrained = save_pretrained_network(("cat", "dog"), tmp_path / "pets.pt")
    tuned = DetectionNetwork(
        disc_network.module, replace(disc_network.spec, base=pretrained.spec.base)
    )
    on_tuned = train_quick_detector(quick_job(tuned, make_samples(shapes(8, 100))))
    assert on_tuned is not None
    on_base = replace(on_tuned, network=pretrained, key=hash_network(pretrained))
    assert warm_start_detector(full_job(pretrained, 20, previous=on_base)) is None
    start = warm_start_detector(full_job(pretrained, 20, previous=on_tuned))
    assert start is not None
    assert start.network is tuned


def test_a_quick_detector_is_replaced_by_the_full_training(
    yolo26_like: DetectionNetwork,
) -> None:
    samples = make_samples(shapes(6, 100))
    quick = train_quick_detector(quick_job(yolo26_like, samples))
    job = full_job(yolo26_like, 6, previous=quick)
    trained = train_detector(replace(job, max_steps=10))
    assert isinstance(trained, TrainedDetector)


def test_the_mapping_of_a_quick_detector_is_json(
    disc_network: DetectionNetwork, tmp_path: Path
) -> None:
    detector = train_quick_detector(
        quick_job(disc_network, make_samples(shapes(8, 100), "points"), "points")
    )
    assert detector is not None
    detector.save(tmp_path)
    stored = json.loads((tmp_path / "finder.json").read_text())
    assert stored["key"] == hash_network(disc_network)
    assert 0 < stored["shown"] < 1
