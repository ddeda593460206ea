"""The compute seam's far side: orders are spawned on Modal, watched, verified and brought home.

What is spawned goes on when this process ends; the same order, asked for again, finds the call
that is under way, or its result.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.arrays import Floats
from backend.errors import PrelabelError, RoundError, UsageError
from backend.records import ComputeCost
from backend.runtime.compute import LocalCompute
from backend.runtime.periodic import log_errors, throttle
from backend.settings import COMPUTE_MODAL, Settings
from serverless import serialization
from serverless.container_image import TRAIN_TIMEOUT_SECONDS
from serverless.modal_client import ModalClient
from serverless.monthly_budget import MonthlyBudget, estimate_dollars
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

log = logging.getLogger("prelabel")
UPLOAD_BATCH_SIZE = 128
"""Images that are read together, to be looked at by several containers."""
CONTAINER_BATCH_SIZE = 16
"""Images a container looks at in one call."""
MIN_REMOTE_IMAGES = 64
"""Images from which on another machine is worth waking."""
MIN_REMOTE_SAMPLES = 5000
"""Labeled images from which on fitting a head is worth sending away: fewer take longer to send."""
COLLECT_INTERVAL_SECONDS, CAPTURE_CLEANUP_SECONDS = 60.0, 3600.0
TRAINING_OVERHEAD_SECONDS = 300
"""Seconds of a training there that are not spent on training: starting, reading, writing."""


def check_train_timeout(settings: Settings) -> None:
    """Make sure that trainings are through before Modal ends them.

    Raises:
        UsageError: they would not be.
    """
    max_seconds = TRAIN_TIMEOUT_SECONDS - TRAINING_OVERHEAD_SECONDS
    if settings.train_seconds > max_seconds:
        raise UsageError(
            f"PRELABEL_TRAIN_SECONDS is {settings.train_seconds:g}, and a training on Modal may "
            f"take {max_seconds} seconds at the most: set it lower."
        )


class ModalCompute:
    """Trains on Modal, and looks at many images there.

    Args:
        settings: of this backend.
        client: the deployed app; made from the settings when not given.

    Raises:
        UsageError: Modal would end trainings before they are through.
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
        sync_captures = log_errors(self._sync_captures, "what the endpoint kept cannot be fetched")
        self._download_captures = throttle(COLLECT_INTERVAL_SECONDS, sync_captures)
        self._cleaned_at = 0.0

    def check_budget(self) -> None:
        """See ``Compute.check_budget``."""
        self._budget.check_remaining()

    def sync_endpoint(self) -> None:
        """See ``Compute.sync_endpoint``."""
        VolumeSync(self._settings.home, self._settings.modal_app).upload_if_changed()

    def fetch_captures(self) -> None:
        """See ``Compute.fetch_captures``; asked every second, done every minute."""
        self._download_captures()

    def train_head(self, job: HeadTrainingJob) -> tuple[Head | None, ComputeCost]:
        """See ``Compute.train_head``."""
        if len(job.examples.task_ids) < MIN_REMOTE_SAMPLES:
            return self._local_compute.train_head(job)
        from backend.vision.heads.head import load_head, save_head

        order, files = serialization.encode_head_job(job)
        previous: serialization.FileContents = {}
        if job.previous is not None:
            with tempfile.TemporaryDirectory() as folder:
                save_head(job.previous, Path(folder))
                previous = serialization.read_files(Path(folder))
        result, cost = self._run_order(order, files, previous, _ignore_progress, _never_cancelled)
        if not result:
            return None, cost
        with tempfile.TemporaryDirectory() as folder:
            serialization.write_files(result, Path(folder))
            return load_head(Path(folder)), cost

    def train_detector(self, job: DetectorTrainingJob) -> tuple[Detector | None, ComputeCost]:
        """See ``Compute.train_detector``."""
        from backend.training.detector import will_fine_tune

        if not will_fine_tune(job):
            return self._local_compute.train_detector(job)
        from backend.vision.detection.trained_detector import TrainedDetector, load_trained_detector

        self._upload_images(job)
        previous: serialization.FileContents = {}
        if isinstance(job.previous, TrainedDetector) and job.previous.class_mapping.learned:
            with tempfile.TemporaryDirectory() as folder:
                job.previous.save(Path(folder))
                previous = serialization.read_files(Path(folder))
        order = serialization.encode_detector_job(job, self._upload_base(job.base_setting))
        result, cost = self._run_order(order, {}, previous, job.report, job.cancelled)
        if not result:
            return None, cost
        with tempfile.TemporaryDirectory() as folder:
            serialization.write_files(result, Path(folder))
            return load_trained_detector(Path(folder), job.load_runner), cost

    def encoder(self, setting: str, load: Callable[[], Encoder]) -> Encoder:
        """See ``Compute.encoder``."""
        return RemoteEncoder(setting, self._client)

    def network_runner(
        self, network: DetectionNetwork, size: int, key: str, load: Callable[[], NetworkRunner]
    ) -> NetworkRunner:
        """See ``Compute.network_runner``."""
        return make_remote_detector(network, size, key, load, self._client)

    def _sync_captures(self) -> None:
        volume_sync = VolumeSync(self._settings.home, self._settings.modal_app)
        new_count = volume_sync.download_captures()
        self._clean_captures(volume_sync)
        if new_count:
            log.info("%s images came back from the endpoint on Modal", new_count)

    def _clean_captures(self, volume_sync: VolumeSync) -> None:
        if time.time() - self._cleaned_at > CAPTURE_CLEANUP_SECONDS:
            self._cleaned_at = time.time()
            volume_sync.remove_imported_captures(self._settings.capture_retention_days)

    # -- orders -----------------------------------------------------------------------------

    def _run_order(
        self,
        order: dict[str, Any],
        files: serialization.FileContents,
        previous: serialization.FileContents,
        report: Callable[[int, int], None],
        cancelled: Callable[[], bool],
    ) -> tuple[serialization.FileContents, ComputeCost]:
        """Have an order carried out: the verified result's files, and what it took."""
        self._budget.check_remaining()
        input_files = {
            **files,
            **{f"previous/{name}": previous_content for name, previous_content in previous.items()},
        }
        order_id = serialization.compute_order_id(order, input_files)
        try:
            completion = self._training_calls.run_to_completion(
                order_id,
                lambda: self._submit_order(order_id, order, input_files),
                report,
                cancelled,
            )
            result_hashes = completion["files"]
            result = {
                name: self._client.download(f"orders/{order_id}/result/{name}")
                for name in result_hashes
            }
            serialization.verify_files(result, result_hashes)
        except PrelabelError:
            self._client.clear_name_cache()  # perhaps it lacked something
            raise
        self._training_calls.mark_downloaded(order_id)
        device, seconds = completion["device"], completion["seconds"]
        return result, ComputeCost(
            COMPUTE_MODAL, device, seconds, estimate_dollars(device, seconds)
        )

    def _submit_order(
        self, order_id: str, order: dict[str, Any], files: serialization.FileContents
    ) -> str:
        remote_files = {f"orders/{order_id}/{name}": content for name, content in files.items()}
        self._client.upload(
            {**remote_files, f"orders/{order_id}/order.json": json.dumps(order).encode()}
        )
        return self._client.spawn_training(order_id)

    def _record_usage(self, device: str, seconds: float) -> None:
        """Count what Modal does; as the preferred kind of GPU where nobody knows."""
        self._budget.record_usage(device or self._settings.gpus[0], seconds)

    # -- what orders need there -------------------------------------------------------------

    def _upload_images(self, job: DetectorTrainingJob) -> None:
        """Copies of the images, those that are not there yet."""
        samples_by_digest = {sample.digest: sample for sample in job.samples if not sample.is_audit}
        folder = self._settings.home / "pictures"
        missing_digests = samples_by_digest.keys() - self._client.list_names("pictures")
        for digest_batch in _split_batches(sorted(missing_digests), UPLOAD_BATCH_SIZE):
            files: dict[str, bytes | Path] = {}
            for digest in digest_batch:
                samples_by_digest[digest].load_image()  # makes the copy where there is none
                files[f"pictures/{digest[:2]}/{digest}"] = folder / digest[:2] / digest
            self._client.upload(files)

    def _upload_base(self, setting: str) -> str:
        """The setting that leads to the network to start from, there."""
        file = Path(setting).expanduser()
        if not file.is_file():
            return setting
        content = file.read_bytes()
        folder = hashlib.sha256(content).hexdigest()[:16]
        if folder not in self._client.list_names("weights"):
            self._client.upload({f"weights/{folder}/{file.name}": content})
        return f"{folder}/{file.name}"


class RemoteEncoder:
    """An encoder that encodes on Modal; see ``backend.vision.encoders.base.Encoder``.

    Larger images travel as JPEG of quality 95: vectors differ by that.
    """

    def __init__(self, setting: str, client: ModalClient) -> None:
        self._setting = setting
        self._client = client
        properties = client.encoder_properties(setting)
        self.id = str(properties["id"])
        self.name = str(properties["name"])
        self.dim = int(properties["dim"])
        self.has_text = bool(properties["has_text"])
        self.logit_scale = float(properties["logit_scale"])
        self.logit_bias = float(properties["logit_bias"])

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """Several containers at once, where there are many."""
        image_batches = [
            [serialization.encode_image(image) for image in image_batch]
            for image_batch in _split_batches(images, CONTAINER_BATCH_SIZE)
        ]
        vector_arrays = [
            serialization.decode_vectors(encoded)
            for encoded in self._client.encode(self._setting, image_batches)
        ]
        return (
            np.concatenate(vector_arrays)
            if vector_arrays
            else np.zeros((0, self.dim), dtype=np.float32)
        )

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """See ``Encoder.encode_texts``."""
        return serialization.decode_vectors(self._client.encode_texts(self._setting, texts))


def make_remote_detector(
    network: DetectionNetwork,
    size: int,
    key: str,
    load: Callable[[], NetworkRunner],
    client: ModalClient,
) -> NetworkRunner:
    """A detector that looks at many images on Modal, and at a few here."""
    from backend.vision.detection.network import save_network
    from backend.vision.detection.network_runner import NetworkRunner

    class Remote(NetworkRunner):
        """Few images are answered sooner than another machine wakes."""

        local_detector: NetworkRunner | None = None

        def detect(self, images: Sequence[Image.Image], least: float = 0.05) -> list[Detections]:
            if len(images) < MIN_REMOTE_IMAGES:
                self.local_detector = self.local_detector or load()
                return self.local_detector.detect(images, least)
            if key not in client.list_names("networks"):
                self._upload_network()
            image_batches = [
                [serialization.encode_image(image) for image in image_batch]
                for image_batch in _split_batches(images, CONTAINER_BATCH_SIZE)
            ]
            encoded_batches = client.detect(key, size, image_batches, least)
            if None in encoded_batches:  # it was removed there, as nobody had used it for long
                client.clear_name_cache()
                self._upload_network()
                encoded_batches = client.detect(key, size, image_batches, least)
            return [
                detections
                for encoded_batch in encoded_batches
                for detections in _decode_batch(encoded_batch)
            ]

        def _upload_network(self) -> None:
            with tempfile.TemporaryDirectory() as folder:
                save_network(network, Path(folder))
                files = serialization.read_files(Path(folder))
            remote_files = {f"networks/{key}/{name}": content for name, content in files.items()}
            client.upload({**remote_files, f"networks/{key}/done.json": b"{}"})

    return Remote(network, size, runner=None)  # type: ignore[arg-type]


def _decode_batch(encoded_batch: bytes | None) -> list[Detections]:
    if encoded_batch is None:
        raise RoundError("The network to look with did not arrive on Modal: try again.")
    return serialization.decode_detections(encoded_batch)


def _split_batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _ignore_progress(done: int, of: int) -> None:
    """Nobody wants to know."""


def _never_cancelled() -> bool:
    return False
