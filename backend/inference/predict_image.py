"""A model and images → what it says of each: without tasks, and without Label Studio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from backend.arrays import Floats
from backend.domain import Control, Finding, ImageSize, Places, Prediction
from backend.inference.confidence import certainty, find_certainty
from backend.inference.detections import found_in, shown
from backend.inference.model import Model, choose
from backend.learning.selection import place_uncertainty, uncertainty
from backend.vision.images.decode import Picture

if TYPE_CHECKING:
    from backend.vision.encoders.base import Encoder

DETECTED_AT, ENCODED_AT = 1280, 512
"""Pixels that an image keeps for finders (its longer edge), and for encoders (its shorter one)."""


@dataclass(frozen=True)
class Said:
    """What a model says of one image.

    Attributes:
        size: of the upright original.
        chosen: by control of choices, every label's confidence, 0 to 1, best first.
        found: by control of boxes or points, places and the confidence of each, best first.
        shown: by control of boxes or points, the confidence from which a find counts.
        uncertainty: how much the model would learn from it, 0 to 1.
        certainty: confidence that the whole answer is right, 0 to 1.
        vector: (d,) float32 of unit length; None where no control has choices.
    """

    size: ImageSize
    chosen: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    found: Mapping[str, tuple[Places, tuple[float, ...]]] = field(default_factory=dict)
    shown: Mapping[str, float] = field(default_factory=dict)
    uncertainty: float = 0.0
    certainty: float = 1.0
    vector: Floats | None = None


def at_least(controls: Sequence[Control]) -> int:
    """Pixels that a JPEG must keep while decoding, see ``backend.vision.images.decode.decode``."""
    finds = any(control.kind != "choices" for control in controls)
    return DETECTED_AT if finds else ENCODED_AT


def say(model: Model, encoder: Encoder | None, pictures: Sequence[Picture]) -> list[Said]:
    """Let a model look at images.

    Args:
        model: with its controls; one that cannot be answered yet is left out.
        encoder: of the model's heads; None where it has none.
        pictures: decoded.
    """
    images = [picture.image for picture in pictures]
    vectors = encoder.encode_images(images) if encoder and model.heads else None
    tables: dict[str, Floats] = {}
    finds: dict[str, list[tuple[Places, tuple[float, ...]]]] = {}
    for control in model.controls:
        if control.name in model.heads and vectors is not None:
            tables[control.name] = model.probabilities(control.name, vectors)
        elif control.name in model.finders:
            finds[control.name] = found_in(model.finders[control.name], control, images)
    return [
        _said(
            model,
            picture,
            {name: table[i] for name, table in tables.items()},
            {name: rows[i] for name, rows in finds.items()},
            None if vectors is None else vectors[i],
        )
        for i, picture in enumerate(pictures)
    ]


def _said(
    model: Model,
    picture: Picture,
    rows: Mapping[str, Floats],
    finds: Mapping[str, tuple[Places, tuple[float, ...]]],
    vector: Floats | None,
) -> Said:
    controls = {control.name: control for control in model.controls}
    least = {name: shown(model.finders[name], controls[name]) for name in finds}
    unsure = [
        float(uncertainty(row[None], controls[name].multiple)[0])
        for name, row in rows.items()
        if len(row) > 1 or controls[name].multiple
    ]
    unsure += [_unsure(model, name, *found) for name, found in finds.items()]
    sure = [certainty(row, controls[name].multiple) for name, row in rows.items()]
    sure += [find_certainty(found[1], least[name]) for name, found in finds.items()]
    return Said(
        size=ImageSize(picture.width, picture.height),
        chosen={name: _ranked(model.labels(name), row) for name, row in rows.items()},
        found=dict(finds),
        shown=least,
        uncertainty=max(unsure, default=0.0),
        certainty=min(sure, default=1.0),
        vector=vector,
    )


def _unsure(model: Model, name: str, places: Places, confidence: Sequence[float]) -> float:
    hard = model.finders[name].meaning.difficulty
    rows = [(c, hard.get(p.label, 1.0)) for p, c in zip(places, confidence, strict=True)]
    return place_uncertainty(rows, alone=0.0)


def _ranked(labels: Sequence[str], row: Floats) -> dict[str, float]:
    order = np.argsort(-row, kind="stable")
    return {labels[i]: round(float(row[i]), 6) for i in order}


def prediction_of(said: Said, controls: Sequence[Control], task: int = 0) -> Prediction:
    """What was said as a prediction for Label Studio."""
    named = {control.name: control for control in controls}
    rows = (
        (named[name], tuple(ranked), np.array(list(ranked.values()), dtype=np.float32))
        for name, ranked in said.chosen.items()
    )
    choices = tuple(choose(control, labels, row, said.size) for control, labels, row in rows)
    findings = []
    for name, (places, confidence) in said.found.items():
        pairs = zip(places, confidence, strict=True)
        kept = [(place, c) for place, c in pairs if c >= said.shown[name]]
        belief = tuple(c for _, c in kept)
        findings.append(Finding(name, tuple(p for p, _ in kept), belief, said.size))
    return Prediction(task, choices, round(1 - said.uncertainty, 6), tuple(findings))
