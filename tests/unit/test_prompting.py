"""Finding by words or drawn boxes, from the labels of a project to places; random weights."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from backend.domain import Control, ImageSize, Label, Region
from backend.inference.detections import RegionSample, detect_regions
from backend.inference.model import Model, load_model, save_model
from backend.inference.prompts import YoloePrompts
from backend.training.detector import (
    DetectorTrainingJob,
    train_detector,
    undetectable_labels,
    will_fine_tune,
)
from backend.vision.detection.network_runner import NetworkRunner
from backend.vision.detection.prompted_detector import PromptedDetector
from backend.vision.detection.raw_network import build_raw_network
from backend.vision.detection.trained_detector import ClassMapping, Detector
from backend.vision.detection.yoloe import OpenVocabulary
from backend.vision.encoders.clip import tokenize
from backend.vision.runtime import TorchRunner
from tests.support.tiny_networks import make_noise_image, save_pretrained_network
from tests.support.yoloe_weights import YOLOE_SIDE, save_yoloe

WEIGHTS = "yoloe-26n-seg.pt"
SQUARES = Label("Red Squares", ("square", "red square"))
BOXES = Control("c", "image", "image", (Label("disc"), SQUARES), "boxes")
POINTS = Control("c", "image", "image", (Label("disc"),), "points")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    save_yoloe("26/yoloe-26-seg.yaml", folder / WEIGHTS)
    return folder


@pytest.fixture
def prompts(weights: Path, tmp_path: Path) -> YoloePrompts:
    @cache
    def load(name: str) -> OpenVocabulary:
        return OpenVocabulary(weights / name, tokenize=tokenize, side=YOLOE_SIDE)

    return YoloePrompts(WEIGHTS, load, tmp_path / "project")


def meaning(control: Control) -> ClassMapping:
    points = control.kind == "points"
    return ClassMapping(points, control.label_names, {}, {}, YOLOE_SIDE, shown=0.0, learned=False)


def sample(*places: Region) -> RegionSample:
    image = make_noise_image((120, 90), 1)
    return RegionSample(1, lambda: image, ImageSize(120, 90), places)


def test_without_words_or_boxes_nothing_is_found_and_nothing_fails(prompts: YoloePrompts) -> None:
    assert prompts.detector(BOXES, [], meaning(BOXES)) is None


def test_drawn_boxes_describe_a_label_and_the_others_are_not_found(
    prompts: YoloePrompts, tmp_path: Path
) -> None:
    drawn = sample(Region("disc", 0.2, 0.2, 0.6, 0.7))
    finder = prompts.detector(BOXES, [drawn], meaning(BOXES))
    assert finder is not None
    assert [row.any() for row in finder.embeddings] == [True, False]
    ((places, confidence),) = detect_regions(
        finder, BOXES, [drawn.load_image()], min_confidence=0.0
    )
    assert {place.label for place in places} == {"disc"}
    assert list(confidence) == sorted(confidence, reverse=True)
    assert all(0 <= p.x0 < p.x1 <= 1 and 0 <= p.y0 < p.y1 <= 1 for p in places)
    folder = tmp_path / "version"
    folder.mkdir()
    save_model(Model({}, {"c": finder}), folder)
    kept = load_model(
        folder,
        lambda *given: pytest.fail("no network of ours"),
        lambda *given: pytest.fail("no features"),
        finder.load_open_vocabulary,
    )
    assert detect_regions(kept.detectors["c"], BOXES, [drawn.load_image()], min_confidence=0.0) == [
        (places, confidence)
    ]


def test_points_are_shown_as_small_boxes_and_found_as_points(prompts: YoloePrompts) -> None:
    marked = sample(Region("disc", 0.3, 0.3, 0.3, 0.3), Region("disc", 0.7, 0.6, 0.7, 0.6))
    finder = prompts.detector(POINTS, [marked], meaning(POINTS))
    assert finder is not None
    ((places, _),) = detect_regions(finder, POINTS, [marked.load_image()], min_confidence=0.0)
    assert places
    assert all(place.x0 == place.x1 and place.y0 == place.y1 for place in places)


def test_what_nothing_describes_is_still_found_by_its_name(
    prompts: YoloePrompts, tmp_path: Path
) -> None:
    """The first drawn box describes one label; the other one is known to the base by name."""
    known = save_pretrained_network(("square", "cat"), tmp_path / "two.pt")
    detector = NetworkRunner(known, YOLOE_SIDE, TorchRunner(build_raw_network(known), "cpu"))
    job = DetectorTrainingJob(
        *(BOXES, [sample(Region("disc", 0.2, 0.2, 0.6, 0.7))], known, None, YOLOE_SIDE, 60, 0),
        *(lambda *given: detector, prompts, lambda done, of: None, lambda: False),
    )
    finder = train_detector(job)
    assert isinstance(finder, PromptedDetector)
    assert undetectable_labels(finder, BOXES) == ()
    assert found_labels(finder) == {"disc", "Red Squares"}
    folder = tmp_path / "version"
    folder.mkdir()
    save_model(Model({}, {"c": finder}), folder)
    kept = load_model(
        folder,
        job.load_runner,
        lambda *given: pytest.fail("no features"),
        finder.load_open_vocabulary,
    ).detectors["c"]
    assert found_labels(kept) == {"disc", "Red Squares"}
    only = train_detector(replace(job, prompts=None))
    assert undetectable_labels(only, BOXES) == ("disc",)
    assert undetectable_labels(None, BOXES) == ("disc", "Red Squares")


def found_labels(finder: Detector) -> set[str]:
    ((places, confidence),) = detect_regions(
        finder, BOXES, [make_noise_image((120, 90), 1)], min_confidence=1e-6
    )
    assert list(confidence) == sorted(confidence, reverse=True)
    return {place.label for place in places}


def test_a_damaged_network_costs_a_line_and_no_round(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as the page that says the file is not there, saved under its name."""
    file = tmp_path / WEIGHTS
    file.write_text("<html>404</html>", encoding="utf-8")
    broken = YoloePrompts(WEIGHTS, lambda name: OpenVocabulary(tmp_path / name), tmp_path)
    assert broken.detector(BOXES, [], meaning(BOXES)) is None
    (line,) = caplog.messages
    assert line.startswith("Text and box prompts are unavailable: ")
    assert str(file) in line


def test_few_images_are_fine_tuned_on_only_if_prompts_are_unavailable(
    prompts: YoloePrompts, tmp_path: Path
) -> None:
    """The answer decides where a detector is trained: Modal trains only what is fine-tuned."""
    (tmp_path / WEIGHTS).write_text("<html>404</html>", encoding="utf-8")
    broken = YoloePrompts(WEIGHTS, lambda name: OpenVocabulary(tmp_path / name), tmp_path)
    strange = save_pretrained_network(("cat", "dog"), tmp_path / "strange.pt")
    known = save_pretrained_network(("disc", "dog"), tmp_path / "known.pt")
    labeled = sample(Region("disc", 0.2, 0.2, 0.6, 0.7))
    job = DetectorTrainingJob(
        *(BOXES, [labeled] * 3, strange, None, YOLOE_SIDE, 60, 0),
        *(lambda *given: pytest.fail("nothing is trained"), None),
        *(lambda done, of: None, lambda: False),
    )
    assert will_fine_tune(job)
    assert will_fine_tune(replace(job, prompts=broken))
    assert not will_fine_tune(replace(job, prompts=prompts))
    assert isinstance(train_detector(replace(job, prompts=prompts)), PromptedDetector)
    assert not will_fine_tune(replace(job, base_network=known))
    assert not will_fine_tune(replace(job, samples=[labeled] * 2))
    assert will_fine_tune(replace(job, base_network=known, samples=[labeled] * 10))


@pytest.mark.parametrize("keep", [0, 3, 1024])
def test_a_damaged_embedding_of_words_is_none(prompts: YoloePrompts, keep: int) -> None:
    row = np.full(512, 512**-0.5, dtype=np.float32)
    for label in BOXES.labels:
        file = prompts.embedding_path(label)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(row.tobytes()[:keep])
    assert prompts.detector(BOXES, [], meaning(BOXES)) is None


def test_words_are_embedded_anew_for_other_files(prompts: YoloePrompts, tmp_path: Path) -> None:
    label = BOXES.labels[0]
    one, same, other = (
        YoloePrompts(WEIGHTS, prompts._load, tmp_path, [(WEIGHTS, size)]).embedding_path(label)
        for size in (5, 5, 6)
    )
    assert one == same != other


def test_words_are_embedded_once_for_a_project(prompts: YoloePrompts, tmp_path: Path) -> None:
    """Their rows are kept: the text encoder is not needed again."""
    known = tmp_path / "project" / "prompts"
    assert prompts.detector(BOXES, [], meaning(BOXES)) is None
    row = np.full(512, 512**-0.5, dtype=np.float32)
    for label in BOXES.labels:
        file = prompts.embedding_path(label)
        file.parent.mkdir(parents=True, exist_ok=True)
        row.tofile(file)
    assert len(list(known.iterdir())) == 2
    finder = prompts.detector(BOXES, [], meaning(BOXES))
    assert finder is not None
    np.testing.assert_array_equal(finder.embeddings, np.stack([row, row]))
