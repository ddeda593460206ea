"""Run the endpoint's models in other containers: the gateway's side and theirs."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import numpy as np
from pydantic import BaseModel

from backend.domain import ImageSize
from backend.endpoint.functions import (
    LoadedVersion,
    check_version_controls,
    load_local_version,
    noise_image,
)
from backend.errors import NotFoundError, PrelabelError, error_text
from backend.inference.model import load_controls
from backend.inference.predict_image import ImagePrediction
from backend.runtime.resources import Resources
from backend.store.projects import ProjectRecord
from backend.vision.images.decode import DecodedImage
from serverless import serialization
from serverless.jobs import container_resources

PredictionJson = dict[str, object]
RemotePredict = Callable[[str, str, list[bytes], list[list[int]]], list[PredictionJson]]
"""Function, version, encoded images and the original sizes → one prediction per image."""
UNAVAILABLE_MESSAGE = (
    "Version {version} does not answer on Modal ({reason}): run `prelabel deploy`, which uploads "
    "what live versions need."
)
LOADED_VERSION_LIMIT = 8
"""Versions that a container keeps in memory."""


class PredictionRow(BaseModel):
    """An image prediction as JSON.

    Attributes:
        size: width and height of the original in pixels.
        chosen: by control, (label, probability), best first.
        found: by control, (label, x0, y0, x1, y1, confidence), best first.
        shown: by control of boxes or points, the threshold of a visible region.
        uncertainty: 0 to 1.
        certainty: confidence that the whole prediction is right, 0 to 1.
        vector: the embedding in float16 and base64; None without an encoder.
    """

    size: tuple[int, int]
    chosen: dict[str, list[tuple[str, float]]]
    found: dict[str, list[tuple[str, float, float, float, float, float]]]
    shown: dict[str, float]
    uncertainty: float
    certainty: float
    vector: str | None


# -- in the containers with the models ------------------------------------------------------


def predict_packed_images(
    function: str, version: str, packed_images: list[bytes], sizes: list[list[int]]
) -> list[PredictionJson]:
    """Return the predictions of a version for encoded images.

    Raises:
        NotFoundError: the version is not on this machine (yet).
    """
    loaded = _load_cached_version(function, version)
    decoded_images = [
        DecodedImage(serialization.decode_image(image), *size)
        for image, size in zip(packed_images, sizes, strict=True)
    ]
    return [encode_prediction(prediction) for prediction in loaded.predict(decoded_images)]


def has_version(function: str, version: str) -> bool:
    """Whether a version is on this machine."""
    resources = container_resources()
    try:
        resources.versions(resources.projects.get(function)).card(version)
    except NotFoundError:
        return False
    return True


@lru_cache(LOADED_VERSION_LIMIT)
def _load_cached_version(function: str, version: str) -> LoadedVersion:
    resources = container_resources()
    return load_local_version(resources, resources.projects.get(function), version)


def encode_prediction(prediction: ImagePrediction) -> PredictionJson:
    """Return a prediction as JSON; see :class:`PredictionRow`."""
    vector = prediction.embedding
    return PredictionRow(
        size=(prediction.size.width, prediction.size.height),
        chosen={
            name: list(ranked.items()) for name, ranked in prediction.label_probabilities.items()
        },
        found={
            name: [
                (*serialization.encode_region(region), confidence)
                for region, confidence in zip(regions, confidences, strict=True)
            ]
            for name, (regions, confidences) in prediction.regions.items()
        },
        shown=dict(prediction.thresholds),
        uncertainty=prediction.uncertainty,
        certainty=prediction.confidence,
        vector=None
        if vector is None
        else base64.b64encode(vector.astype(np.float16).tobytes()).decode(),
    ).model_dump()


# -- in the gateway -------------------------------------------------------------------------


def load_remote_version(
    remote_predict: RemotePredict, resources: Resources, record: ProjectRecord, version: str
) -> LoadedVersion:
    """Return a version whose models run in other containers, after a test prediction.

    Raises:
        PrelabelError: the version is missing, too old, or its containers do not answer.
    """
    versions = resources.versions(record)
    card, controls = versions.card(version), load_controls(versions.path(version))
    check_version_controls(version, controls)
    predict = partial(_predict_remotely, remote_predict, record.id, version)
    try:
        predict([noise_image()])
    except Exception as error:  # from the models there, or from the connection to them
        reason = error_text(error).rstrip(".")
        raise PrelabelError(UNAVAILABLE_MESSAGE.format(version=version, reason=reason)) from error
    return LoadedVersion(record, card, controls, resources.folder(record), predict)


def _predict_remotely(
    remote_predict: RemotePredict, function: str, version: str, images: Sequence[DecodedImage]
) -> list[ImagePrediction]:
    packed_images = [serialization.encode_image(decoded.image) for decoded in images]
    sizes = [[decoded.width, decoded.height] for decoded in images]
    rows = remote_predict(function, version, packed_images, sizes)
    return [decode_prediction(row) for row in rows]


def decode_prediction(json: PredictionJson) -> ImagePrediction:
    """Return the prediction that :func:`encode_prediction` encoded."""
    row = PredictionRow.model_validate(json)
    vector = None if row.vector is None else base64.b64decode(row.vector)
    return ImagePrediction(
        size=ImageSize(*row.size),
        label_probabilities={name: dict(ranked) for name, ranked in row.chosen.items()},
        regions={
            name: (
                serialization.decode_regions([region_row[:5] for region_row in rows]),
                tuple(region_row[5] for region_row in rows),
            )
            for name, rows in row.found.items()
        },
        thresholds=row.shown,
        uncertainty=row.uncertainty,
        confidence=row.certainty,
        embedding=None
        if vector is None
        else np.frombuffer(vector, dtype=np.float16).astype(np.float32),
    )
