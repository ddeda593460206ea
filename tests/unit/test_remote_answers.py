"""The gateway and models elsewhere: a version is tried before it takes over."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path

import pytest

from backend.endpoint.functions import FunctionRegistry, load_local_version
from backend.runtime.resources import Resources
from backend.settings import Settings
from backend.vision.images.decode import DecodedImage
from serverless import serialization
from serverless.remote_inference import PredictionRow, encode_prediction, load_remote_version
from tests.support.published_models import make_image, publish_version, train_colour_model


def ask(
    resources: Resources, id: str, version: str, images: list[bytes], sizes: list[list[int]]
) -> list[PredictionRow]:
    """As a container does, which has the same home."""
    loaded = load_local_version(resources, resources.projects.get(id), version)
    shown = [
        DecodedImage(serialization.decode_image(i), *s) for i, s in zip(images, sizes, strict=True)
    ]
    return [encode_prediction(said) for said in loaded.predict(shown)]


def test_a_version_whose_encoder_is_not_there_does_not_take_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="prelabel")
    resources = Resources(Settings(home=tmp_path))
    functions = FunctionRegistry(
        resources, load=partial(load_remote_version, partial(ask, resources))
    )
    model, reference = train_colour_model()

    async def live_after_a_look() -> str:
        await functions._refresh_versions()
        return functions.live_version("1").card.version

    async def watch() -> None:
        first = publish_version(tmp_path, "1", model, reference)
        assert await live_after_a_look() == first
        second = publish_version(tmp_path, "1", model, reference, live=False)
        card = tmp_path / "projects" / "1" / "versions" / second / "card.json"
        card.write_text(card.read_text().replace('"builtin"', '"elsewhere"'))
        resources.versions(resources.projects.get("1")).promote(second, by="a test", reason="")
        assert await live_after_a_look() == first
        assert "does not answer on Modal (There is no encoder 'elsewhere'" in caplog.text
        assert "`prelabel deploy` brings along" in caplog.text
        image = make_image("red", 1)
        ready = functions.live_version("1")
        (said,) = ready.predict([DecodedImage(image, image.width, image.height)])
        assert next(iter(said.label_probabilities["colour"])) == "red"
        third = publish_version(tmp_path, "1", model, reference)
        assert await live_after_a_look() == third
        await functions.stop()

    asyncio.run(watch())
