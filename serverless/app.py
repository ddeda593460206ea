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
APP_NAME, GPU_TYPES = settings.modal_app, list(settings.gpus)
ALERTS_FILE = settings.home / "alerts.toml"

app = modal.App(APP_NAME)
image = images.build_container_image()
home_volume = modal.Volume.from_name(f"{APP_NAME}-home", create_if_missing=True, version=2)
endpoint_volume = modal.Volume.from_name(f"{APP_NAME}-kept", create_if_missing=True, version=2)
jobs_volume = modal.Volume.from_name(f"{APP_NAME}-jobs", create_if_missing=True, version=2)
progress_dict = modal.Dict.from_name(f"{APP_NAME}-progress", create_if_missing=True)
local_environment = dict(os.environ) if modal.is_local() else {}


@app.function(
    image=image,
    gpu=GPU_TYPES,
    timeout=images.TRAIN_TIMEOUT_SECONDS,
    startup_timeout=10 * MINUTES,
    retries=modal.Retries(max_retries=2, initial_delay=1.0),
    max_containers=2,
    scaledown_window=1 * MINUTES,
    volumes={images.JOBS_MOUNT: jobs_volume},
    block_network=True,
)
def train(order_id: str) -> dict[str, Any]:
    """Carry out a training order of the jobs' volume; see ``serverless.jobs.train``."""
    from serverless.jobs import run_training_order

    jobs_volume.reload()
    call_id = modal.current_function_call_id() or ""
    return run_training_order(
        order_id, Path(images.JOBS_MOUNT), progress_writer(order_id), jobs_volume.commit, call_id
    )


@app.cls(
    image=image,
    gpu=GPU_TYPES,
    timeout=10 * MINUTES,
    startup_timeout=10 * MINUTES,
    max_containers=8,
    scaledown_window=1 * MINUTES,
    volumes={images.JOBS_MOUNT: jobs_volume.with_mount_options(read_only=True)},
    enable_memory_snapshot=True,
    block_network=True,
)
class Eyes:
    """Looks at many images: embeds them, or finds objects; and says what that took."""

    @modal.enter(snap=True)
    def preload(self) -> None:
        """Import what takes seconds; it is in the snapshot."""
        from serverless import preload

        preload.preload_modules()

    @modal.method()
    def facts(self, encoder: str) -> dict[str, Any]:
        """What an encoder is."""
        from serverless.jobs import encoder_properties, run_timed

        return run_timed(encoder_properties, encoder)

    @modal.method()
    def encode(self, encoder: str, packed_images: list[bytes]) -> dict[str, Any]:
        """Images → vectors."""
        from serverless.jobs import encode_packed_images, run_timed

        return run_timed(encode_packed_images, encoder, packed_images)

    @modal.method()
    def encode_texts(self, encoder: str, texts: list[str]) -> dict[str, Any]:
        """Texts → vectors."""
        from serverless.jobs import encode_text_batch, run_timed

        return run_timed(encode_text_batch, encoder, texts)

    @modal.method()
    def detect(
        self, network_key: str, size: int, packed_images: list[bytes], min_confidence: float
    ) -> dict[str, Any]:
        """What a network finds in images; reloads the volume where the network is new."""
        from serverless.jobs import detect_packed_images, run_timed

        return run_timed(
            detect_packed_images,
            network_key,
            size,
            Path(images.JOBS_MOUNT),
            packed_images,
            min_confidence,
            jobs_volume.reload,
        )


@app.cls(
    image=image,
    cpu=2.0,
    memory=4096,
    timeout=2 * MINUTES,
    startup_timeout=10 * MINUTES,
    max_containers=10,
    scaledown_window=5 * MINUTES,
    volumes={images.HOME_MOUNT: home_volume.with_mount_options(read_only=True)},
    enable_memory_snapshot=True,
    block_network=True,
)
class Answers:
    """The endpoint's models; it has no network, the gateway before it has."""

    @modal.enter(snap=True)
    def preload(self) -> None:
        """Import what takes seconds; it is in the snapshot."""
        from serverless import preload

        preload.preload_modules()

    @modal.method()
    def say(
        self, function: str, version: str, packed_images: list[bytes], sizes: list[list[int]]
    ) -> list[dict[str, Any]]:
        """What a version says of images; reloads the volume where the version is new."""
        from serverless import remote_inference

        if not remote_inference.has_version(function, version):
            home_volume.reload()
        return remote_inference.predict_packed_images(function, version, packed_images, sizes)


@app.function(
    image=image,
    cpu=1.0,
    memory=1024,
    timeout=3 * MINUTES,
    startup_timeout=5 * MINUTES,
    max_containers=1,  # it alone counts what keys have used, and writes what is kept
    scaledown_window=10 * MINUTES,
    volumes={
        images.HOME_MOUNT: home_volume.with_mount_options(read_only=True),
        images.ENDPOINT_MOUNT: endpoint_volume,
    },
    secrets=[modal.Secret.from_dict(secrets.endpoint_secrets(local_environment, ALERTS_FILE))],
)
@modal.concurrent(max_inputs=200)
@modal.asgi_app()
def endpoint() -> Any:
    """The predict endpoint's gateway: keys, limits, decoding; the models are behind it."""
    from serverless.asgi_apps import modal_endpoint_app

    return modal_endpoint_app(Answers().say.remote, home_volume.reload, endpoint_volume.commit)


@app.function(
    image=image,
    cpu=1.0,
    memory=4096,
    timeout=10 * MINUTES,
    startup_timeout=10 * MINUTES,
    min_containers=1,  # Label Studio waits 3 seconds for an answer to /setup
    max_containers=1,  # one process watches the projects
    scaledown_window=20 * MINUTES,
    volumes={
        images.HOME_MOUNT: home_volume,
        images.ENDPOINT_MOUNT: endpoint_volume.with_mount_options(read_only=True),
    },
    secrets=[modal.Secret.from_dict(secrets.backend_secrets(local_environment))],
)
@modal.concurrent(max_inputs=100)
@modal.asgi_app()
def backend() -> Any:
    """What Label Studio talks to: ``prelabel serve``, always warm, while GPUs are at zero."""
    from serverless.asgi_apps import modal_backend_app

    return modal_backend_app(home_volume.commit, endpoint_volume.reload)


def progress_writer(order_id: str) -> Callable[[int, int], None]:
    """Writes a training's progress where its caller looks."""

    def write_progress(done: int, total: int) -> None:
        progress_dict[order_id] = (done, total)

    return write_progress
