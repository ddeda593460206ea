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
    from backend.inference.detections import Sample
    from backend.runtime.resources import Resources
    from backend.vision.detection.network_runner import Detector
    from backend.vision.encoders.base import Encoder

log = logging.getLogger("prelabel")
DONE = "done.json"


def train(
    id: str, root: Path, tell: ProgressCallback, commit: Callable[[], None], call: str = ""
) -> dict[str, Any]:
    """Carry out an order; one that is done already is not done again.

    The result is written to a temporary name, committed, renamed, and marked done last: whoever
    retries finds all of it or nothing.

    Args:
        id: of the order.
        root: the folder.
        tell: told (done, of) of the training's steps.
        commit: makes what was written last, and visible elsewhere.
        call: tells attempts of one call from those of others.

    Returns:
        ``{"files": {name: SHA-256}, "device", "seconds", "again"}``; no files where nothing could
        be made; ``seconds`` are those of all attempts, ``again`` whether another call did it.
        ``{"error": {"kind", "text"}, "device", "seconds"}`` where it would fail again the same way.

    Raises:
        RuntimeError: it broke for a reason that another attempt may not meet.
    """
    folder = root / "orders" / id
    done = _done(folder)
    if done is not None:
        return {**done, "again": done.get("call") != call}
    begun = _begun(folder, call, commit)
    try:
        files = _made(folder, root, _unfailing(tell))
    except PrelabelError as error:
        return {"error": {"kind": type(error).__name__, "text": str(error)}, **_took(begun)}
    except Exception as error:  # not as it is: its class may be one of the client's own
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
    half = folder / "result.partial"
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir()
    serialization.write_files(files, half)
    commit()
    shutil.rmtree(folder / "result", ignore_errors=True)
    half.rename(folder / "result")
    told = {"files": serialization.hashes(files), "call": call, **_took(begun)}
    (folder / DONE).write_text(json.dumps(told), encoding="utf-8")
    commit()
    return {**told, "again": False}


def _made(folder: Path, root: Path, tell: ProgressCallback) -> serialization.Files:
    """The files that an order asks for."""
    order = json.loads((folder / "order.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as made:
        work = _head if order["kind"] == "head" else _finder
        work(order, folder, root, Path(made), tell)
        return serialization.read_files(Path(made))


def _begun(folder: Path, call: str, commit: Callable[[], None]) -> float:
    """When the first attempt of a call began, seconds since 1970."""
    file = folder / "begun.json"
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(file.read_text(encoding="utf-8"))
        if known["call"] == call:
            return float(known["at"])
    now = time.time()
    file.write_text(json.dumps({"call": call, "at": now}), encoding="utf-8")
    commit()
    return now


def _took(begun: float) -> dict[str, Any]:
    return {"device": _device(), "seconds": round(max(0.0, time.time() - begun), 3)}


def _unfailing(tell: ProgressCallback) -> ProgressCallback:
    """A training goes on where nobody can be told how far it is."""

    def told(done: int, of: int) -> None:
        try:
            tell(done, of)
        except Exception as error:
            log.warning("the progress cannot be told: %s", error)

    return told


def timed(look: Callable[..., Any], *given: Any) -> dict[str, Any]:
    """Look at something, and say what it took: ``{"told", "device", "seconds"}``.

    Args:
        look: one of the functions below.
        given: what it is given.
    """
    start = time.monotonic()
    told = look(*given)
    return {"told": told, "device": _device(), "seconds": round(time.monotonic() - start, 3)}


def facts(setting: str) -> dict[str, Any]:
    """What an encoder is, for those who use it from afar."""
    encoder = _encoder(setting)
    return {
        "id": encoder.id,
        "name": encoder.name,
        "dim": encoder.dim,
        "has_text": encoder.has_text,
        "logit_scale": encoder.logit_scale,
        "logit_bias": encoder.logit_bias,
    }


def encode(setting: str, images: Sequence[bytes]) -> bytes:
    """Images → vectors, see ``parcels.vector_bytes``."""
    vectors = _encoder(setting).encode_images([serialization.unpacked(image) for image in images])
    return serialization.vector_bytes(vectors)


def encode_texts(setting: str, texts: Sequence[str]) -> bytes:
    """Texts → vectors."""
    return serialization.vector_bytes(_encoder(setting).encode_texts(list(texts)))


def detect(
    network: str,
    size: int,
    root: Path,
    images: Sequence[bytes],
    least: float,
    reload: Callable[[], None],
) -> bytes | None:
    """What a network finds in images, see ``parcels.found_bytes``.

    Args:
        network: its key.
        size: pixels of its input.
        root: the folder.
        images: packed.
        least: confidence below which nothing is reported, 0 to 1.
        reload: sees what came into the folder since.

    Returns:
        the finds; None where the network is not there.
    """
    folder = root / "networks" / network
    if not (folder / DONE).exists():
        reload()
    if not (folder / DONE).exists():
        return None
    detector = _detector(network, size, folder)
    return serialization.found_bytes(
        detector.detect([serialization.unpacked(i) for i in images], least)
    )


def _done(folder: Path) -> dict[str, Any] | None:
    """What an order that is done told; None where it is not, or its result is damaged."""
    try:
        told: dict[str, Any] = json.loads((folder / DONE).read_text(encoding="utf-8"))
        serialization.check(serialization.read_files(folder / "result"), told["files"])
    except (OSError, ValueError, KeyError, serialization.Damaged):
        return None
    return told


def _head(
    order: Mapping[str, Any], folder: Path, root: Path, made: Path, tell: ProgressCallback
) -> None:
    from backend.training.head import train as fit
    from backend.vision.heads.head import load_head, save_head

    tell(0, 1)
    before = folder / "previous"
    previous = load_head(before) if before.is_dir() else None
    head = fit(serialization.head_job(order, (folder / "arrays.npz").read_bytes(), previous))
    if head is not None:
        save_head(head, made)
    tell(1, 1)


def _finder(
    order: Mapping[str, Any], folder: Path, root: Path, made: Path, tell: ProgressCallback
) -> None:
    from backend.inference.model import control_of
    from backend.training.detector import FindingJob, train_finder
    from backend.vision.detection.base_weights import choose_base
    from backend.vision.detection.network import load_base
    from backend.vision.detection.trained_detector import load_finder

    resources = _resources()
    before, weights = folder / "previous", root / "weights"
    base = choose_base(str(_local(order["base"], weights)), resources.weights, log.info)
    finder = train_finder(
        FindingJob(
            control=control_of(order["control"]),
            samples=[_sample(row, root) for row in order["samples"]],
            base=load_base(base.path),
            previous=load_finder(before, resources.load_detector) if before.is_dir() else None,
            size=order["size"],
            seconds=order["seconds"],
            seed=order["seed"],
            load=resources.load_detector,
            prompts=None,
            report=tell,
            cancelled=lambda: False,
        )
    )
    if finder is not None:
        finder.save(made)


def _local(base: str, weights: Path) -> str | Path:
    """A setting; a file where the order brought one along."""
    return weights / base if (weights / base).is_file() else base


def _sample(row: Mapping[str, Any], root: Path) -> Sample:
    from backend.inference.detections import Sample

    return Sample(
        task=row["task"],
        read=partial(_picture, row["digest"], root),
        size=serialization.size_of(row["size"]),
        places=serialization.places_of(row["places"]),
        boxes=serialization.places_of(row["boxes"]),
        digest=row["digest"],
    )


def _picture(digest: str, root: Path) -> Any:
    from backend.errors import RoundError
    from backend.store.image_copies import PictureFiles

    image = PictureFiles(root / "pictures").get(digest)
    if image is None:
        raise RoundError(f"The image {digest[:12]} did not arrive: train again.")
    return image


@cache
def _resources() -> Resources:

    from backend.runtime.resources import Resources

    return Resources(read_settings())


def _encoder(setting: str) -> Encoder:
    return _resources().encoder(setting)


@cache
def _detector(key: str, size: int, folder: Path) -> Detector:
    from backend.vision.detection.network import load_network

    return _resources().load_detector(load_network(folder), size, key)


def _device() -> str:
    from backend.vision.batching import device_here

    if device_here() != "cuda":
        return "CPU"
    import torch

    return str(torch.cuda.get_device_name())
