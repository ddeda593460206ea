"""What travels between machines: orders, images, results with their hashes. No pickle of ours."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.arrays import Floats
from backend.domain import ImageSize, Region, Regions
from backend.errors import StoreError

if TYPE_CHECKING:
    from PIL import Image

    from backend.inference.detections import RegionSample
    from backend.training.detector import DetectorTrainingJob
    from backend.training.head import HeadTrainingJob
    from backend.vision.detection.detections import Detections

FileContents = dict[str, bytes]
JPEG_QUALITY = 95
LOSSLESS_BELOW_PIXELS = 320
"""Pixels of the longer edge below which images travel without loss."""


class DamagedResultError(StoreError):
    """What came back is not what was made."""


# -- files ----------------------------------------------------------------------------------


def read_files(folder: Path) -> FileContents:
    """All files of a folder, by name."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file()}


def write_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files into a folder that is there."""
    for name, content in files.items():
        (folder / Path(name).name).write_bytes(content)


def file_hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 by name."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def verify_files(files: Mapping[str, bytes], expected_hashes: Mapping[str, str]) -> None:
    """Make sure that files are those that were made.

    Raises:
        DamagedResultError: one is missing or differs.
    """
    if file_hashes(files) != dict(expected_hashes):
        mismatched = sorted(
            filename
            for filename in files.keys() | expected_hashes.keys()
            if _is_mismatched(filename, files, expected_hashes)
        )
        raise DamagedResultError(
            f"The training's result is not what was made ({', '.join(mismatched)}): it is thrown away; "
            "train again."
        )


def _is_mismatched(
    name: str, files: Mapping[str, bytes], expected_hashes: Mapping[str, str]
) -> bool:
    content = files.get(name)
    return content is None or hashlib.sha256(content).hexdigest() != expected_hashes.get(name)


def compute_order_id(order: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    """Tells an order from all others: the same one is not done twice."""
    text = json.dumps([order, file_hashes(files)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


# -- controls and samples -------------------------------------------------------------------


def encode_sample(sample: RegionSample) -> dict[str, Any]:
    """A sample as JSON; its image travels by its hash."""
    return {
        "task": sample.task_id,
        "digest": sample.digest,
        "size": [sample.size.width, sample.size.height],
        "places": _encode_regions(sample.regions),
        "boxes": _encode_regions(sample.other_boxes),
    }


def encode_detector_job(job: DetectorTrainingJob, base_setting: str) -> dict[str, Any]:
    """A job of boxes or points as JSON: the labels it learns from, not the audit slice.

    Args:
        job: the job.
        base_setting: the setting that leads to the network to start from, there.
    """
    return {
        "kind": "finder",
        "control": asdict(job.control),
        "samples": [encode_sample(sample) for sample in job.samples if not sample.is_audit],
        "base": base_setting,
        "size": job.input_size,
        "seconds": job.max_seconds,
        "seed": job.seed,
    }


def decode_regions(rows: Sequence[Sequence[Any]]) -> Regions:
    """Places that travelled as JSON."""
    return tuple(Region(str(row[0]), *map(float, row[1:])) for row in rows)


def decode_size(row: Sequence[int]) -> ImageSize:
    """A size that travelled as JSON."""
    return ImageSize(int(row[0]), int(row[1]))


def _encode_regions(regions: Regions) -> list[list[Any]]:
    return [[region.label, region.x0, region.y0, region.x1, region.y1] for region in regions]


# -- heads ----------------------------------------------------------------------------------


def encode_head_job(job: HeadTrainingJob) -> tuple[dict[str, Any], FileContents]:
    """A job of choices: JSON, and its arrays as one file."""
    examples = job.examples
    order = {
        "kind": "head",
        "control": asdict(job.control),
        "tasks": list(examples.task_ids),
        "answers": [sorted(label_set) for label_set in examples.answers],
        "asked": [sorted(asked_labels) for asked_labels in examples.available_labels],
        "logit_scale": job.logit_scale,
        "logit_bias": job.logit_bias,
        "seed": job.seed,
    }
    arrays = {"vectors": examples.vectors, "audit": examples.audit_mask, "pool": job.pool}
    if job.prototypes is not None:
        arrays["prototypes"] = job.prototypes
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return order, {"arrays.npz": buffer.getvalue()}


def decode_head_job(order: Mapping[str, Any], arrays: bytes, previous: Any) -> HeadTrainingJob:
    """The job of :func:`encode_head_job`."""
    from backend.inference.model import control_from_json
    from backend.training.head import ChoiceExamples, HeadTrainingJob

    with np.load(io.BytesIO(arrays), allow_pickle=False) as archive:
        loaded_arrays = {name: archive[name] for name in archive.files}
    examples = ChoiceExamples(
        tuple(order["tasks"]),
        loaded_arrays["vectors"],
        tuple(map(frozenset, order["answers"])),
        tuple(map(frozenset, order["asked"])),
        loaded_arrays["audit"],
    )
    return HeadTrainingJob(
        control=control_from_json(order["control"]),
        examples=examples,
        pool=loaded_arrays["pool"],
        prototypes=loaded_arrays.get("prototypes"),
        logit_scale=order["logit_scale"],
        logit_bias=order["logit_bias"],
        previous=previous,
        seed=order["seed"],
    )


# -- images and what is found in them ------------------------------------------------------


def encode_image(image: Image.Image) -> bytes:
    """An image for the way: as it is, or nearly."""
    buffer = io.BytesIO()
    if max(image.size) < LOSSLESS_BELOW_PIXELS:
        image.save(buffer, "PNG")  # JPEG would show its blocks
    else:
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def decode_image(content: bytes) -> Image.Image:
    """An image that came."""
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
        return image.convert("RGB")


def encode_detections(detections: Sequence[Detections]) -> bytes:
    """What was found in some images, as one file."""
    buffer = io.BytesIO()
    np.savez(
        buffer,
        counts=np.array([len(found) for found in detections], dtype=np.int64),
        boxes=np.concatenate([f.boxes.reshape(-1, 4) for f in detections]).astype(np.float32),
        confidence=np.concatenate([f.confidence for f in detections]).astype(np.float32),
        labels=np.concatenate([f.labels for f in detections]).astype(np.int64),
    )
    return buffer.getvalue()


def decode_detections(content: bytes) -> list[Detections]:
    """What :func:`encode_detections` wrote."""
    from backend.vision.detection.detections import Detections

    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        ends = np.cumsum(archive["counts"])[:-1]
        columns = [np.split(archive[name], ends) for name in ("boxes", "confidence", "labels")]
    return [Detections(*row) for row in zip(*columns, strict=True)]


def encode_vectors(vectors: Floats) -> bytes:
    """Rows of float32, with their shape."""
    buffer = io.BytesIO()
    np.save(buffer, vectors.astype(np.float32))
    return buffer.getvalue()


def decode_vectors(content: bytes) -> Floats:
    """What :func:`encode_vectors` wrote."""
    return np.asarray(np.load(io.BytesIO(content), allow_pickle=False), dtype=np.float32)
