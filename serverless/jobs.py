"""What Modal's functions do, as plain functions over a folder: they know nothing of Modal.

The folder ``jobs`` of a volume: ``pictures/`` (images by the hash of their original), ``weights/``
(files to start from), ``orders/<id>/`` (an order, its files, and ``result/`` once it is done),
``networks/<key>/`` (to look at many images with).
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.callbacks import ProgressCallback
from backend.errors import PrelabelError
from backend.settings import read_settings
from serverless import serialization

if TYPE_CHECKING:
    from backend.inference.detections import RegionSample
    from backend.runtime.resources import Resources
    from backend.vision.detection.network_runner import NetworkRunner
    from backend.vision.encoders.base import Encoder

log = logging.getLogger("prelabel")
DONE_FILENAME = "done.json"


def run_training_order(
    order_id: str,
    jobs_folder: Path,
    report_progress: ProgressCallback,
    commit: Callable[[], None],
    call_id: str = "",
) -> dict[str, Any]:
    """Carry out an order; one that is done already is not done again.

    The result is written to a temporary name, committed, renamed, and marked done last: whoever
    retries finds all of it or nothing.

    Args:
        order_id: of the order.
        jobs_folder: the folder.
        report_progress: told (done, of) of the training's steps.
        commit: makes what was written last, and visible elsewhere.
        call_id: tells attempts of one call from those of others.

    Returns:
        ``{"files": {name: SHA-256}, "device", "seconds", "again"}``; no files where nothing could
        be made; ``seconds`` are those of all attempts, ``again`` whether another call did it.
        ``{"error": {"kind", "text"}, "device", "seconds"}`` where it would fail again the same way.

    Raises:
        RuntimeError: it broke for a reason that another attempt may not meet.
    """
    folder = jobs_folder / "orders" / order_id
    completed = _read_completion(folder)
    if completed is not None:
        return {**completed, "again": completed.get("call") != call_id}
    started_at = _start_time(folder, call_id, commit)
    try:
        files = _build_result(folder, jobs_folder, _ignore_progress_errors(report_progress))
    except PrelabelError as error:
        return {
            "error": {"kind": type(error).__name__, "text": str(error)},
            **_usage_fields(started_at),
        }
    except Exception as error:  # not as it is: its class may be one of the client's own
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
    partial_folder = folder / "result.partial"
    shutil.rmtree(partial_folder, ignore_errors=True)
    partial_folder.mkdir()
    serialization.write_files(files, partial_folder)
    commit()
    shutil.rmtree(folder / "result", ignore_errors=True)
    partial_folder.rename(folder / "result")
    completion = {
        "files": serialization.file_hashes(files),
        "call": call_id,
        **_usage_fields(started_at),
    }
    (folder / DONE_FILENAME).write_text(json.dumps(completion), encoding="utf-8")
    commit()
    return {**completion, "again": False}


def _build_result(
    folder: Path, jobs_folder: Path, report_progress: ProgressCallback
) -> serialization.FileContents:
    """The files that an order asks for."""
    order = json.loads((folder / "order.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as output_dir:
        run_order = _run_head_order if order["kind"] == "head" else _run_detector_order
        run_order(order, folder, jobs_folder, Path(output_dir), report_progress)
        return serialization.read_files(Path(output_dir))


def _start_time(folder: Path, call_id: str, commit: Callable[[], None]) -> float:
    """When the first attempt of a call began, seconds since 1970."""
    file = folder / "begun.json"
    with contextlib.suppress(OSError, ValueError):
        start_record = json.loads(file.read_text(encoding="utf-8"))
        if start_record["call"] == call_id:
            return float(start_record["at"])
    now = time.time()
    file.write_text(json.dumps({"call": call_id, "at": now}), encoding="utf-8")
    commit()
    return now


def _usage_fields(started_at: float) -> dict[str, Any]:
    return {"device": _device_name(), "seconds": round(max(0.0, time.time() - started_at), 3)}


def _ignore_progress_errors(report_progress: ProgressCallback) -> ProgressCallback:
    """A training goes on where nobody can be told how far it is."""

    def report_safely(done: int, total: int) -> None:
        try:
            report_progress(done, total)
        except Exception as error:
            log.warning("the progress cannot be told: %s", error)

    return report_safely


def run_timed(task: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """Look at something, and say what it took: ``{"told", "device", "seconds"}``.

    Args:
        task: one of the functions below.
        args: what it is given.
    """
    start = time.monotonic()
    value = task(*args)
    return {"told": value, "device": _device_name(), "seconds": round(time.monotonic() - start, 3)}


def encoder_properties(setting: str) -> dict[str, Any]:
    """What an encoder is, for those who use it from afar."""
    encoder = _load_encoder(setting)
    return {
        "id": encoder.id,
        "name": encoder.name,
        "dim": encoder.dim,
        "has_text": encoder.has_text,
        "logit_scale": encoder.logit_scale,
        "logit_bias": encoder.logit_bias,
    }


def encode_packed_images(setting: str, images: Sequence[bytes]) -> bytes:
    """Images → vectors, see ``parcels.vector_bytes``."""
    vectors = _load_encoder(setting).encode_images(
        [serialization.decode_image(image) for image in images]
    )
    return serialization.encode_vectors(vectors)


def encode_text_batch(setting: str, texts: Sequence[str]) -> bytes:
    """Texts → vectors."""
    return serialization.encode_vectors(_load_encoder(setting).encode_texts(list(texts)))


def detect_packed_images(
    network_key: str,
    size: int,
    jobs_folder: Path,
    images: Sequence[bytes],
    min_confidence: float,
    reload: Callable[[], None],
) -> bytes | None:
    """What a network finds in images, see ``parcels.found_bytes``.

    Args:
        network_key: its key.
        size: pixels of its input.
        jobs_folder: the folder.
        images: packed.
        min_confidence: confidence below which nothing is reported, 0 to 1.
        reload: sees what came into the folder since.

    Returns:
        the finds; None where the network is not there.
    """
    folder = jobs_folder / "networks" / network_key
    if not (folder / DONE_FILENAME).exists():
        reload()
    if not (folder / DONE_FILENAME).exists():
        return None
    detector = _load_detector(network_key, size, folder)
    return serialization.encode_detections(
        detector.detect([serialization.decode_image(i) for i in images], min_confidence)
    )


def _read_completion(folder: Path) -> dict[str, Any] | None:
    """What an order that is done told; None where it is not, or its result is damaged."""
    try:
        completion: dict[str, Any] = json.loads(
            (folder / DONE_FILENAME).read_text(encoding="utf-8")
        )
        serialization.verify_files(serialization.read_files(folder / "result"), completion["files"])
    except (OSError, ValueError, KeyError, serialization.DamagedResultError):
        return None
    return completion


def _run_head_order(
    order: Mapping[str, Any],
    folder: Path,
    jobs_folder: Path,
    output_folder: Path,
    report_progress: ProgressCallback,
) -> None:
    from backend.training.head import train_head as fit
    from backend.vision.heads.head import load_head, save_head

    report_progress(0, 1)
    previous_folder = folder / "previous"
    previous = load_head(previous_folder) if previous_folder.is_dir() else None
    head = fit(serialization.decode_head_job(order, (folder / "arrays.npz").read_bytes(), previous))
    if head is not None:
        save_head(head, output_folder)
    report_progress(1, 1)


def _run_detector_order(
    order: Mapping[str, Any],
    folder: Path,
    jobs_folder: Path,
    output_folder: Path,
    report_progress: ProgressCallback,
) -> None:
    from backend.inference.model import control_from_json
    from backend.training.detector import DetectorTrainingJob, train_detector
    from backend.vision.detection.base_weights import choose_base_weights
    from backend.vision.detection.network import load_base_network
    from backend.vision.detection.trained_detector import load_trained_detector

    resources = _resources()
    previous_folder, weights_folder = folder / "previous", jobs_folder / "weights"
    base = choose_base_weights(
        str(_resolve_base(order["base"], weights_folder)), resources.weights_folder, log.info
    )
    trained_detector = train_detector(
        DetectorTrainingJob(
            control=control_from_json(order["control"]),
            samples=[_decode_sample(row, jobs_folder) for row in order["samples"]],
            base_network=load_base_network(base.path),
            previous=load_trained_detector(previous_folder, resources.load_network_runner)
            if previous_folder.is_dir()
            else None,
            input_size=order["size"],
            max_seconds=order["seconds"],
            seed=order["seed"],
            load_runner=resources.load_network_runner,
            prompts=None,
            report=report_progress,
            cancelled=lambda: False,
        )
    )
    if trained_detector is not None:
        trained_detector.save(output_folder)


def _resolve_base(base: str, weights: Path) -> str | Path:
    """A setting; a file where the order brought one along."""
    return weights / base if (weights / base).is_file() else base


def _decode_sample(row: Mapping[str, Any], jobs_folder: Path) -> RegionSample:
    from backend.inference.detections import RegionSample

    return RegionSample(
        task_id=row["task"],
        load_image=partial(_read_order_image, row["digest"], jobs_folder),
        size=serialization.decode_size(row["size"]),
        regions=serialization.decode_regions(row["places"]),
        other_boxes=serialization.decode_regions(row["boxes"]),
        digest=row["digest"],
    )


def _read_order_image(digest: str, jobs_folder: Path) -> Any:
    from backend.errors import RoundError
    from backend.store.image_copies import ImageCopies

    image = ImageCopies(jobs_folder / "pictures").get(digest)
    if image is None:
        raise RoundError(f"The image {digest[:12]} did not arrive: train again.")
    return image


@cache
def _resources() -> Resources:

    from backend.runtime.resources import Resources

    return Resources(read_settings())


def _load_encoder(setting: str) -> Encoder:
    return _resources().encoder(setting)


@cache
def _load_detector(key: str, size: int, folder: Path) -> NetworkRunner:
    from backend.vision.detection.network import load_network

    return _resources().load_network_runner(load_network(folder), size, key)


def _device_name() -> str:
    from backend.vision.batching import detect_device

    if detect_device() != "cuda":
        return "CPU"
    import torch

    return str(torch.cuda.get_device_name())
