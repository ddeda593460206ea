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
from backend.domain import ImageSize, Place, Places
from backend.errors import StoreError

if TYPE_CHECKING:
    from PIL import Image

    from backend.inference.detections import Sample
    from backend.training.detector import FindingJob
    from backend.training.head import TrainingJob
    from backend.vision.detection.detections import Found

Files = dict[str, bytes]
QUALITY = 95
SMALL = 320
"""Pixels of the longer edge below which images travel without loss."""


class Damaged(StoreError):
    """What came back is not what was made."""


# -- files ----------------------------------------------------------------------------------


def read_files(folder: Path) -> Files:
    """All files of a folder, by name."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file()}


def write_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files into a folder that is there."""
    for name, content in files.items():
        (folder / Path(name).name).write_bytes(content)


def hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 by name."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def check(files: Mapping[str, bytes], wanted: Mapping[str, str]) -> None:
    """Make sure that files are those that were made.

    Raises:
        Damaged: one is missing or differs.
    """
    if hashes(files) != dict(wanted):
        wrong = sorted(k for k in files.keys() | wanted.keys() if _differs(k, files, wanted))
        raise Damaged(
            f"The training's result is not what was made ({', '.join(wrong)}): it is thrown away; "
            "train again."
        )


def _differs(name: str, files: Mapping[str, bytes], wanted: Mapping[str, str]) -> bool:
    content = files.get(name)
    return content is None or hashlib.sha256(content).hexdigest() != wanted.get(name)


def identity(order: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    """Tells an order from all others: the same one is not done twice."""
    text = json.dumps([order, hashes(files)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


# -- controls and samples -------------------------------------------------------------------


def sample_row(sample: Sample) -> dict[str, Any]:
    """A sample as JSON; its image travels by its hash."""
    return {
        "task": sample.task,
        "digest": sample.digest,
        "size": [sample.size.width, sample.size.height],
        "places": _rows(sample.places),
        "boxes": _rows(sample.boxes),
    }


def finding_order(job: FindingJob, base: str) -> dict[str, Any]:
    """A job of boxes or points as JSON: the labels it learns from, not the audit slice.

    Args:
        job: the job.
        base: the setting that leads to the network to start from, there.
    """
    return {
        "kind": "finder",
        "control": asdict(job.control),
        "samples": [sample_row(sample) for sample in job.samples if not sample.audit],
        "base": base,
        "size": job.size,
        "seconds": job.seconds,
        "seed": job.seed,
    }


def places_of(rows: Sequence[Sequence[Any]]) -> Places:
    """Places that travelled as JSON."""
    return tuple(Place(str(row[0]), *map(float, row[1:])) for row in rows)


def size_of(row: Sequence[int]) -> ImageSize:
    """A size that travelled as JSON."""
    return ImageSize(int(row[0]), int(row[1]))


def _rows(places: Places) -> list[list[Any]]:
    return [[p.label, p.x0, p.y0, p.x1, p.y1] for p in places]


# -- heads ----------------------------------------------------------------------------------


def head_order(job: TrainingJob) -> tuple[dict[str, Any], Files]:
    """A job of choices: JSON, and its arrays as one file."""
    examples = job.examples
    order = {
        "kind": "head",
        "control": asdict(job.control),
        "tasks": list(examples.tasks),
        "answers": [sorted(answer) for answer in examples.answers],
        "asked": [sorted(asked) for asked in examples.asked],
        "logit_scale": job.logit_scale,
        "logit_bias": job.logit_bias,
        "seed": job.seed,
    }
    arrays = {"vectors": examples.vectors, "audit": examples.audit, "pool": job.pool}
    if job.prototypes is not None:
        arrays["prototypes"] = job.prototypes
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return order, {"arrays.npz": file.getvalue()}


def head_job(order: Mapping[str, Any], arrays: bytes, previous: Any) -> TrainingJob:
    """The job of :func:`head_order`."""
    from backend.inference.model import control_of
    from backend.training.head import Examples, TrainingJob

    with np.load(io.BytesIO(arrays), allow_pickle=False) as held:
        found = {name: held[name] for name in held.files}
    examples = Examples(
        tuple(order["tasks"]),
        found["vectors"],
        tuple(map(frozenset, order["answers"])),
        tuple(map(frozenset, order["asked"])),
        found["audit"],
    )
    return TrainingJob(
        control=control_of(order["control"]),
        examples=examples,
        pool=found["pool"],
        prototypes=found.get("prototypes"),
        logit_scale=order["logit_scale"],
        logit_bias=order["logit_bias"],
        previous=previous,
        seed=order["seed"],
    )


# -- images and what is found in them ------------------------------------------------------


def packed(image: Image.Image) -> bytes:
    """An image for the way: as it is, or nearly."""
    file = io.BytesIO()
    if max(image.size) < SMALL:
        image.save(file, "PNG")  # JPEG would show its blocks
    else:
        image.save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()


def unpacked(content: bytes) -> Image.Image:
    """An image that came."""
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
        return image.convert("RGB")


def found_bytes(all_found: Sequence[Found]) -> bytes:
    """What was found in some images, as one file."""
    file = io.BytesIO()
    np.savez(
        file,
        counts=np.array([len(found) for found in all_found], dtype=np.int64),
        boxes=np.concatenate([f.boxes.reshape(-1, 4) for f in all_found]).astype(np.float32),
        confidence=np.concatenate([f.confidence for f in all_found]).astype(np.float32),
        labels=np.concatenate([f.labels for f in all_found]).astype(np.int64),
    )
    return file.getvalue()


def found_of(content: bytes) -> list[Found]:
    """What :func:`found_bytes` wrote."""
    from backend.vision.detection.detections import Found

    with np.load(io.BytesIO(content), allow_pickle=False) as held:
        ends = np.cumsum(held["counts"])[:-1]
        columns = [np.split(held[name], ends) for name in ("boxes", "confidence", "labels")]
    return [Found(*row) for row in zip(*columns, strict=True)]


def vector_bytes(vectors: Floats) -> bytes:
    """Rows of float32, with their shape."""
    file = io.BytesIO()
    np.save(file, vectors.astype(np.float32))
    return file.getvalue()


def vectors_of(content: bytes) -> Floats:
    """What :func:`vector_bytes` wrote."""
    return np.asarray(np.load(io.BytesIO(content), allow_pickle=False), dtype=np.float32)
