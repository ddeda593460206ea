"""Run a model on images without a task, for the predict endpoint and ``prelabel predict``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from backend.arrays import Floats
from backend.domain import ChoicePrediction, Control, ImageSize, Prediction, Regions, Task
from backend.inference.detections import ScoredRegions, filter_regions, published_threshold
from backend.inference.embed import EMPTY_EMBEDDINGS, EmbeddingResult
from backend.inference.images import ImageBatch
from backend.inference.model import MULTIPLE_LABEL_THRESHOLD, Model, choose_labels
from backend.inference.predict import InferenceResult, infer
from backend.inference.visibility import without_hidden
from backend.vision.images.decode import DecodedImage

if TYPE_CHECKING:
    from backend.vision.encoders.base import Encoder

DETECTOR_IMAGE_SIZE, ENCODER_IMAGE_SIZE = 1280, 512
"""Minimum size in pixels of an image for detectors (longer edge) and encoders (shorter edge)."""


@dataclass(frozen=True)
class ImagePrediction:
    """The prediction of a model for one image.

    Attributes:
        size: size of the upright original in pixels.
        label_probabilities: control of choices → label → probability, best first.
        regions: control of boxes or points → regions and their confidence, best first.
        thresholds: control → minimum confidence of a label or region. One-of-many controls have
            none, because only their best label is predicted.
        uncertainty: uncertainty of the model, 0 to 1.
        confidence: confidence that the whole prediction is correct, 0 to 1.
        embedding: (d,) float32 of unit length; None if no control has choices.
    """

    size: ImageSize
    label_probabilities: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    regions: Mapping[str, tuple[Regions, tuple[float, ...]]] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    uncertainty: float = 0.0
    confidence: float = 1.0
    embedding: Floats | None = None


class PredictedLabel(NamedTuple):
    """A predicted label of the whole image or of one region."""

    control: str
    label: str
    confidence: float


def labels_of(
    prediction: ImagePrediction, min_confidence: float | None = None
) -> list[PredictedLabel]:
    """Return the predicted labels, with one entry per region.

    Args:
        prediction: prediction of an image.
        min_confidence: minimum confidence. By default, the thresholds of the prediction apply, and
            one-of-many controls return only their best label.
    """
    predicted: list[PredictedLabel] = []
    for control, ranked in prediction.label_probabilities.items():
        minimum = prediction.thresholds.get(control) if min_confidence is None else min_confidence
        chosen = choose_labels(ranked, minimum)
        predicted += [PredictedLabel(control, label, value) for label, value in chosen.items()]
    for control, (regions, confidence) in prediction.regions.items():
        minimum = prediction.thresholds[control] if min_confidence is None else min_confidence
        predicted += [
            PredictedLabel(control, region.label, value)
            for region, value in zip(regions, confidence, strict=True)
            if value >= minimum
        ]
    return predicted


def min_decode_size(controls: Sequence[Control]) -> int:
    """Return the minimum size of a JPEG decoded at reduced size, see `decode_upright_image`."""
    has_detectors = any(not control.is_choices for control in controls)
    return DETECTOR_IMAGE_SIZE if has_detectors else ENCODER_IMAGE_SIZE


def predict_images(
    model: Model, encoder: Encoder | None, decoded_images: Sequence[DecodedImage]
) -> list[ImagePrediction]:
    """Run a model on images.

    Args:
        model: model with its controls; those without a head or detector are left out.
        encoder: encoder of the model's heads; None if it has none.
        decoded_images: images to predict.
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
    """Convert the prediction of an image to a prediction of a task, without hidden controls."""
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
    score = round(1 - prediction.uncertainty, 6)
    return without_hidden(Prediction(task_id, choices, score, regions), controls)


def _thresholds(result: InferenceResult) -> dict[str, float]:
    detectors = result.model.detectors
    return {
        control.name: published_threshold(result.model, control)
        if control.name in detectors
        else MULTIPLE_LABEL_THRESHOLD
        for control in result.controls
        if control.name in detectors or control.multiple
    }


def _rank_labels(labels: Sequence[str], row: Floats) -> dict[str, float]:
    ranking = np.argsort(-row, kind="stable")
    return {labels[i]: round(float(row[i]), 6) for i in ranking}
