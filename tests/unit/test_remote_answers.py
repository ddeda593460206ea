"""The gateway with models in other containers: a version is tested before it goes live."""

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
from serverless.remote_inference import PredictionJson, encode_prediction, load_remote_version
from tests.support.published_models import make_image, publish_version, train_colour_model


def predict_in_container(
    resources: Resources, id: str, version: str, images: list[bytes], sizes: list[list[int]]
) -> list[PredictionJson]:
    """Predict as a container does that has the same home folder."""
    loaded = load_local_version(resources, resources.projects.get(id), version)
    decoded = [
        DecodedImage(serialization.decode_image(image), *size)
        for image, size in zip(images, sizes, strict=True)
    ]
    return [encode_prediction(prediction) for prediction in loaded.predict(decoded)]


def test_a_version_whose_encoder_is_missing_does_not_go_live(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="prelabel")
    resources = Resources(Settings(home=tmp_path))
    load = partial(load_remote_version, partial(predict_in_container, resources))
    functions = FunctionRegistry(resources, load=load)
    model, reference = train_colour_model()

    async def live_after_polling() -> str:
        await functions._refresh_versions()
        return functions.live_version("1").card.version

    async def publish_three() -> None:
        first = publish_version(tmp_path, "1", model, reference)
        assert await live_after_polling() == first
        second = publish_version(tmp_path, "1", model, reference, live=False)
        card = tmp_path / "projects" / "1" / "versions" / second / "card.json"
        card.write_text(card.read_text().replace('"builtin"', '"elsewhere"'))
        resources.versions(resources.projects.get("1")).promote(second, by="a test", reason="")
        assert await live_after_polling() == first
        assert "is not available on Modal (There is no encoder 'elsewhere'" in caplog.text
        assert "run `prelabel deploy`" in caplog.text
        image = make_image("red", 1)
        loaded = functions.live_version("1")
        (prediction,) = loaded.predict([DecodedImage(image, image.width, image.height)])
        assert next(iter(prediction.label_probabilities["colour"])) == "red"
        third = publish_version(tmp_path, "1", model, reference)
        assert await live_after_polling() == third
        await functions.stop()

    asyncio.run(publish_three())
