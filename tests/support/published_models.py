"""Create home folders with live versions, without Label Studio."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from backend.card_records import ControlCard, ModelSource, SplitSizes
from backend.domain import Control, Label
from backend.estimate import IntervalEstimate
from backend.inference.model import Model, save_model
from backend.store.drift_reference import DriftReference, save_reference
from backend.store.projects import ProjectStore
from backend.store.versions import VersionCard, VersionStore, content_hash
from backend.training.head import ChoiceExamples, HeadTrainingJob, train_head
from tests.support.harness import make_png

COLOUR_CONTROL = Control("colour", "image", "image", (Label("red"), Label("blue")))
TAGS_CONTROL = Control("tags", "image", "image", (Label("red"), Label("blue")), multiple=True)
BOXES_CONTROL = Control("things", "image", "image", (Label("disc"), Label("square")), "boxes")
POINTS_CONTROL = Control("centres", "image", "image", (Label("disc"), Label("square")), "points")
DETECTOR_INPUT_SIZE = 160


def make_image(colour: str, number: int, size: int = 64) -> Image.Image:
    """Draw a coloured image."""
    return Image.open(io.BytesIO(make_png(colour, number, size))).convert("RGB")


def train_colour_model(
    control: Control = COLOUR_CONTROL, images: int = 24
) -> tuple[Model, DriftReference]:
    """Train a head that separates red from blue, with its drift reference."""
    from backend.vision.encoders.builtin import BuiltinEncoder

    encoder = BuiltinEncoder()
    names = [control.label_names[i % 2] for i in range(images)]
    vectors = encoder.encode_images([make_image(name, i) for i, name in enumerate(names)])
    answers = tuple(frozenset([name]) for name in names)
    offered_labels = (frozenset(control.label_names),) * images
    audit = np.zeros(images, dtype=bool)
    job = HeadTrainingJob(
        control=control,
        examples=ChoiceExamples(tuple(range(images)), vectors, answers, offered_labels, audit),
        pool=vectors,
        prototypes=None,
        logit_scale=1.0,
        logit_bias=0.0,
        previous=None,
        seed=0,
    )
    head = train_head(job)
    assert head is not None
    label_counts = {name: names.count(name) for name in control.label_names}
    return Model({control.name: head}, controls=(control,)), DriftReference(
        {control.name: label_counts}, vectors
    )


def train_detector_model(*controls: Control) -> Model:
    """Train a small network for some seconds to detect drawn discs and squares."""
    from backend.inference.model import Model
    from backend.vision.detection.network_runner import NetworkRunner
    from backend.vision.detection.raw_network import build_raw_network
    from backend.vision.detection.trained_detector import ClassMapping, TrainedDetector
    from backend.vision.runtime import TorchRunner

    network, key = _train_network()
    detector = NetworkRunner(
        network, DETECTOR_INPUT_SIZE, TorchRunner(build_raw_network(network), "cpu")
    )
    finders = {}
    for control in controls:
        names = control.label_names
        points = control.kind == "points"
        sides = dict.fromkeys(names, 0.2) if points else {}
        detector_meaning = ClassMapping(
            points, names, {0: 0, 1: 1}, sides, DETECTOR_INPUT_SIZE, shown=0.03
        )
        finders[control.name] = TrainedDetector(
            network, detector_meaning, key, lambda *given: detector
        )
    return Model({}, finders, controls=controls)


@cache
def _train_network():  # type: ignore[no-untyped-def]
    import torch

    from backend.vision.detection.fine_tune import fine_tune
    from backend.vision.detection.network import (
        SMALL_NETWORK_FILE,
        adapt_classes,
        load_base_network,
    )
    from backend.vision.detection.trained_detector import hash_network
    from tests.support.drawings import SHAPE_LABELS, make_drawings
    from tests.support.tiny_networks import make_examples, short_recipe

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        start = adapt_classes(load_base_network(SMALL_NETWORK_FILE), SHAPE_LABELS)
        training_drawings = make_drawings(16, 0, *SHAPE_LABELS)
        network = fine_tune(
            start,
            make_examples(training_drawings, SHAPE_LABELS),
            short_recipe(120),
            lambda *a: None,
            lambda: False,
        )
    finally:
        torch.set_num_threads(threads)
    return network, hash_network(network)


def publish_version(
    home: Path,
    id: str,
    model: Model,
    reference: DriftReference | None = None,
    *,
    live: bool = True,
    server: str = "",
    title: str = "",
    encoder: ModelSource = ModelSource("builtin", "builtin", "builtin"),
) -> str:
    """Save a version in a home folder, make it live, and return its name."""
    number = int(id)
    projects = ProjectStore(home)
    if not (projects.folder(id) / "project.json").exists():
        assert projects.register(server, number).id == id
    projects.set_title(id, title or f"Project {id}")
    versions = VersionStore(projects.folder(id))
    position, name = versions.next_name(content_hash([id, len(versions.names())]))
    card = VersionCard(
        version=name,
        identity=content_hash([id, position]),
        number=position,
        parent=versions.live(),
        created="2026-11-23T12:00:00+00:00",
        labels=SplitSizes(24, 0),
        audit=IntervalEstimate(),
        controls=_control_summaries(model.controls),
        encoder=encoder if model.heads else ModelSource(),
        seconds={"total": 1.0},
        seed=0,
    )

    def write_files(folder: Path) -> None:
        save_model(model, folder)
        if reference is not None:
            save_reference(reference, folder)

    versions.save(card, {}, write_files)
    if live:
        versions.promote(name, by="a test", reason="")
    return name


def _control_summaries(controls: Sequence[Control]) -> dict[str, ControlCard]:
    return {c.name: ControlCard("test", dict.fromkeys(c.label_names, 12)) for c in controls}


def make_ambiguous_png(number: int) -> bytes:
    """Draw an image, half red and half blue; each number gives another one."""
    random = np.random.default_rng(number)
    image = Image.new("RGB", (64, 64), (150, 40, 40))
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, w, h = random.integers(0, 50, 4)
        colour = tuple(random.integers(0, 255, 3).tolist())
        pen.rectangle((x, y, x + w // 2 + 4, y + h // 2 + 4), fill=colour)
    pen.rectangle((32, 0, 64, 64), fill=(40, 40, 150))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
