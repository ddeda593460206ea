"""The jobs that run on Modal, as plain functions that do not import modal.

``jobs_folder`` is the mounted jobs volume; see :mod:`serverless.jobs_volume` for its layout.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from backend.callbacks import ProgressCallback
from backend.errors import PrelabelError
from backend.settings import read_settings
from serverless import serialization
from serverless.jobs_volume import (
    COMPLETION_FILENAME,
    IMAGES_FOLDER,
    NETWORKS_FOLDER,
    ORDER_FILENAME,
    ORDERS_FOLDER,
    PREVIOUS_FOLDER,
    RESULT_FOLDER,
    WEIGHTS_FOLDER,
)
from serverless.serialization import EncoderProperties, TimedResult, TrainingResult

if TYPE_CHECKING:
    from PIL import Image

    from backend.inference.detections import RegionSample
    from backend.runtime.resources import Resources
    from backend.vision.detection.network_runner import NetworkRunner

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger("prelabel")
PRELOADED_MODULES = ("numpy", "torch", "open_clip", "backend.runtime.resources", "PIL.Image")


def preload_modules() -> None:
    """Import the slow modules before a memory snapshot, which must not contain secrets, sockets or
    GPU state."""
    for name in PRELOADED_MODULES:
        importlib.import_module(name)
    from backend.vision.ultralytics_models import import_ultralytics

    import_ultralytics()


@cache
def container_resources() -> Resources:
    """Return the resources of this container, configured by its environment variables."""
    from backend.runtime.resources import Resources

    return Resources(read_settings())


# -- training -------------------------------------------------------------------------------


def run_training_order(
    order_id: str,
    jobs_folder: Path,
    report_progress: ProgressCallback,
    commit: Callable[[], None],
    call_id: str = "",
) -> TrainingResult:
    """Run a training order and save its result; return the saved result if there is one.

    The result is written under a temporary name, committed, renamed, and marked as done last, so
    that a retry finds either the whole result or none.

    Args:
        order_id: id of the order.
        jobs_folder: root of the jobs volume.
        report_progress: called with (done, total) training steps.
        commit: makes written files durable and visible to other containers.
        call_id: id of the Modal call; its retries have the same id.

    Raises:
        RuntimeError: the training failed with an error that a retry may fix.
    """
    folder = jobs_folder / ORDERS_FOLDER / order_id
    completed = _read_completion(folder)
    if completed is not None:
        return completed.model_copy(update={"again": completed.call != call_id})
    started_at = _start_time(folder, call_id, commit)
    error = None
    files: serialization.FileContents = {}
    try:
        files = _train_order(folder, jobs_folder, _ignore_progress_errors(report_progress))
    except PrelabelError as raised:
        error = serialization.RemoteError(kind=type(raised).__name__, text=str(raised))
    except Exception as raised:  # the client may not have its class
        raise RuntimeError(f"{type(raised).__name__}: {raised}") from raised
    result = TrainingResult(
        device=_device_name(),
        seconds=round(max(0.0, time.time() - started_at), 3),
        files=serialization.file_hashes(files),
        call=call_id,
        error=error,
    )
    if error is None:
        _save_result(result, files, folder, commit)
    return result


def _train_order(
    folder: Path, jobs_folder: Path, report_progress: ProgressCallback
) -> serialization.FileContents:
    order = serialization.ORDER_ADAPTER.validate_json((folder / ORDER_FILENAME).read_bytes())
    with tempfile.TemporaryDirectory() as output_folder:
        if isinstance(order, serialization.HeadOrder):
            _train_head(order, folder, Path(output_folder), report_progress)
        else:
            _train_detector(order, folder, jobs_folder, Path(output_folder), report_progress)
        return serialization.read_files(Path(output_folder))


def _save_result(
    result: TrainingResult,
    files: serialization.FileContents,
    folder: Path,
    commit: Callable[[], None],
) -> None:
    partial_folder = folder / f"{RESULT_FOLDER}.partial"
    shutil.rmtree(partial_folder, ignore_errors=True)
    partial_folder.mkdir()
    serialization.write_files(files, partial_folder)
    commit()
    shutil.rmtree(folder / RESULT_FOLDER, ignore_errors=True)
    partial_folder.rename(folder / RESULT_FOLDER)
    (folder / COMPLETION_FILENAME).write_text(result.model_dump_json(), encoding="utf-8")
    commit()


def _read_completion(folder: Path) -> TrainingResult | None:
    """Return the saved result of an order; None if it is missing or its files are damaged."""
    try:
        result = TrainingResult.model_validate_json((folder / COMPLETION_FILENAME).read_bytes())
        serialization.verify_files(serialization.read_files(folder / RESULT_FOLDER), result.files)
    except (OSError, ValueError, serialization.DamagedResultError):
        return None
    return result


def _start_time(folder: Path, call_id: str, commit: Callable[[], None]) -> float:
    """Return the start time of a call's first attempt, in seconds since 1970."""
    file = folder / "begun.json"
    with contextlib.suppress(OSError, ValueError):
        start_record = json.loads(file.read_text(encoding="utf-8"))
        if start_record["call"] == call_id:
            return float(start_record["at"])
    now = time.time()
    file.write_text(json.dumps({"call": call_id, "at": now}), encoding="utf-8")
    commit()
    return now


def _ignore_progress_errors(report_progress: ProgressCallback) -> ProgressCallback:
    def report_safely(done: int, total: int) -> None:
        try:
            report_progress(done, total)
        except Exception as error:
            log.warning("Progress could not be reported: %s", error)

    return report_safely


def _train_head(
    order: serialization.HeadOrder,
    folder: Path,
    output_folder: Path,
    report_progress: ProgressCallback,
) -> None:
    from backend.training.head import train_head
    from backend.vision.heads.head import load_head, save_head

    report_progress(0, 1)
    previous_folder = folder / PREVIOUS_FOLDER
    previous = load_head(previous_folder) if previous_folder.is_dir() else None
    arrays = (folder / serialization.ARRAYS_FILENAME).read_bytes()
    head = train_head(serialization.decode_head_job(order, arrays, previous))
    if head is not None:
        save_head(head, output_folder)
    report_progress(1, 1)


def _train_detector(
    order: serialization.DetectorOrder,
    folder: Path,
    jobs_folder: Path,
    output_folder: Path,
    report_progress: ProgressCallback,
) -> None:
    from backend.training.detector import DetectorTrainingJob, train_detector
    from backend.vision.detection.base_weights import choose_base_weights
    from backend.vision.detection.network import load_base_network
    from backend.vision.detection.trained_detector import load_trained_detector

    resources = container_resources()
    uploaded_base = jobs_folder / WEIGHTS_FOLDER / order.base
    base = choose_base_weights(
        str(uploaded_base) if uploaded_base.is_file() else order.base,
        resources.weights_folder,
        log.info,
    )
    previous_folder = folder / PREVIOUS_FOLDER
    detector = train_detector(
        DetectorTrainingJob(
            control=order.control,
            samples=[_decode_sample(row, jobs_folder) for row in order.samples],
            base_network=load_base_network(base.path),
            previous=load_trained_detector(previous_folder, resources.load_network_runner)
            if previous_folder.is_dir()
            else None,
            input_size=order.size,
            max_seconds=order.seconds,
            seed=order.seed,
            load_runner=resources.load_network_runner,
            prompts=None,
            report=report_progress,
            cancelled=lambda: False,
        )
    )
    if detector is not None:
        detector.save(output_folder)


def _decode_sample(row: serialization.SampleRow, jobs_folder: Path) -> RegionSample:
    from backend.inference.detections import RegionSample

    return RegionSample(**vars(row), load_image=partial(_load_job_image, row.digest, jobs_folder))


def _load_job_image(digest: str, jobs_folder: Path) -> Image.Image:
    from backend.errors import RoundError
    from backend.store.image_copies import ImageCopies

    image = ImageCopies(jobs_folder / IMAGES_FOLDER).get(digest)
    if image is None:
        raise RoundError(f"The image {digest[:12]} is missing on Modal: train again.")
    return image


# -- batch inference ------------------------------------------------------------------------


def run_timed(task: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> TimedResult[T]:
    """Call a function; return its value with the device and the duration."""
    start = time.monotonic()
    value = task(*args, **kwargs)
    return TimedResult(value, _device_name(), round(time.monotonic() - start, 3))


def encoder_properties(setting: str) -> EncoderProperties:
    """Return the properties of an encoder."""
    encoder = container_resources().encoder(setting)
    names = [field.name for field in fields(EncoderProperties)]
    return EncoderProperties(**{name: getattr(encoder, name) for name in names})


def encode_packed_images(setting: str, images: Sequence[bytes]) -> bytes:
    """Embed encoded images; see :func:`serverless.serialization.encode_vectors`."""
    decoded = [serialization.decode_image(image) for image in images]
    return serialization.encode_vectors(
        container_resources().encoder(setting).encode_images(decoded)
    )


def encode_text_batch(setting: str, texts: Sequence[str]) -> bytes:
    """Embed texts; see :func:`serverless.serialization.encode_vectors`."""
    return serialization.encode_vectors(
        container_resources().encoder(setting).encode_texts(list(texts))
    )


def detect_packed_images(
    network_key: str,
    size: int,
    jobs_folder: Path,
    images: Sequence[bytes],
    min_confidence: float,
    reload: Callable[[], None],
) -> bytes | None:
    """Run a network of the jobs volume on encoded images.

    Args:
        network_key: key of the network.
        size: input size in pixels.
        jobs_folder: root of the jobs volume.
        images: encoded images.
        min_confidence: minimum confidence of the returned detections, 0 to 1.
        reload: makes the files of other machines visible.

    Returns:
        the encoded detections; None if the volume does not have the network.
    """
    folder = jobs_folder / NETWORKS_FOLDER / network_key
    if not (folder / COMPLETION_FILENAME).exists():
        reload()
    if not (folder / COMPLETION_FILENAME).exists():
        return None
    runner = _load_runner(network_key, size, folder)
    return serialization.encode_detections(
        runner.detect([serialization.decode_image(image) for image in images], min_confidence)
    )


@cache
def _load_runner(key: str, size: int, folder: Path) -> NetworkRunner:
    from backend.vision.detection.network import load_network

    return container_resources().load_network_runner(load_network(folder), size, key)


def _device_name() -> str:
    from backend.vision.batching import detect_device

    if detect_device() != "cuda":
        return "CPU"
    import torch

    return str(torch.cuda.get_device_name())
