"""Training: it learns, ends when it should, and leaves the machine as it was."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backend.domain import Control, ImageSize, Label, Region, Regions
from backend.errors import RoundCancelledError
from backend.inference.detections import RegionSample, confidence_threshold
from backend.learning.detection_metrics import evaluate_detections
from backend.training.detector import DetectorTrainingJob, train_detector
from backend.vision.detection.detections import DetectionExample
from backend.vision.detection.fine_tune import (
    BACKBONE_LAYER_COUNT,
    STEM_LAYER_COUNT,
    choose_recipe,
    fine_tune,
    interpolate_weights,
)
from backend.vision.detection.network import (
    SMALL_NETWORK_FILE,
    DetectionNetwork,
    adapt_classes,
    load_base_network,
)
from backend.vision.detection.trained_detector import TrainedDetector
from tests.support.drawings import SHAPE_LABELS, Drawing, make_drawings
from tests.support.tiny_networks import (
    DETECTOR_SIDE,
    DRAWING_SIZE,
    make_detection_samples,
    make_examples,
    make_torch_runner,
    short_recipe,
)

DISC = ("disc",)
CLASS_BIAS = re.compile(r"cv3\.\d\.2\.bias$")


@dataclass
class FakeTrainer:
    """What :class:`TrainingLimits` uses of an ultralytics trainer."""

    epochs: int = 10
    epoch: int = 0
    stop: bool = False
    args: Any = field(default_factory=lambda: SimpleNamespace(epochs=10))
    scheduler: Any = field(default_factory=SimpleNamespace)

    def _setup_scheduler(self) -> None:
        """Nothing is scheduled."""


def test_work_between_epochs_does_not_count_as_training_time() -> None:
    from backend.vision.detection.ultralytics_trainer import TrainingLimits

    trainer = FakeTrainer()
    limits = TrainingLimits(2.0, lambda done, total: time.sleep(1.5), lambda: False)
    limits._on_train_start(trainer)
    for epoch in range(4):
        trainer.epoch = epoch
        limits._on_batch_end(trainer)
        limits._on_epoch_end(trainer)
    assert not trainer.stop
    assert trainer.epochs == 10


@dataclass
class Watch:
    """What Python tells of a process."""

    on: bool = False
    written: list[str] = field(default_factory=list)
    forbidden: list[str] = field(default_factory=list)

    def hear(self, event: str, given: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open" and isinstance(given[0], (str, bytes)):
            if int(given[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.written.append(os.fsdecode(given[0]))
        elif event in ("os.mkdir", "os.rename"):
            self.written.append(os.fsdecode(given[0]))
        elif event in ("socket.connect", "subprocess.Popen", "os.fork", "os.system", "os.exec"):
            self.forbidden.append(event)


WATCH = Watch()
sys.addaudithook(WATCH.hear)  # cannot be taken off again, only switched off


@contextmanager
def watched() -> Iterator[Watch]:
    WATCH.written, WATCH.forbidden, WATCH.on = [], [], True
    try:
        yield WATCH
    finally:
        WATCH.on = False


@pytest.fixture(scope="module")
def start() -> DetectionNetwork:
    return adapt_classes(load_base_network(SMALL_NETWORK_FILE), DISC)


def quiet(done: int, of: int) -> None:
    """Hear nothing."""


def weights(network: DetectionNetwork) -> dict[str, Any]:
    return {name: value.numpy() for name, value in network.module.state_dict().items()}


def test_twelve_images_are_enough_to_detect_discs(yolo26_like: DetectionNetwork) -> None:
    others = make_drawings(40, 100, *DISC)
    found = make_torch_runner(yolo26_like).detect([one.image for one in others], 0.02)
    samples = make_detection_samples(others, found, DISC)
    figures: dict[str, Any] = evaluate_detections(samples, DISC, "boxes", {}, 0.25).to_json()
    print("12 images, boxes:", figures)
    assert figures["map50"] >= 0.7
    assert not yolo26_like.module.training
    assert not any(p.requires_grad for p in yolo26_like.module.parameters())


def test_an_empty_image_trains_the_background(yolo26_like: DetectionNetwork) -> None:
    """Squares that nobody calls a disc are no longer taken for one; discs are found as before."""
    discs = make_examples(make_drawings(8, 400, *DISC), SHAPE_LABELS)
    empty = [unmarked(one) for one in make_examples(make_drawings(8, 420, "square"), SHAPE_LABELS)]
    alone, beside = (
        fine_tune(yolo26_like, some, short_recipe(40), quiet) for some in (discs, discs + empty)
    )
    assert surest(beside, "square") < 0.5 * surest(alone, "square")
    assert surest(beside, "disc") > 0.5


def unmarked(one: DetectionExample) -> DetectionExample:
    return replace(one, boxes=one.boxes[:0], labels=one.labels[:0])


def surest(network: DetectionNetwork, label: str) -> float:
    """The mean confidence of the surest disc in other pictures, which show things of a label."""
    shown = [one for one in make_drawings(30, 500, label) if one.objects]
    found = make_torch_runner(network).detect([one.image for one in shown], 0.001)
    return float(np.mean([max(f.confidence, default=0.0) for f in found]))


@pytest.mark.parametrize("kind", ["yolo11_like", "builtin"])
def test_images_without_an_ignored_label_do_not_train_it_as_background(
    kind: str, request: pytest.FixtureRequest
) -> None:
    builtin = adapt_classes(load_base_network(SMALL_NETWORK_FILE), SHAPE_LABELS)
    known = builtin if kind == "builtin" else request.getfixturevalue(kind)
    only_discs = make_examples(make_drawings(8, 300, *DISC), SHAPE_LABELS)
    left, taught = (
        fine_tune(known, only_discs, replace(short_recipe(20), ignored_classes=classes), quiet)
        for classes in ((1,), ())
    )
    assert moved(known, left, 1) < 1e-3
    assert moved(known, left, 0) > 0.01
    assert moved(known, taught, 1) > 0.01


def moved(before: DetectionNetwork, after: DetectionNetwork, row: int) -> float:
    """How much a class's leaning changed, in the head where it changed most."""
    old, new = leanings(before), leanings(after)
    return max(abs(float(new[name][row] - old[name][row])) for name in old)


def leanings(network: DetectionNetwork) -> dict[str, Any]:
    """By head, (classes,) how much it leans to each class whatever it sees."""
    state = network.module.state_dict()
    return {name: value.numpy() for name, value in state.items() if CLASS_BIAS.search(name)}


@pytest.mark.filterwarnings("ignore:.*GradScaler is enabled, but CUDA is not available")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])  # a check of fp16 would download
def test_training_leaves_the_machine_as_it_was(
    start: DetectionNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    import torch

    from backend.vision.ultralytics_models import import_ultralytics

    def refuse(*given: object, **named: object) -> None:
        raise AssertionError("a program or a connection was started")

    import_ultralytics()
    monkeypatch.setattr("backend.vision.detection.fine_tune.training_precision", lambda: precision)
    fine_tune(
        start, make_examples(make_drawings(2, 0, *DISC), DISC), short_recipe(1), quiet
    )  # all imports are done
    (tmp_path / "temporary").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "here")
    for module, name in ((subprocess, "Popen"), (os, "system"), (socket.socket, "connect")):
        monkeypatch.setattr(module, name, refuse)
    before = (
        dict(os.environ),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
    )
    started = weights(start)
    started = {name: value.copy() for name, value in started.items()}
    with watched() as watch:
        fine_tune(start, make_examples(make_drawings(4, 0, *DISC), DISC), short_recipe(10), quiet)
    after = (
        dict(os.environ),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
    )
    assert after == before
    assert not watch.forbidden
    outside = [name for name in watch.written if not name.startswith((str(tmp_path), "/dev/"))]
    assert not outside
    assert not list((tmp_path / "temporary").iterdir())
    assert not list((tmp_path / "here").iterdir())
    for name, value in weights(start).items():  # a copy was trained
        np.testing.assert_array_equal(value, started[name])


def test_equal_seeds_give_equal_networks_and_progress_is_reported(start: DetectionNetwork) -> None:
    """Some of the images have no boxes."""
    marked = make_examples(make_drawings(5, 0, *DISC), DISC)
    nothing = np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.int64)
    marked += [DetectionExample(e.read_image, e.width, e.height, *nothing) for e in marked[:2]]
    told: list[tuple[int, int]] = []
    one, same, other = (
        weights(fine_tune(start, marked, short_recipe(20, seed), lambda *tick: told.append(tick)))
        for seed in (4, 4, 5)
    )
    assert told == [(1, 2), (2, 2)] * 3
    floats = [name for name, value in one.items() if value.dtype == np.float32]
    far = max(float(np.abs(one[name] - same[name]).max()) for name in floats)
    farther = max(float(np.abs(one[name] - other[name]).max()) for name in floats)
    print(f"equal seeds differ by {far:.2g}, others by {farther:.2g}")
    assert far < 0.01 * farther


def test_training_is_cancelled_after_the_current_batch(start: DetectionNetwork) -> None:
    asked: list[float] = []

    def cancelled() -> bool:
        asked.append(time.monotonic())
        return len(asked) >= 3

    marked = make_examples(make_drawings(4, 0, *DISC), DISC)
    with pytest.raises(RoundCancelledError, match="is unchanged"):
        fine_tune(start, marked, short_recipe(5000), quiet, cancelled)
    assert len(asked) == 3
    assert time.monotonic() - asked[-1] < 30, "all epochs take minutes"


def test_training_restores_the_number_of_threads(start: DetectionNetwork) -> None:
    import torch

    torch.set_num_threads(3)
    try:
        with pytest.raises(RoundCancelledError):
            fine_tune(
                start,
                make_examples(make_drawings(2, 0, *DISC), DISC),
                short_recipe(10),
                quiet,
                lambda: True,
            )
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)


def test_the_time_limit_holds(start: DetectionNetwork) -> None:
    told: list[tuple[int, int]] = []
    marked = make_examples(make_drawings(4, 0, *DISC), DISC)
    fine_tune(start, marked, short_recipe(1), quiet)  # all imports are done
    begun = time.monotonic()
    network = fine_tune(
        start, marked, short_recipe(4000, seconds=3), lambda *tick: told.append(tick)
    )
    took = time.monotonic() - begun
    print(f"a limit of 3 s took {took:.1f} s, {told[-1]}")
    assert took < 60, "all epochs take minutes"
    assert told[-1][0] <= told[-1][1] < 400
    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    assert all(np.isfinite(value).all() for value in weights(network).values())


def test_the_time_limit_holds_where_not_even_an_epoch_fits(start: DetectionNetwork) -> None:
    """Ten batches of images that take a tenth of a second to read: about fifteen seconds."""
    read: list[float] = []

    def slowly(example: DetectionExample) -> DetectionExample:
        def picture() -> Any:
            time.sleep(0.1)
            read.append(time.monotonic())
            return example.read_image()

        return replace(example, read_image=picture)

    marked = [slowly(one) for one in make_examples(make_drawings(60, 0, *DISC), DISC)]
    told: list[tuple[int, int]] = []
    network = fine_tune(
        start, marked, short_recipe(4000, seconds=1), lambda *tick: told.append(tick)
    )
    assert told == [(1, 1)]
    assert len(read) < 45
    assert all(np.isfinite(value).all() for value in weights(network).values())


def test_slow_reads_in_the_first_epoch_do_not_shorten_the_schedule(
    start: DetectionNetwork,
) -> None:
    """They are read once: one slow epoch is no measure for the others."""

    def slowly(example: DetectionExample) -> DetectionExample:
        def read() -> Any:
            time.sleep(1.5)
            return example.read_image()

        return replace(example, read_image=read)

    quick = make_examples(make_drawings(4, 0, *DISC), DISC)
    begun = time.monotonic()
    fine_tune(start, quick, short_recipe(80), quiet)
    limit = time.monotonic() - begun + 27  # the reads take 6 s, and 48 s if each epoch had them
    told: list[tuple[int, int]] = []
    marked = [slowly(one) for one in quick]
    fine_tune(start, marked, short_recipe(80, seconds=limit), lambda *tick: told.append(tick))
    assert told[-1] == (8, 8)


def test_an_rtdetr_learns_without_failing(rtdetr: DetectionNetwork) -> None:
    marked = make_examples(make_drawings(6, 0, "disc", "square"), ("disc", "square"))
    told: list[tuple[int, int]] = []
    network = fine_tune(rtdetr, marked, short_recipe(20), lambda *tick: told.append(tick))
    assert told[-1] == (2, 2)
    before, after = weights(rtdetr), weights(network)
    assert any(np.abs(before[name] - after[name]).max() > 1e-3 for name in before)
    assert all(np.isfinite(value).all() for value in after.values())


def test_recipes_grow_with_the_images_and_halve_when_warm(start: DetectionNetwork) -> None:
    few, many = (make_examples(make_drawings(1, 0, *DISC), DISC) * count for count in (10, 200))
    cold = choose_recipe(start, many, 320, warm_start=False, time_limit_seconds=60, seed=1)
    assert (
        choose_recipe(start, few, 320, warm_start=False, time_limit_seconds=60, seed=1).iterations
        < cold.iterations
    )
    warm = choose_recipe(start, many, 320, warm_start=True, time_limit_seconds=60, seed=1)
    assert (warm.iterations, warm.learning_rate) == (cold.iterations // 2, cold.learning_rate / 2)
    assert cold.frozen_layers == 0  # what starts from nothing has nothing to keep


def test_the_learning_rate_of_pretrained_weights_falls_with_the_class_count() -> None:
    base = load_base_network(SMALL_NETWORK_FILE)
    marked = make_examples(make_drawings(1, 0, *DISC), DISC)

    def rate(classes: int) -> float:
        network = adapt_classes(base, [f"class {i}" for i in range(classes)])
        known = DetectionNetwork(network.module, replace(network.spec, pretrained=True))
        return choose_recipe(
            known, marked, 320, warm_start=False, time_limit_seconds=60, seed=1
        ).learning_rate

    assert rate(1) == rate(6) == 0.001
    assert rate(71) == pytest.approx(0.01 / 75)


def test_pretrained_weights_keep_what_they_know(
    start: DetectionNetwork, rtdetr: DetectionNetwork
) -> None:
    def kept(network: DetectionNetwork, count: int, known: bool, warm: bool = False) -> int:
        given = DetectionNetwork(network.module, replace(network.spec, pretrained=True))
        marked = make_examples(make_drawings(1, 0, *DISC), DISC) * count
        return choose_recipe(
            given, marked, 320, warm, time_limit_seconds=60, seed=1, covers_labels=known
        ).frozen_layers

    assert kept(start, 10, known=True) == BACKBONE_LAYER_COUNT
    assert kept(start, 100, known=True) == kept(start, 10, known=False) == STEM_LAYER_COUNT
    assert kept(start, 10, known=True, warm=True) == STEM_LAYER_COUNT
    many = adapt_classes(start, [f"class {i}" for i in range(20)])  # few images of each
    assert kept(many, 199, known=True) == BACKBONE_LAYER_COUNT
    assert kept(many, 200, known=True) == STEM_LAYER_COUNT
    assert kept(rtdetr, 10, known=True) == 0


# -- points ----------------------------------------------------------------------------------


def test_fifty_images_of_points_find_and_count_discs(monkeypatch: pytest.MonkeyPatch) -> None:
    """By all that a round does: sides from the gaps, tuned threshold, and back to points."""
    crowded: dict[str, Any] = {"size": DRAWING_SIZE, "max_objects": 8, "radius": (6, 9)}
    marked, others = (make_drawings(n, i, *DISC, **crowded) for n, i in ((50, 0), (60, 500)))
    control = Control("dot", "image", "image", (Label("disc"),), "points")
    samples = [
        RegionSample(number, lambda image=one.image: image, ImageSize(*DRAWING_SIZE), dots(one))  # type: ignore[misc]
        for number, one in enumerate(marked)
    ]
    monkeypatch.setattr(
        "backend.vision.detection.fine_tune.choose_recipe", lambda *given: short_recipe(200)
    )  # a third of what 50 images get
    finder = train_detector(
        DetectorTrainingJob(
            *(control, samples, load_base_network(SMALL_NETWORK_FILE), None, DETECTOR_SIDE, 60, 0),
            *(
                lambda network, size, key: make_torch_runner(network, size),
                None,
                quiet,
                lambda: False,
            ),
        )
    )
    assert finder is not None
    assert finder.class_mapping.learned
    found = finder.detect([one.image for one in others], 0.02)
    least, size = (
        confidence_threshold(finder, control),
        15 / DETECTOR_SIDE,
    )  # of the discs, in the mean
    judged = make_detection_samples(others, found, DISC)
    metrics = evaluate_detections(judged, DISC, "points", {"disc": size}, least)
    figure = metrics.f1
    figures: dict[str, Any] = metrics.to_json()
    side = finder.class_mapping.sides["disc"] * DETECTOR_SIDE
    print(f"50 images, points: side {side:.1f} pixels, from {least}: F1 {figure}, {figures}")
    assert all(tuple(box[:2]) == tuple(box[2:]) for one in found for box in one.boxes)
    assert figures["f1"] >= 0.95
    assert figures["counting_error"] < 0.05


def dots(drawn: Drawing) -> Regions:
    """A click on the middle of each."""
    return tuple(Region(thing.label, *thing.center, *thing.center) for thing in drawn.objects)


# -- weights that know the labels ------------------------------------------------------------


def test_interpolated_weights_lie_between_initial_and_trained_weights(
    yolo26_like: DetectionNetwork,
) -> None:
    start = adapt_classes(load_base_network(SMALL_NETWORK_FILE), DISC)
    half, none = (interpolate_weights(start, yolo26_like, share) for share in (0.5, 0.0))
    before, after = weights(start), weights(yolo26_like)
    for name, value in weights(half).items():
        middle = (before[name] + after[name]) / 2 if value.dtype.kind == "f" else after[name]
        np.testing.assert_allclose(value, middle, rtol=2e-3, atol=1e-4)  # kept in half precision
    np.testing.assert_allclose(on(none), on(start), atol=0.02)
    assert half.spec == yolo26_like.spec


def on(network: DetectionNetwork) -> Any:
    """What a network sees in a picture."""
    import torch

    from backend.vision.detection.raw_network import build_raw_network

    picture = np.asarray(
        make_drawings(1, 700, *DISC)[0].image.resize((DETECTOR_SIDE, DETECTOR_SIDE)),
        dtype=np.float32,
    )
    with torch.no_grad():
        return build_raw_network(network)(torch.tensor(picture.transpose(2, 0, 1))[None] / 255)[
            1
        ].numpy()


def test_weights_are_interpolated_if_the_base_knows_all_labels(
    yolo26_like: DetectionNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = DetectionNetwork(yolo26_like.module, replace(yolo26_like.spec, pretrained=True))

    def moved(names: tuple[str, ...], share: float) -> Any:
        """How far training went from where it began."""
        monkeypatch.setattr("backend.vision.detection.fine_tune.WEIGHT_INTERPOLATION", share)
        control = Control("box", "image", "image", tuple(map(Label, names)), "boxes")
        samples = [boxed(number, one) for number, one in enumerate(make_drawings(12, 800, *DISC))]
        job = DetectorTrainingJob(
            *(control, samples, base, None, DETECTOR_SIDE, 60, 0),
            *(
                lambda network, size, key: make_torch_runner(network, size),
                None,
                quiet,
                lambda: False,
            ),
            max_steps=20,
        )
        finder = train_detector(job)
        assert isinstance(finder, TrainedDetector)
        return numbers(finder.network) - numbers(adapt_classes(base, names))

    known = [moved(("disc",), share) for share in (0.5, 1.0)]
    assert known[0] @ known[1] / (known[1] @ known[1]) == pytest.approx(0.5, abs=0.02)
    strange = [moved(("disc", "ring"), share) for share in (0.5, 1.0)]
    assert (strange[0] == strange[1]).all(), "a ring is nothing that it knows: all is taken"


def numbers(network: DetectionNetwork) -> Any:
    """All weights, in one row."""
    kept = [value.ravel() for value in weights(network).values() if value.dtype.kind == "f"]
    return np.concatenate(kept).astype(np.float64)


def boxed(number: int, drawn: Drawing) -> RegionSample:
    places = tuple(Region(thing.label, *thing.box) for thing in drawn.objects)
    return RegionSample(number, lambda: drawn.image, ImageSize(*DRAWING_SIZE), places)
