"""Serialize the data that is exchanged with Modal: training orders, results, images and arrays.

A training order is a serialized training job. Orders and results are JSON, arrays are npz, images
are PNG or JPEG; nothing is pickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Generic, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from backend.arrays import Floats
from backend.domain import Control, ImageSize, Regions
from backend.errors import StoreError

if TYPE_CHECKING:
    from PIL import Image

    from backend.training.detector import DetectorTrainingJob
    from backend.training.head import HeadTrainingJob
    from backend.vision.detection.detections import Detections
    from backend.vision.heads.head import Head

T = TypeVar("T")
FileContents = dict[str, bytes]
"""File contents by name."""
JPEG_QUALITY = 95
LOSSLESS_BELOW_PIXELS = 320
"""Images whose longest edge is shorter are sent as PNG, because JPEG artifacts would be visible."""
ARRAYS_FILENAME = "arrays.npz"


class DamagedResultError(StoreError):
    """A downloaded training result does not match its hashes."""


# -- orders and results ---------------------------------------------------------------------


class SampleRow(BaseModel):
    """The fields of a :class:`RegionSample`; its image is uploaded separately, by digest."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    task_id: int
    digest: str
    size: ImageSize
    regions: Regions
    other_boxes: Regions


class HeadOrder(BaseModel):
    """An order to fit the head of one control; its arrays are in a separate file."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["head"] = "head"
    control: Control
    tasks: tuple[int, ...]
    answers: tuple[tuple[str, ...], ...]
    asked: tuple[tuple[str, ...], ...]
    logit_scale: float
    logit_bias: float
    seed: int


class DetectorOrder(BaseModel):
    """An order to fine-tune the detector of one control.

    Attributes:
        base: setting of the network to fine-tune, on the training machine.
        size: input size of the network in pixels; 0 to choose it from the images.
        seconds: time limit of the training.
    """

    model_config = ConfigDict(frozen=True)

    kind: Literal["finder"] = "finder"
    control: Control
    samples: tuple[SampleRow, ...]
    base: str
    size: int
    seconds: float
    seed: int


TrainingOrder = HeadOrder | DetectorOrder
ORDER_ADAPTER: TypeAdapter[TrainingOrder] = TypeAdapter(
    Annotated[TrainingOrder, Field(discriminator="kind")]
)


class RemoteError(BaseModel):
    """An error of the training: the name of its class, and its message."""

    kind: str
    text: str


class TrainingResult(BaseModel):
    """The result of a training call on Modal.

    Attributes:
        device: name of the GPU, or ``CPU``.
        seconds: duration of all attempts of the call.
        files: SHA-256 of each result file by name; empty if there was nothing to train.
        call: id of the Modal call that ran the training.
        again: whether an earlier call had already run this order.
        error: an error that a retry cannot fix.
    """

    model_config = ConfigDict(frozen=True)

    device: str
    seconds: float
    files: dict[str, str] = {}
    call: str = ""
    again: bool = False
    error: RemoteError | None = None


@dataclass(frozen=True)
class TimedResult(Generic[T]):
    """The result of a batch inference call, with the device and the duration."""

    value: T
    device: str
    seconds: float


@dataclass
class EncoderProperties:
    """The attributes of :class:`backend.vision.encoders.base.Encoder`."""

    id: str
    name: str
    dim: int
    has_text: bool
    logit_scale: float
    logit_bias: float


def compute_order_id(order: TrainingOrder, files: Mapping[str, bytes]) -> str:
    """Return the hash of an order's content, so that equal orders are trained once."""
    text = json.dumps([order.model_dump(mode="json"), file_hashes(files)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


# -- files ----------------------------------------------------------------------------------


def read_files(folder: Path) -> FileContents:
    """Return the contents of all files in a folder, by name."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file()}


def write_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files into an existing folder."""
    for name, content in files.items():
        (folder / Path(name).name).write_bytes(content)


def dump_files(save: Callable[[Path], object]) -> FileContents:
    """Return the files that ``save`` writes into a folder."""
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        return read_files(Path(folder))


def load_files(files: Mapping[str, bytes], load: Callable[[Path], T]) -> T:
    """Return what ``load`` reads from a folder that contains the files."""
    with tempfile.TemporaryDirectory() as folder:
        write_files(files, Path(folder))
        return load(Path(folder))


def file_hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the SHA-256 of each file by name."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def verify_files(files: Mapping[str, bytes], expected_hashes: Mapping[str, str]) -> None:
    """Check files against their hashes.

    Raises:
        DamagedResultError: a file is missing, unexpected or different.
    """
    hashes = file_hashes(files)
    names = sorted(hashes.keys() | expected_hashes.keys())
    damaged = [name for name in names if hashes.get(name) != expected_hashes.get(name)]
    if damaged:
        raise DamagedResultError(
            f"The training result was damaged during transfer ({', '.join(damaged)}) and is "
            "discarded: train again."
        )


# -- training jobs --------------------------------------------------------------------------


def encode_detector_job(job: DetectorTrainingJob, base_setting: str) -> DetectorOrder:
    """Return a detector job as an order, without its audit samples.

    Args:
        job: the job.
        base_setting: setting of the network to fine-tune, on the training machine.
    """
    return DetectorOrder(
        control=job.control,
        samples=tuple(SampleRow.model_validate(s) for s in job.samples if not s.is_audit),
        base=base_setting,
        size=job.input_size,
        seconds=job.max_seconds,
        seed=job.seed,
    )


def encode_head_job(job: HeadTrainingJob) -> tuple[HeadOrder, FileContents]:
    """Return a head job as an order and a file with its arrays."""
    examples = job.examples
    order = HeadOrder(
        control=job.control,
        tasks=examples.task_ids,
        answers=tuple(tuple(sorted(labels)) for labels in examples.answers),
        asked=tuple(tuple(sorted(labels)) for labels in examples.available_labels),
        logit_scale=job.logit_scale,
        logit_bias=job.logit_bias,
        seed=job.seed,
    )
    arrays = {"vectors": examples.vectors, "audit": examples.audit_mask, "pool": job.pool}
    if job.prototypes is not None:
        arrays["prototypes"] = job.prototypes
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return order, {ARRAYS_FILENAME: buffer.getvalue()}


def decode_head_job(order: HeadOrder, arrays: bytes, previous: Head | None) -> HeadTrainingJob:
    """Return the job that :func:`encode_head_job` encoded."""
    from backend.training.head import ChoiceExamples, HeadTrainingJob

    with np.load(io.BytesIO(arrays), allow_pickle=False) as archive:
        loaded = {name: archive[name] for name in archive.files}
    examples = ChoiceExamples(
        order.tasks,
        loaded["vectors"],
        tuple(map(frozenset, order.answers)),
        tuple(map(frozenset, order.asked)),
        loaded["audit"],
    )
    return HeadTrainingJob(
        control=order.control,
        examples=examples,
        pool=loaded["pool"],
        prototypes=loaded.get("prototypes"),
        logit_scale=order.logit_scale,
        logit_bias=order.logit_bias,
        previous=previous,
        seed=order.seed,
    )


# -- images, embeddings and detections ------------------------------------------------------


def encode_image(image: Image.Image) -> bytes:
    """Return an image as PNG, or as JPEG of quality 95 if it is large."""
    buffer = io.BytesIO()
    if max(image.size) < LOSSLESS_BELOW_PIXELS:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def decode_image(content: bytes) -> Image.Image:
    """Return the RGB image that :func:`encode_image` encoded."""
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
        return image.convert("RGB")


def encode_detections(detections: Sequence[Detections]) -> bytes:
    """Return the detections of several images as one npz file."""
    buffer = io.BytesIO()
    np.savez(
        buffer,
        counts=np.array([len(of_image) for of_image in detections], dtype=np.int64),
        boxes=np.concatenate([d.boxes.reshape(-1, 4) for d in detections]).astype(np.float32),
        confidence=np.concatenate([d.confidence for d in detections]).astype(np.float32),
        labels=np.concatenate([d.labels for d in detections]).astype(np.int64),
    )
    return buffer.getvalue()


def decode_detections(content: bytes) -> list[Detections]:
    """Return the detections that :func:`encode_detections` encoded, one entry per image."""
    from backend.vision.detection.detections import Detections

    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        ends = np.cumsum(archive["counts"])[:-1]
        columns = [np.split(archive[name], ends) for name in ("boxes", "confidence", "labels")]
    return [Detections(*row) for row in zip(*columns, strict=True)]


def encode_vectors(vectors: Floats) -> bytes:
    """Return an (n, d) array as an npy file of float32."""
    buffer = io.BytesIO()
    np.save(buffer, vectors.astype(np.float32))
    return buffer.getvalue()


def decode_vectors(content: bytes) -> Floats:
    """Return the array that :func:`encode_vectors` encoded."""
    return np.asarray(np.load(io.BytesIO(content), allow_pickle=False), dtype=np.float32)
