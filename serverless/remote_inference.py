"""Run the endpoint's models in other containers: code for the gateway and for the containers."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import numpy as np
from pydantic import BaseModel

from backend.domain import ImageSize, Regions
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
from serverless.modal_jobs import container_resources

PredictionJson = dict[str, object]
RemotePredict = Callable[[str, str, list[bytes], list[list[int]]], list[PredictionJson]]
"""Called with function, version, encoded images and original sizes; one prediction per image."""
UNAVAILABLE_MESSAGE = (
    "Version {version} is not available on Modal ({reason}): run `prelabel deploy`, which uploads "
    "the files of live versions."
)
LOADED_VERSION_LIMIT = 8
"""Maximum number of versions that a container keeps in memory."""


class PredictionRow(BaseModel):
    """The fields of :class:`ImagePrediction`, with the embedding in float16 and base64."""

    size: ImageSize
    label_probabilities: dict[str, dict[str, float]]
    regions: dict[str, tuple[Regions, tuple[float, ...]]]
    thresholds: dict[str, float]
    uncertainty: float
    confidence: float
    embedding: str | None


# -- in the containers with the models ------------------------------------------------------


def predict_packed_images(
    function: str, version: str, packed_images: list[bytes], sizes: list[list[int]]
) -> list[PredictionJson]:
    """Return the predictions of a version for encoded images.

    Raises:
        NotFoundError: the version is not on the home volume (yet).
    """
    loaded = _load_cached_version(function, version)
    decoded_images = [
        DecodedImage(serialization.decode_image(image), *size)
        for image, size in zip(packed_images, sizes, strict=True)
    ]
    return [encode_prediction(prediction) for prediction in loaded.predict(decoded_images)]


def has_version(function: str, version: str) -> bool:
    """Whether a version is on the home volume."""
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
    text = None if vector is None else b64encode(vector.astype(np.float16).tobytes()).decode()
    fields = {**vars(prediction), "embedding": text}
    return PredictionRow.model_validate(fields).model_dump()


# -- in the gateway -------------------------------------------------------------------------


def load_remote_version(
    remote_predict: RemotePredict, resources: Resources, record: ProjectRecord, version: str
) -> LoadedVersion:
    """Return a version whose models run in other containers; check it with a test prediction.

    Raises:
        PrelabelError: the version is missing or too old, or the test prediction failed.
    """
    versions = resources.versions(record)
    card, controls = versions.card(version), load_controls(versions.path(version))
    check_version_controls(version, controls)
    predict = partial(_predict_remotely, remote_predict, record.id, version)
    try:
        predict([noise_image()])
    except Exception as error:  # from the remote models, or from the connection
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
    vector = None
    if row.embedding is not None:
        vector = np.frombuffer(b64decode(row.embedding), dtype=np.float16).astype(np.float32)
    return ImagePrediction(**{**vars(row), "embedding": vector})
