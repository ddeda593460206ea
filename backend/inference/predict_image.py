"""Run a model on images that belong to no task: the predict endpoint and ``prelabel predict``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from backend.arrays import Floats
from backend.domain import ChoicePrediction, Control, ImageSize, Prediction, Regions, Task
from backend.inference.detections import ScoredRegions, confidence_threshold, filter_regions
from backend.inference.embed import EMPTY_EMBEDDINGS, EmbeddingResult
from backend.inference.images import ImageBatch
from backend.inference.model import MULTIPLE_LABEL_THRESHOLD, Model, choose_labels
from backend.inference.predict import InferenceResult, infer
from backend.vision.images.decode import DecodedImage

if TYPE_CHECKING:
    from backend.vision.encoders.base import Encoder

DETECTOR_IMAGE_SIZE, ENCODER_IMAGE_SIZE = 1280, 512
"""Pixels that an image keeps for detectors (longer edge) and for encoders (shorter edge)."""


@dataclass(frozen=True)
class ImagePrediction:
    """What a model predicts for one image.

    Attributes:
        size: of the upright original.
        label_probabilities: control of choices → all labels and their probability, best first.
        regions: control of boxes or points → regions and their confidence, best first.
        thresholds: control → confidence from which a label or region counts. A one-of-many control
            has none, because its best label counts.
        uncertainty: how much the model would learn from the image's label, 0 to 1.
        confidence: confidence that the whole prediction is right, 0 to 1.
        embedding: (d,) float32 of unit length; None when no control has choices.
    """

    size: ImageSize
    label_probabilities: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    regions: Mapping[str, tuple[Regions, tuple[float, ...]]] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    uncertainty: float = 0.0
    confidence: float = 1.0
    embedding: Floats | None = None


class PredictedLabel(NamedTuple):
    """A label that a model gives, for the whole image or for one region."""

    control: str
    label: str
    confidence: float


def labels_of(
    prediction: ImagePrediction, min_confidence: float | None = None
) -> list[PredictedLabel]:
    """Return the labels that a prediction gives, one entry per region.

    Args:
        prediction: of an image.
        min_confidence: return everything from this confidence on. By default the prediction's own
            thresholds apply, and a one-of-many control gives its best label.
    """
    given: list[PredictedLabel] = []
    for control, ranked in prediction.label_probabilities.items():
        minimum = prediction.thresholds.get(control) if min_confidence is None else min_confidence
        chosen = choose_labels(ranked, minimum)
        given += [PredictedLabel(control, label, value) for label, value in chosen.items()]
    for control, (regions, confidence) in prediction.regions.items():
        minimum = prediction.thresholds[control] if min_confidence is None else min_confidence
        given += [
            PredictedLabel(control, region.label, value)
            for region, value in zip(regions, confidence, strict=True)
            if value >= minimum
        ]
    return given


def min_decode_size(controls: Sequence[Control]) -> int:
    """Return the pixels that a JPEG must keep while decoding, see `decode_upright_image`."""
    has_detectors = any(not control.is_choices for control in controls)
    return DETECTOR_IMAGE_SIZE if has_detectors else ENCODER_IMAGE_SIZE


def predict_images(
    model: Model, encoder: Encoder | None, decoded_images: Sequence[DecodedImage]
) -> list[ImagePrediction]:
    """Run a model on images.

    Args:
        model: with its controls; those without a head or detector are left out.
        encoder: of the model's heads; None when it has none.
        decoded_images: the images.
    """
    addresses = [str(index) for index in range(len(decoded_images))]
    keys = {control.image_key for control in model.controls}
    tasks = [Task(int(address), dict.fromkeys(keys, address)) for address in addresses]
    images = {a: decoded.image for a, decoded in zip(addresses, decoded_images, strict=True)}
    sizes = {
        a: ImageSize(decoded.width, decoded.height)
        for a, decoded in zip(addresses, decoded_images, strict=True)
    }
    embeddings = EMPTY_EMBEDDINGS
    if encoder and model.heads:
        vectors = encoder.encode_images(list(images.values()))
        embeddings = EmbeddingResult(dict(zip(addresses, vectors, strict=True)), sizes, {})
    heads = model.heads if embeddings.vectors else {}
    answered = [c for c in model.controls if c.name in heads or c.name in model.detectors]
    batch = ImageBatch(images, sizes, {})
    result = infer(model, answered, tasks, embeddings, [batch], tasks, keep_detections=True)
    uncertainties, confidences = result.uncertainties(), result.confidences()
    return [
        ImagePrediction(
            size=sizes[str(task.id)],
            label_probabilities={
                name: _rank_labels(model.labels(name), rows[task.id])
                for name, rows in result.probabilities.items()
            },
            regions=dict(result.detections.get(task.id, {})),
            thresholds=_thresholds(result),
            uncertainty=uncertainties.get(task.id, 0.0),
            confidence=confidences.get(task.id, 1.0),
            embedding=embeddings.vectors.get(str(task.id)),
        )
        for task in tasks
    ]


def to_task_prediction(
    prediction: ImagePrediction, controls: Sequence[Control], task_id: int = 0
) -> Prediction:
    """Return the prediction of an image in the form of a prediction of a task."""
    names = {control.name for control in controls}
    choices = tuple(
        ChoicePrediction(
            name, choose_labels(ranked, prediction.thresholds.get(name)), prediction.size
        )
        for name, ranked in prediction.label_probabilities.items()
        if name in names
    )
    regions = tuple(
        filter_regions(name, ScoredRegions(*scored), prediction.thresholds[name], prediction.size)
        for name, scored in prediction.regions.items()
    )
    return Prediction(task_id, choices, round(1 - prediction.uncertainty, 6), regions)


def _thresholds(result: InferenceResult) -> dict[str, float]:
    detectors = result.model.detectors
    return {
        control.name: confidence_threshold(detectors[control.name], control)
        if control.name in detectors
        else MULTIPLE_LABEL_THRESHOLD
        for control in result.controls
        if control.name in detectors or control.multiple
    }


def _rank_labels(labels: Sequence[str], row: Floats) -> dict[str, float]:
    ranking = np.argsort(-row, kind="stable")
    return {labels[i]: round(float(row[i]), 6) for i in ranking}
