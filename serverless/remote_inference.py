"""The endpoint's models on other machines: what the gateway sends there, and what comes back."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from backend.domain import ImageSize
from backend.endpoint.functions import Loaded, check_controls, load_here, noise_picture
from backend.errors import NotThere, PrelabelError
from backend.inference.model import load_controls
from backend.inference.predict_image import Said
from backend.runtime.resources import Resources
from backend.settings import read_settings
from backend.store.projects import ProjectRecord
from backend.vision.images.decode import Picture
from serverless import serialization

Row = dict[str, Any]
Ask = Callable[[str, str, list[bytes], list[list[int]]], list[Row]]
"""Function, version, packed images, and the originals' sizes → what was said of each."""
NO_ANSWER = (
    "Version {version} does not answer on Modal ({why}): `prelabel deploy` brings along what live "
    "versions look with."
)
KEPT = 8
"""Versions that a container keeps loaded."""


def say(function: str, version: str, images: list[bytes], sizes: list[list[int]]) -> list[Row]:
    """What a version says of images; where the models are.

    Raises:
        NotThere: it is not on this machine (yet).
    """
    loaded = _loaded(function, version)
    pictures = [
        Picture(serialization.unpacked(image), *size)
        for image, size in zip(images, sizes, strict=True)
    ]
    return [said_row(said) for said in loaded.say(pictures)]


def there(function: str, version: str) -> bool:
    """Whether a version is on this machine."""
    resources = _resources()
    try:
        resources.versions(resources.projects.get(function)).card(version)
    except NotThere:
        return False
    return True


def load_from_afar(ask: Ask, resources: Resources, record: ProjectRecord, version: str) -> Loaded:
    """A version whose models are elsewhere, tried there; for the gateway, which never loads one.

    Raises:
        PrelabelError: it is not there, was made by a Prelabel of old, or does not answer there.
    """
    versions = resources.versions(record)
    card, controls = versions.card(version), load_controls(versions.path(version))
    check_controls(version, controls)
    look = partial(_look, ask, record.id, version)
    try:
        look([noise_picture()])
    except Exception as error:  # whatever the models there, or the way to them, raise
        why = str(error).strip().rstrip(".") or type(error).__name__
        raise PrelabelError(NO_ANSWER.format(version=version, why=why)) from error
    return Loaded(record, card, controls, resources.folder(record), look)


def _look(ask: Ask, function: str, version: str, pictures: Sequence[Picture]) -> list[Said]:
    images = [serialization.packed(picture.image) for picture in pictures]
    sizes = [[picture.width, picture.height] for picture in pictures]
    return [said_of(row) for row in ask(function, version, images, sizes)]


def said_row(said: Said) -> Row:
    """An answer as it travels."""
    found = {
        name: [
            [place.label, place.x0, place.y0, place.x1, place.y1, confidence]
            for place, confidence in zip(places, belief, strict=True)
        ]
        for name, (places, belief) in said.found.items()
    }
    vector = None if said.vector is None else said.vector.astype(np.float16).tobytes()
    return {
        "size": [said.size.width, said.size.height],
        "chosen": {name: list(ranked.items()) for name, ranked in said.chosen.items()},
        "found": found,
        "shown": dict(said.shown),
        "uncertainty": said.uncertainty,
        "certainty": said.certainty,
        "vector": None if vector is None else base64.b64encode(vector).decode(),
    }


def said_of(row: Row) -> Said:
    """What :func:`said_row` wrote."""
    vector = row["vector"]
    return Said(
        size=ImageSize(*row["size"]),
        chosen={name: dict(ranked) for name, ranked in row["chosen"].items()},
        found={
            name: (
                serialization.places_of([one[:5] for one in rows]),
                tuple(float(one[5]) for one in rows),
            )
            for name, rows in row["found"].items()
        },
        shown=row["shown"],
        uncertainty=row["uncertainty"],
        certainty=row["certainty"],
        vector=None
        if vector is None
        else np.frombuffer(base64.b64decode(vector), dtype=np.float16).astype(np.float32),
    )


@lru_cache(KEPT)
def _loaded(function: str, version: str) -> Loaded:
    resources = _resources()
    return load_here(resources, resources.projects.get(function), version)


@lru_cache(1)
def _resources() -> Resources:

    return Resources(read_settings())
