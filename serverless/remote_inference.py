"""The endpoint's models on other machines: what the gateway sends there, and what comes back."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from backend.domain import ImageSize
from backend.endpoint.functions import (
    LoadedVersion,
    check_version_controls,
    load_local_version,
    noise_image,
)
from backend.errors import NotFoundError, PrelabelError
from backend.inference.model import load_controls
from backend.inference.predict_image import ImagePrediction
from backend.runtime.resources import Resources
from backend.settings import read_settings
from backend.store.projects import ProjectRecord
from backend.vision.images.decode import DecodedImage
from serverless import serialization

PredictionRow = dict[str, Any]
RemotePredict = Callable[[str, str, list[bytes], list[list[int]]], list[PredictionRow]]
"""Function, version, packed images, and the originals' sizes → what was said of each."""
UNAVAILABLE_MESSAGE = (
    "Version {version} does not answer on Modal ({why}): `prelabel deploy` brings along what live "
    "versions look with."
)
LOADED_VERSION_LIMIT = 8
"""Versions that a container keeps loaded."""


def predict_packed_images(
    function: str, version: str, packed_images: list[bytes], sizes: list[list[int]]
) -> list[PredictionRow]:
    """What a version says of images; where the models are.

    Raises:
        NotFoundError: it is not on this machine (yet).
    """
    loaded = _load_cached_version(function, version)
    decoded_images = [
        DecodedImage(serialization.decode_image(packed_image), *size)
        for packed_image, size in zip(packed_images, sizes, strict=True)
    ]
    return [encode_prediction(prediction) for prediction in loaded.predict(decoded_images)]


def has_version(function: str, version: str) -> bool:
    """Whether a version is on this machine."""
    resources = _resources()
    try:
        resources.versions(resources.projects.get(function)).card(version)
    except NotFoundError:
        return False
    return True


def load_remote_version(
    remote_predict: RemotePredict, resources: Resources, record: ProjectRecord, version: str
) -> LoadedVersion:
    """A version whose models are elsewhere, tried there; for the gateway, which never loads one.

    Raises:
        PrelabelError: it is not there, was made by a Prelabel of old, or does not answer there.
    """
    versions = resources.versions(record)
    card, controls = versions.card(version), load_controls(versions.path(version))
    check_version_controls(version, controls)
    predict = partial(_predict_remotely, remote_predict, record.id, version)
    try:
        predict([noise_image()])
    except Exception as error:  # whatever the models there, or the way to them, raise
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise PrelabelError(UNAVAILABLE_MESSAGE.format(version=version, why=reason)) from error
    return LoadedVersion(record, card, controls, resources.folder(record), predict)


def _predict_remotely(
    remote_predict: RemotePredict,
    function: str,
    version: str,
    decoded_images: Sequence[DecodedImage],
) -> list[ImagePrediction]:
    packed_images = [
        serialization.encode_image(decoded_image.image) for decoded_image in decoded_images
    ]
    sizes = [[decoded_image.width, decoded_image.height] for decoded_image in decoded_images]
    return [
        decode_prediction(row) for row in remote_predict(function, version, packed_images, sizes)
    ]


def encode_prediction(prediction: ImagePrediction) -> PredictionRow:
    """An answer as it travels."""
    detections = {
        name: [
            [region.label, region.x0, region.y0, region.x1, region.y1, confidence]
            for region, confidence in zip(regions, confidences, strict=True)
        ]
        for name, (regions, confidences) in prediction.regions.items()
    }
    vector = (
        None if prediction.embedding is None else prediction.embedding.astype(np.float16).tobytes()
    )
    return {
        "size": [prediction.size.width, prediction.size.height],
        "chosen": {
            name: list(ranked.items()) for name, ranked in prediction.label_probabilities.items()
        },
        "found": detections,
        "shown": dict(prediction.thresholds),
        "uncertainty": prediction.uncertainty,
        "certainty": prediction.confidence,
        "vector": None if vector is None else base64.b64encode(vector).decode(),
    }


def decode_prediction(row: PredictionRow) -> ImagePrediction:
    """What :func:`encode_prediction` wrote."""
    vector = row["vector"]
    return ImagePrediction(
        size=ImageSize(*row["size"]),
        label_probabilities={name: dict(ranked) for name, ranked in row["chosen"].items()},
        regions={
            name: (
                serialization.decode_regions([region_row[:5] for region_row in rows]),
                tuple(float(region_row[5]) for region_row in rows),
            )
            for name, rows in row["found"].items()
        },
        thresholds=row["shown"],
        uncertainty=row["uncertainty"],
        confidence=row["certainty"],
        embedding=None
        if vector is None
        else np.frombuffer(base64.b64decode(vector), dtype=np.float16).astype(np.float32),
    )


@lru_cache(LOADED_VERSION_LIMIT)
def _load_cached_version(function: str, version: str) -> LoadedVersion:
    resources = _resources()
    return load_local_version(resources, resources.projects.get(function), version)


@lru_cache(1)
def _resources() -> Resources:

    return Resources(read_settings())
