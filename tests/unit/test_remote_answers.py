"""The gateway and models elsewhere: a version is tried before it takes over."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path

import pytest

from backend.endpoint.functions import Functions, load_here
from backend.runtime.resources import Resources
from backend.settings import Settings
from backend.vision.images.decode import Picture
from serverless import serialization
from serverless.remote_inference import Row, load_from_afar, said_row
from tests.support.published_models import colour_model, picture, publish


def ask(
    resources: Resources, id: str, version: str, images: list[bytes], sizes: list[list[int]]
) -> list[Row]:
    """As a container does, which has the same home."""
    loaded = load_here(resources, resources.projects.get(id), version)
    shown = [Picture(serialization.unpacked(i), *s) for i, s in zip(images, sizes, strict=True)]
    return [said_row(said) for said in loaded.say(shown)]


def test_a_version_whose_encoder_is_not_there_does_not_take_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="prelabel")
    resources = Resources(Settings(home=tmp_path))
    functions = Functions(resources, load=partial(load_from_afar, partial(ask, resources)))
    model, reference = colour_model()

    async def live_after_a_look() -> str:
        await functions._look()
        return functions.live("1").card.version

    async def watch() -> None:
        first = publish(tmp_path, "1", model, reference)
        assert await live_after_a_look() == first
        second = publish(tmp_path, "1", model, reference, live=False)
        card = tmp_path / "projects" / "1" / "versions" / second / "card.json"
        card.write_text(card.read_text().replace('"builtin"', '"elsewhere"'))
        resources.versions(resources.projects.get("1")).promote(second, by="a test", reason="")
        assert await live_after_a_look() == first
        assert "does not answer on Modal (There is no encoder 'elsewhere'" in caplog.text
        assert "`prelabel deploy` brings along" in caplog.text
        image = picture("red", 1)
        ready = functions.live("1")
        (said,) = ready.say([Picture(image, image.width, image.height)])
        assert next(iter(said.chosen["colour"])) == "red"
        third = publish(tmp_path, "1", model, reference)
        assert await live_after_a_look() == third
        await functions.stop()

    asyncio.run(watch())
