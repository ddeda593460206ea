"""A model and images → what it says of each: without tasks, and without Label Studio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from backend.arrays import Floats
from backend.domain import Control, ImageSize, Prediction, RegionPrediction, Regions
from backend.inference.confidence import choice_confidence, detection_confidence
from backend.inference.detections import confidence_threshold, detect_regions
from backend.inference.model import Model, predict_choice
from backend.learning.selection import detection_uncertainty, uncertainty
from backend.vision.images.decode import DecodedImage

if TYPE_CHECKING:
    from backend.vision.encoders.base import Encoder

DETECTOR_IMAGE_SIZE, ENCODER_IMAGE_SIZE = 1280, 512
"""Pixels that an image keeps for finders (its longer edge), and for encoders (its shorter one)."""


@dataclass(frozen=True)
class ImagePrediction:
    """What a model says of one image.

    Attributes:
        size: of the upright original.
        label_probabilities: by control of choices, every label's confidence, 0 to 1, best first.
        regions: by control of boxes or points, places and the confidence of each, best first.
        thresholds: by control of boxes or points, the confidence from which a find counts.
        uncertainty: how much the model would learn from it, 0 to 1.
        confidence: confidence that the whole answer is right, 0 to 1.
        embedding: (d,) float32 of unit length; None where no control has choices.
    """

    size: ImageSize
    label_probabilities: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    regions: Mapping[str, tuple[Regions, tuple[float, ...]]] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    uncertainty: float = 0.0
    confidence: float = 1.0
    embedding: Floats | None = None


def min_decode_size(controls: Sequence[Control]) -> int:
    """Pixels that a JPEG must keep while decoding, see ``backend.vision.images.decode.decode``."""
    has_detectors = any(control.kind != "choices" for control in controls)
    return DETECTOR_IMAGE_SIZE if has_detectors else ENCODER_IMAGE_SIZE


def predict_images(
    model: Model, encoder: Encoder | None, decoded_images: Sequence[DecodedImage]
) -> list[ImagePrediction]:
    """Let a model look at images.

    Args:
        model: with its controls; one that cannot be answered yet is left out.
        encoder: of the model's heads; None where it has none.
        decoded_images: decoded.
    """
    rgb_images = [decoded.image for decoded in decoded_images]
    vectors = encoder.encode_images(rgb_images) if encoder and model.heads else None
    probabilities: dict[str, Floats] = {}
    detections: dict[str, list[tuple[Regions, tuple[float, ...]]]] = {}
    for control in model.controls:
        if control.name in model.heads and vectors is not None:
            probabilities[control.name] = model.probabilities(control.name, vectors)
        elif control.name in model.detectors:
            detections[control.name] = detect_regions(
                model.detectors[control.name], control, rgb_images
            )
    return [
        _build_prediction(
            model,
            decoded,
            {name: matrix[i] for name, matrix in probabilities.items()},
            {name: rows[i] for name, rows in detections.items()},
            None if vectors is None else vectors[i],
        )
        for i, decoded in enumerate(decoded_images)
    ]


def _build_prediction(
    model: Model,
    decoded: DecodedImage,
    probability_rows: Mapping[str, Floats],
    detections: Mapping[str, tuple[Regions, tuple[float, ...]]],
    vector: Floats | None,
) -> ImagePrediction:
    controls = {control.name: control for control in model.controls}
    thresholds = {
        name: confidence_threshold(model.detectors[name], controls[name]) for name in detections
    }
    uncertainties = [
        float(uncertainty(row[None], controls[name].multiple)[0])
        for name, row in probability_rows.items()
        if len(row) > 1 or controls[name].multiple
    ]
    uncertainties += [
        _detector_uncertainty(model, name, *detection) for name, detection in detections.items()
    ]
    confidences = [
        choice_confidence(row, controls[name].multiple) for name, row in probability_rows.items()
    ]
    confidences += [
        detection_confidence(detection[1], thresholds[name])
        for name, detection in detections.items()
    ]
    return ImagePrediction(
        size=ImageSize(decoded.width, decoded.height),
        label_probabilities={
            name: _rank_labels(model.labels(name), row) for name, row in probability_rows.items()
        },
        regions=dict(detections),
        thresholds=thresholds,
        uncertainty=max(uncertainties, default=0.0),
        confidence=min(confidences, default=1.0),
        embedding=vector,
    )


def _detector_uncertainty(
    model: Model, name: str, regions: Regions, confidence: Sequence[float]
) -> float:
    difficulty = model.detectors[name].class_mapping.difficulty
    rows = [(c, difficulty.get(p.label, 1.0)) for p, c in zip(regions, confidence, strict=True)]
    return detection_uncertainty(rows, fallback_rank=0.0)


def _rank_labels(labels: Sequence[str], row: Floats) -> dict[str, float]:
    ranking = np.argsort(-row, kind="stable")
    return {labels[i]: round(float(row[i]), 6) for i in ranking}


def to_task_prediction(
    prediction: ImagePrediction, controls: Sequence[Control], task_id: int = 0
) -> Prediction:
    """What was said as a prediction for Label Studio."""
    controls_by_name = {control.name: control for control in controls}
    rows = (
        (controls_by_name[name], tuple(ranked), np.array(list(ranked.values()), dtype=np.float32))
        for name, ranked in prediction.label_probabilities.items()
    )
    choices = tuple(
        predict_choice(control, labels, row, prediction.size) for control, labels, row in rows
    )
    region_predictions = []
    for name, (regions, confidence) in prediction.regions.items():
        pairs = zip(regions, confidence, strict=True)
        visible = [(region, c) for region, c in pairs if c >= prediction.thresholds[name]]
        visible_confidence = tuple(c for _, c in visible)
        region_predictions.append(
            RegionPrediction(
                name, tuple(p for p, _ in visible), visible_confidence, prediction.size
            )
        )
    return Prediction(
        task_id, choices, round(1 - prediction.uncertainty, 6), tuple(region_predictions)
    )
