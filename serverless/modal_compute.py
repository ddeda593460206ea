"""Compute on Modal: upload training orders, wait for them, and download their results.

A training continues if this process ends. Submitting the same order again resumes the running call
or returns the saved result.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from backend.arrays import Floats
from backend.callbacks import ProgressCallback
from backend.card_records import ComputeCost
from backend.errors import PrelabelError, RoundError, UsageError
from backend.runtime.compute import LocalCompute
from backend.runtime.periodic import log_errors, throttle
from backend.settings import COMPUTE_MODAL, Settings
from serverless import serialization
from serverless.container_image import TRAIN_TIMEOUT_SECONDS
from serverless.jobs_volume import (
    COMPLETION_FILENAME,
    IMAGES_FOLDER,
    NETWORKS_FOLDER,
    ORDER_FILENAME,
    ORDERS_FOLDER,
    PREVIOUS_FOLDER,
    RESULT_FOLDER,
    WEIGHTS_FOLDER,
    image_path,
)
from serverless.modal_client import ModalClient
from serverless.monthly_budget import MonthlyBudget, estimate_dollars
from serverless.serialization import EncoderProperties, FileContents
from serverless.training_calls import TrainingCalls
from serverless.volume_sync import VolumeSync

if TYPE_CHECKING:
    from PIL import Image

    from backend.training.detector import DetectorTrainingJob
    from backend.training.head import HeadTrainingJob
    from backend.vision.detection.detections import Detections
    from backend.vision.detection.network import DetectionNetwork
    from backend.vision.detection.network_runner import NetworkRunner
    from backend.vision.detection.trained_detector import Detector
    from backend.vision.encoders.base import Encoder
    from backend.vision.heads.head import Head

T = TypeVar("T")
log = logging.getLogger("prelabel")
UPLOAD_BATCH_SIZE = 128
"""Images that are loaded and uploaded together; several containers share them."""
CONTAINER_BATCH_SIZE = 16
"""Images per call of a container."""
MIN_REMOTE_IMAGES = 64
"""Minimum number of images for remote inference; for fewer, a cold start takes longer than local
inference."""
MIN_REMOTE_SAMPLES = 5000
"""Minimum number of labeled images to fit a head remotely; for fewer, uploading takes longer."""
CAPTURE_DOWNLOAD_SECONDS, CAPTURE_CLEANUP_SECONDS = 60.0, 3600.0
TRAINING_OVERHEAD_SECONDS = 300
"""Seconds of a training call that the cold start, reading and writing may take."""


def check_train_timeout(settings: Settings) -> None:
    """Check that a training ends within Modal's time limit.

    Raises:
        UsageError: ``PRELABEL_TRAIN_SECONDS`` exceeds it.
    """
    max_seconds = TRAIN_TIMEOUT_SECONDS - TRAINING_OVERHEAD_SECONDS
    if settings.train_seconds > max_seconds:
        raise UsageError(
            f"PRELABEL_TRAIN_SECONDS is {settings.train_seconds:g}, but a training on Modal may "
            f"take at most {max_seconds} seconds: set it lower."
        )


class ModalCompute:
    """Train and run batch inference on Modal; see ``backend.runtime.compute``.

    Args:
        settings: the settings.
        client: client for the deployed app; by default for the app of the settings.

    Raises:
        UsageError: a training may exceed Modal's time limit, or there is no token.
    """

    batch_size = UPLOAD_BATCH_SIZE

    def __init__(self, settings: Settings, client: ModalClient | None = None) -> None:
        check_train_timeout(settings)
        self._settings = settings
        self._client = client or ModalClient(settings.modal_app)
        self._budget = MonthlyBudget(settings.home / "spending.json", settings.monthly_budget)
        self._client.record_usage = self._record_usage
        self._training_calls = TrainingCalls(settings.home, self._client, self._record_usage)
        self._local_compute = LocalCompute()
        sync_captures = log_errors(self._sync_captures, "Captured images could not be downloaded")
        self._download_captures = throttle(CAPTURE_DOWNLOAD_SECONDS, sync_captures)
        self._cleaned_at = 0.0

    def check_budget(self) -> None:
        """See ``Compute.check_budget``."""
        self._budget.check_remaining()

    def sync_endpoint(self) -> None:
        """See ``Compute.sync_endpoint``."""
        VolumeSync(self._settings.home, self._settings.modal_app).upload_if_changed()

    def fetch_captures(self) -> None:
        """See ``Compute.fetch_captures``; throttled, as it is called every second."""
        self._download_captures()

    def train_head(self, job: HeadTrainingJob) -> tuple[Head | None, ComputeCost]:
        """See ``Compute.train_head``."""
        if len(job.examples.task_ids) < MIN_REMOTE_SAMPLES:
            return self._local_compute.train_head(job)
        from backend.vision.heads.head import load_head, save_head

        order, files = serialization.encode_head_job(job)
        previous: FileContents = {}
        if job.previous is not None:
            previous = serialization.dump_files(partial(save_head, job.previous))
        result, cost = self._run_order(order, files, previous)
        return serialization.load_files(result, load_head) if result else None, cost

    def train_detector(self, job: DetectorTrainingJob) -> tuple[Detector | None, ComputeCost]:
        """See ``Compute.train_detector``."""
        from backend.training.detector import fine_tuned_detector, will_fine_tune

        if not will_fine_tune(job):
            return self._local_compute.train_detector(job)
        from backend.vision.detection.trained_detector import load_trained_detector

        self._upload_images(job)
        previous: FileContents = {}
        if (detector := fine_tuned_detector(job)) is not None:  # Modal compares the base
            previous = serialization.dump_files(detector.save)
        order = serialization.encode_detector_job(job, self._upload_base(job.base_setting))
        result, cost = self._run_order(order, {}, previous, job.report, job.cancelled)
        load = partial(load_trained_detector, load_runner=job.load_runner)
        return serialization.load_files(result, load) if result else None, cost

    def encoder(self, setting: str, load: Callable[[], Encoder]) -> Encoder:
        """See ``Compute.encoder``."""
        return RemoteEncoder(setting, self._client)

    def network_runner(
        self, network: DetectionNetwork, size: int, key: str, load: Callable[[], NetworkRunner]
    ) -> NetworkRunner:
        """See ``Compute.network_runner``."""
        return make_remote_runner(network, size, key, load, self._client)

    def _sync_captures(self) -> None:
        volume_sync = VolumeSync(self._settings.home, self._settings.modal_app)
        new_count = volume_sync.download_captures()
        if time.time() - self._cleaned_at > CAPTURE_CLEANUP_SECONDS:
            self._cleaned_at = time.time()
            volume_sync.remove_imported_captures(self._settings.capture_retention_days)
        if new_count:
            log.info("Downloaded %s captured images from the endpoint on Modal", new_count)

    def _record_usage(self, device: str, seconds: float) -> None:
        """Add the cost of a call; an unknown device counts as the preferred GPU."""
        self._budget.record_usage(device or self._settings.gpus[0], seconds)

    # -- training orders --------------------------------------------------------------------

    def _run_order(
        self,
        order: serialization.TrainingOrder,
        files: FileContents,
        previous: FileContents,
        report: ProgressCallback = lambda done, total: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> tuple[FileContents, ComputeCost]:
        """Run a training order; return the verified files of its result, and its cost."""
        self._budget.check_remaining()
        files = files | {f"{PREVIOUS_FOLDER}/{name}": text for name, text in previous.items()}
        order_id = serialization.compute_order_id(order, files)
        submit = partial(self._submit_order, order_id, order, files)
        volume = self._client.volume
        try:
            result = self._training_calls.run_to_completion(order_id, submit, report, cancelled)
            result_files = {
                name: volume.download(f"{ORDERS_FOLDER}/{order_id}/{RESULT_FOLDER}/{name}")
                for name in result.files
            }
            serialization.verify_files(result_files, result.files)
        except PrelabelError:
            volume.clear_name_cache()  # an uploaded file may have been removed meanwhile
            raise
        self._training_calls.mark_downloaded(order_id)
        dollars = estimate_dollars(result.device, result.seconds)
        return result_files, ComputeCost(COMPUTE_MODAL, result.device, result.seconds, dollars)

    def _submit_order(
        self, order_id: str, order: serialization.TrainingOrder, files: FileContents
    ) -> str:
        files = files | {ORDER_FILENAME: order.model_dump_json().encode()}
        self._upload_folder(f"{ORDERS_FOLDER}/{order_id}", files)
        return self._client.spawn_training(order_id)

    def _upload_folder(self, folder: str, files: FileContents) -> None:
        self._client.volume.upload({f"{folder}/{name}": text for name, text in files.items()})

    def _upload_images(self, job: DetectorTrainingJob) -> None:
        """Upload the job's images that are not on the volume yet."""
        samples_by_digest = {sample.digest: sample for sample in job.samples if not sample.is_audit}
        missing = samples_by_digest.keys() - self._client.volume.list_names(IMAGES_FOLDER)
        for digests in _split_batches(sorted(missing), UPLOAD_BATCH_SIZE):
            for digest in digests:
                samples_by_digest[digest].load_image()  # creates the local copy if it is missing
            paths = map(image_path, digests)
            self._client.volume.upload({path: self._settings.home / path for path in paths})

    def _upload_base(self, setting: str) -> str:
        """Upload base weights if they are a local file; return their setting on Modal."""
        file = Path(setting).expanduser()
        if not file.is_file():
            return setting
        content = file.read_bytes()
        folder = hashlib.sha256(content).hexdigest()[:16]
        if folder not in self._client.volume.list_names(WEIGHTS_FOLDER):
            self._upload_folder(f"{WEIGHTS_FOLDER}/{folder}", {file.name: content})
        return f"{folder}/{file.name}"


class RemoteEncoder(EncoderProperties):
    """An encoder that runs on Modal; see :class:`backend.vision.encoders.base.Encoder`.

    Large images are sent as JPEG of quality 95, so their embeddings differ slightly.
    """

    def __init__(self, setting: str, client: ModalClient) -> None:
        super().__init__(**asdict(client.encoder_properties(setting)))
        self._setting = setting
        self._client = client

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """Embed images in parallel containers."""
        encoded_batches = self._client.encode(self._setting, _encode_batches(images))
        vector_arrays = map(serialization.decode_vectors, encoded_batches)
        return np.concatenate([np.zeros((0, self.dim), dtype=np.float32), *vector_arrays])

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """See ``Encoder.encode_texts``."""
        return serialization.decode_vectors(self._client.encode_texts(self._setting, texts))


def make_remote_runner(
    network: DetectionNetwork,
    size: int,
    key: str,
    load: Callable[[], NetworkRunner],
    client: ModalClient,
) -> NetworkRunner:
    """Return a runner that runs on Modal for many images, and on this machine for a few.

    Args:
        network: the network.
        size: input size in pixels.
        key: identifies the network's weights.
        load: loads a local runner.
        client: client for the deployed app.
    """
    from backend.vision.detection.network import save_network
    from backend.vision.detection.network_runner import NetworkRunner

    class RemoteRunner(NetworkRunner):
        """Run locally if that is faster than a cold start."""

        local_runner: NetworkRunner | None = None

        def detect(
            self, images: Sequence[Image.Image], min_confidence: float = 0.05
        ) -> list[Detections]:
            if len(images) < MIN_REMOTE_IMAGES:
                self.local_runner = self.local_runner or load()
                return self.local_runner.detect(images, min_confidence)
            if key not in client.volume.list_names(NETWORKS_FOLDER):
                self._upload_network()
            image_batches = _encode_batches(images)
            results = client.detect(key, size, image_batches, min_confidence)
            if None in results:  # removed from the volume after 30 days without use
                client.volume.clear_name_cache()
                self._upload_network()
                results = client.detect(key, size, image_batches, min_confidence)
            if None in results:
                raise RoundError("The detector's network is missing on Modal: try again.")
            return [
                d for result in results if result for d in serialization.decode_detections(result)
            ]

        def _upload_network(self) -> None:
            files = serialization.dump_files(partial(save_network, network))
            files[COMPLETION_FILENAME] = b"{}"
            client.volume.upload(
                {f"{NETWORKS_FOLDER}/{key}/{name}": content for name, content in files.items()}
            )

    return RemoteRunner(network, size, runner=None)  # type: ignore[arg-type]


def _encode_batches(images: Sequence[Image.Image]) -> list[list[bytes]]:
    return [
        [serialization.encode_image(image) for image in batch]
        for batch in _split_batches(images, CONTAINER_BATCH_SIZE)
    ]


def _split_batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
