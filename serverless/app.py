"""The Modal app: what runs where, on which machine, and how many of them. `prelabel deploy`.

Each function's body is a few lines over plain functions of other modules. Heavy imports happen in
the bodies: this file is imported wherever the app is named.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import modal

from backend.settings import read_settings
from serverless import container_image as images
from serverless import secrets

MINUTES = 60
settings = read_settings()
NAME, GPUS = settings.app, list(settings.gpus)
ALERTS = settings.home / "alerts.toml"

app = modal.App(NAME)
image = images.build()
home = modal.Volume.from_name(f"{NAME}-home", create_if_missing=True, version=2)
kept = modal.Volume.from_name(f"{NAME}-kept", create_if_missing=True, version=2)
jobs = modal.Volume.from_name(f"{NAME}-jobs", create_if_missing=True, version=2)
progress = modal.Dict.from_name(f"{NAME}-progress", create_if_missing=True)
local = dict(os.environ) if modal.is_local() else {}


@app.function(
    image=image,
    gpu=GPUS,
    timeout=images.TRAIN_SECONDS,
    startup_timeout=10 * MINUTES,
    retries=modal.Retries(max_retries=2, initial_delay=1.0),
    max_containers=2,
    scaledown_window=1 * MINUTES,
    volumes={images.JOBS: jobs},
    block_network=True,
)
def train(order: str) -> dict[str, Any]:
    """Carry out a training order of the jobs' volume; see ``serverless.jobs.train``."""
    from serverless.jobs import train

    jobs.reload()
    call = modal.current_function_call_id() or ""
    return train(order, Path(images.JOBS), tell_progress(order), jobs.commit, call)


@app.cls(
    image=image,
    gpu=GPUS,
    timeout=10 * MINUTES,
    startup_timeout=10 * MINUTES,
    max_containers=8,
    scaledown_window=1 * MINUTES,
    volumes={images.JOBS: jobs.with_mount_options(read_only=True)},
    enable_memory_snapshot=True,
    block_network=True,
)
class Eyes:
    """Looks at many images: embeds them, or finds objects; and says what that took."""

    @modal.enter(snap=True)
    def wake(self) -> None:
        """Import what takes seconds; it is in the snapshot."""
        from serverless import preload

        preload.imports()

    @modal.method()
    def facts(self, encoder: str) -> dict[str, Any]:
        """What an encoder is."""
        from serverless.jobs import facts, timed

        return timed(facts, encoder)

    @modal.method()
    def encode(self, encoder: str, pictures: list[bytes]) -> dict[str, Any]:
        """Images → vectors."""
        from serverless.jobs import encode, timed

        return timed(encode, encoder, pictures)

    @modal.method()
    def encode_texts(self, encoder: str, texts: list[str]) -> dict[str, Any]:
        """Texts → vectors."""
        from serverless.jobs import encode_texts, timed

        return timed(encode_texts, encoder, texts)

    @modal.method()
    def detect(
        self, network: str, size: int, pictures: list[bytes], least: float
    ) -> dict[str, Any]:
        """What a network finds in images; reloads the volume where the network is new."""
        from serverless.jobs import detect, timed

        return timed(detect, network, size, Path(images.JOBS), pictures, least, jobs.reload)


@app.cls(
    image=image,
    cpu=2.0,
    memory=4096,
    timeout=2 * MINUTES,
    startup_timeout=10 * MINUTES,
    max_containers=10,
    scaledown_window=5 * MINUTES,
    volumes={images.HOME: home.with_mount_options(read_only=True)},
    enable_memory_snapshot=True,
    block_network=True,
)
class Answers:
    """The endpoint's models; it has no network, the gateway before it has."""

    @modal.enter(snap=True)
    def wake(self) -> None:
        """Import what takes seconds; it is in the snapshot."""
        from serverless import preload

        preload.imports()

    @modal.method()
    def say(
        self, function: str, version: str, pictures: list[bytes], sizes: list[list[int]]
    ) -> list[dict[str, Any]]:
        """What a version says of images; reloads the volume where the version is new."""
        from serverless import remote_inference

        if not remote_inference.there(function, version):
            home.reload()
        return remote_inference.say(function, version, pictures, sizes)


@app.function(
    image=image,
    cpu=1.0,
    memory=1024,
    timeout=3 * MINUTES,
    startup_timeout=5 * MINUTES,
    max_containers=1,  # it alone counts what keys have used, and writes what is kept
    scaledown_window=10 * MINUTES,
    volumes={images.HOME: home.with_mount_options(read_only=True), images.KEPT: kept},
    secrets=[modal.Secret.from_dict(secrets.of_endpoint(local, ALERTS))],
)
@modal.concurrent(max_inputs=200)
@modal.asgi_app()
def endpoint() -> Any:
    """The predict endpoint's gateway: keys, limits, decoding; the models are behind it."""
    from serverless.asgi_apps import endpoint

    return endpoint(Answers().say.remote, home.reload, kept.commit)


@app.function(
    image=image,
    cpu=1.0,
    memory=4096,
    timeout=10 * MINUTES,
    startup_timeout=10 * MINUTES,
    min_containers=1,  # Label Studio waits 3 seconds for an answer to /setup
    max_containers=1,  # one process watches the projects
    scaledown_window=20 * MINUTES,
    volumes={images.HOME: home, images.KEPT: kept.with_mount_options(read_only=True)},
    secrets=[modal.Secret.from_dict(secrets.of_backend(local))],
)
@modal.concurrent(max_inputs=100)
@modal.asgi_app()
def backend() -> Any:
    """What Label Studio talks to: ``prelabel serve``, always warm, while GPUs are at zero."""
    from serverless.asgi_apps import backend

    return backend(home.commit, kept.reload)


def tell_progress(order: str) -> Callable[[int, int], None]:
    """Writes a training's progress where its caller looks."""

    def tell(done: int, of: int) -> None:
        progress[order] = (done, of)

    return tell
