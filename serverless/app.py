"""The Modal app: functions with their hardware and limits. Deployed with ``prelabel deploy``.

The function bodies call plain functions of other modules. They import those lazily, because every
container of the app imports this file.
"""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import modal

from backend.endpoint.alert_rules import ALERT_RULES_FILENAME
from backend.settings import read_settings
from serverless import container_image as images

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from serverless.remote_inference import PredictionJson

MINUTES = 60
settings = read_settings()
APP_NAME, GPU_TYPES = settings.modal_app, list(settings.gpus)

app = modal.App(APP_NAME)
image = images.build_container_image()
home_volume = modal.Volume.from_name(f"{APP_NAME}-home", create_if_missing=True, version=2)
endpoint_volume = modal.Volume.from_name(f"{APP_NAME}-kept", create_if_missing=True, version=2)
jobs_volume = modal.Volume.from_name(f"{APP_NAME}-jobs", create_if_missing=True, version=2)
progress_dict = modal.Dict.from_name(f"{APP_NAME}-progress", create_if_missing=True)
local_environment = dict(os.environ) if modal.is_local() else {}
backend_secrets = images.backend_secrets(local_environment)
endpoint_secrets = images.endpoint_secrets(local_environment, settings.home / ALERT_RULES_FILENAME)


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
def train(order_id: str) -> dict[str, object]:
    """Run a training order; see :func:`serverless.modal_jobs.run_training_order`."""
    from serverless.modal_jobs import run_training_order

    jobs_volume.reload()
    call_id = modal.current_function_call_id() or ""
    result = run_training_order(
        order_id, Path(images.JOBS_MOUNT), progress_writer(order_id), jobs_volume.commit, call_id
    )
    return result.model_dump(exclude_none=True)


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
class BatchInference:
    """Batch inference for whole projects: embeddings and detections, with device and duration."""

    @modal.enter(snap=True)
    def preload(self) -> None:
        """Import slow modules before the memory snapshot."""
        from serverless.modal_jobs import preload_modules

        preload_modules()

    @modal.method()
    def encoder_properties(self, encoder: str) -> dict[str, object]:
        """See :func:`serverless.modal_jobs.encoder_properties`."""
        from serverless.modal_jobs import encoder_properties, run_timed

        return asdict(run_timed(encoder_properties, encoder))

    @modal.method()
    def encode_images(self, encoder: str, packed_images: list[bytes]) -> dict[str, object]:
        """See :func:`serverless.modal_jobs.encode_packed_images`."""
        from serverless.modal_jobs import encode_packed_images, run_timed

        return asdict(run_timed(encode_packed_images, encoder, packed_images))

    @modal.method()
    def encode_texts(self, encoder: str, texts: list[str]) -> dict[str, object]:
        """See :func:`serverless.modal_jobs.encode_text_batch`."""
        from serverless.modal_jobs import encode_text_batch, run_timed

        return asdict(run_timed(encode_text_batch, encoder, texts))

    @modal.method()
    def detect(
        self, network_key: str, size: int, packed_images: list[bytes], min_confidence: float
    ) -> dict[str, object]:
        """See :func:`serverless.modal_jobs.detect_packed_images`."""
        from serverless.modal_jobs import detect_packed_images, run_timed

        arguments = (network_key, size, Path(images.JOBS_MOUNT), packed_images, min_confidence)
        return asdict(run_timed(detect_packed_images, *arguments, jobs_volume.reload))


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
class EndpointModels:
    """The endpoint's models; only the gateway has network access."""

    @modal.enter(snap=True)
    def preload(self) -> None:
        """Import slow modules before the memory snapshot."""
        from serverless.modal_jobs import preload_modules

        preload_modules()

    @modal.method()
    def predict(
        self, function: str, version: str, packed_images: list[bytes], sizes: list[list[int]]
    ) -> list["PredictionJson"]:
        """See :func:`serverless.remote_inference.predict_packed_images`."""
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
    max_containers=1,  # a single process counts the quotas and writes the captures
    scaledown_window=10 * MINUTES,
    volumes={
        images.HOME_MOUNT: home_volume.with_mount_options(read_only=True),
        images.ENDPOINT_MOUNT: endpoint_volume,
    },
    secrets=[modal.Secret.from_dict(endpoint_secrets)],
)
@modal.concurrent(max_inputs=200)
@modal.asgi_app()
def endpoint() -> "ASGIApp":
    """Serve the predict endpoint's gateway: API keys, limits and decoding."""
    from serverless.asgi_apps import modal_endpoint_app

    return modal_endpoint_app(
        EndpointModels().predict.remote, home_volume.reload, endpoint_volume.commit
    )


@app.function(
    image=image,
    cpu=1.0,
    memory=4096,
    timeout=10 * MINUTES,
    startup_timeout=10 * MINUTES,
    min_containers=1,  # Label Studio's timeout for /setup is 3 seconds
    max_containers=1,  # a single process polls the projects
    scaledown_window=20 * MINUTES,
    volumes={
        images.HOME_MOUNT: home_volume,
        images.ENDPOINT_MOUNT: endpoint_volume.with_mount_options(read_only=True),
    },
    secrets=[modal.Secret.from_dict(backend_secrets)],
)
@modal.concurrent(max_inputs=100)
@modal.asgi_app()
def backend() -> "ASGIApp":
    """Serve the ML backend, as ``prelabel serve`` does; it stays warm while GPUs scale to zero."""
    from serverless.asgi_apps import modal_backend_app

    return modal_backend_app(home_volume.commit, endpoint_volume.reload)


def progress_writer(order_id: str) -> Callable[[int, int], None]:
    """Return a callback that writes the progress of a training for the client."""

    def write_progress(done: int, total: int) -> None:
        progress_dict[order_id] = (done, total)

    return write_progress
