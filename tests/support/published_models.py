"""Homes with live versions, made without Label Studio: what the endpoint finds when it starts."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from backend.domain import Control, Label
from backend.inference.model import Model, save_model
from backend.store.drift_reference import Reference, save_reference
from backend.store.projects import Projects
from backend.store.versions import Card, Versions, identity_of
from backend.training.head import Examples, TrainingJob, train
from tests.support.harness import png

COLOUR = Control("colour", "image", "image", (Label("red"), Label("blue")))
TAGS = Control("tags", "image", "image", (Label("red"), Label("blue")), multiple=True)
BOXES = Control("things", "image", "image", (Label("disc"), Label("square")), "boxes")
POINTS = Control("centres", "image", "image", (Label("disc"), Label("square")), "points")
SIDE = 160


def picture(colour: str, number: int, size: int = 64) -> Image.Image:
    """A coloured image."""
    return Image.open(io.BytesIO(png(colour, number, size))).convert("RGB")


def colour_model(control: Control = COLOUR, images: int = 24) -> tuple[Model, Reference]:
    """Knows red from blue, by the builtin encoder; and what its audit slice looks like."""
    from backend.vision.encoders.builtin import BuiltinEncoder

    encoder = BuiltinEncoder()
    names = [control.label_names[i % 2] for i in range(images)]
    vectors = encoder.encode_images([picture(name, i) for i, name in enumerate(names)])
    answers = tuple(frozenset([name]) for name in names)
    asked = (frozenset(control.label_names),) * images
    audit = np.zeros(images, dtype=bool)
    job = TrainingJob(
        control=control,
        examples=Examples(tuple(range(images)), vectors, answers, asked, audit),
        pool=vectors,
        prototypes=None,
        logit_scale=1.0,
        logit_bias=0.0,
        previous=None,
        seed=0,
    )
    head = train(job)
    assert head is not None
    mix = {name: names.count(name) for name in control.label_names}
    return Model({control.name: head}, controls=(control,)), Reference({control.name: mix}, vectors)


def place_model(*controls: Control) -> Model:
    """Finds drawn discs and squares, more or less: a small network trained for seconds."""
    from backend.inference.model import Model
    from backend.vision.detection.network_runner import Detector
    from backend.vision.detection.raw_network import raw_outputs
    from backend.vision.detection.trained_detector import Finder, Meaning
    from backend.vision.runtime import TorchRunner

    network, key = _network()
    detector = Detector(network, SIDE, TorchRunner(raw_outputs(network), "cpu"))
    finders = {}
    for control in controls:
        names = control.label_names
        points = control.kind == "points"
        sides = dict.fromkeys(names, 0.2) if points else {}
        meaning = Meaning(points, names, {0: 0, 1: 1}, sides, SIDE, shown=0.03)
        finders[control.name] = Finder(network, meaning, key, lambda *given: detector)
    return Model({}, finders, controls=controls)


@cache
def _network():  # type: ignore[no-untyped-def]
    import torch

    from backend.vision.detection.fine_tune import learn
    from backend.vision.detection.network import SMALL, adapted, load_base
    from backend.vision.detection.trained_detector import key_of_network
    from tests.unit.vision.detection.conftest import BOTH, drawings, examples, quick

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        start = adapted(load_base(SMALL), BOTH)
        drawn = drawings(16, 0, *BOTH)
        network = learn(start, examples(drawn, BOTH), quick(120), lambda *a: None, lambda: False)
    finally:
        torch.set_num_threads(threads)
    return network, key_of_network(network)


def publish(
    home: Path,
    id: str,
    model: Model,
    reference: Reference | None = None,
    *,
    live: bool = True,
    server: str = "",
    title: str = "",
) -> str:
    """Put a version into a home, and make it live; its name."""
    number = int(id)
    projects = Projects(home)
    if not (projects.folder(id) / "project.json").exists():
        assert projects.register(server, number).id == id
    projects.rename(id, title or f"Project {id}")
    versions = Versions(projects.folder(id))
    place, name = versions.next_name(identity_of([id, len(versions.names())]))
    card = Card(
        version=name,
        identity=identity_of([id, place]),
        number=place,
        parent=versions.live(),
        created="2026-11-23T12:00:00+00:00",
        labels={"train": 24, "audit": 0},
        audit={"n": 0, "value": None, "low": 0.0, "high": 1.0, "metric": "accuracy"},
        controls=_told(model.controls),
        encoder={"setting": "builtin", "id": "builtin", "name": "builtin"} if model.heads else {},
        seconds={"total": 1.0},
        seed=0,
    )

    def fill(folder: Path) -> None:
        save_model(model, folder)
        if reference is not None:
            save_reference(reference, folder)

    versions.save(card, {}, fill)
    if live:
        versions.promote(name, by="a test", reason="")
    return name


def _told(controls: Sequence[Control]) -> dict[str, object]:
    return {
        c.name: {"kind": "test", "examples": dict.fromkeys(c.label_names, 12)} for c in controls
    }
