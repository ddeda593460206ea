"""This machine: its home folder, the weights, and the way to Modal where that computes."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

from backend.bootstrap import greet
from backend.doctor.check_result import Line, bad, good, unknown
from backend.errors import (
    DetectorError,
    EncoderError,
    PrelabelError,
    RoundError,
    StoreError,
    UsageError,
)
from backend.runtime.resources import Resources
from backend.settings import MODAL, Settings
from backend.store.files import writable
from backend.store.projects import ProjectRecord

ENOUGH = 1_000_000_000
"""Bytes that must be free: a few versions, and copies of images."""
MEGA = 1_000_000
Free = Callable[[Path], int]
ENCODERS = "set PRELABEL_ENCODER=auto or builtin, or to weights that are there"
DETECTORS = "set PRELABEL_DETECTOR=auto or builtin, or to weights that are there"
MODAL_TOKEN = "`modal token new`, or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET"  # noqa: S105
ANOTHER = "set PRELABEL_HOME to a folder of your own"


def free_bytes(folder: Path) -> int:
    """What is left on a folder's disk."""
    return shutil.disk_usage(folder).free


def home(settings: Settings) -> Line:
    """Whether what lasts can be written."""
    try:
        writable(settings.home)
    except StoreError as error:
        return bad("home", str(error), ANOTHER)
    return good("home", f"{settings.home} can be written")


def disk(settings: Settings, free: Free) -> Line:
    """Whether there is space for what is to come."""
    place = next((p for p in (settings.home, *settings.home.parents) if p.exists()), Path("/"))
    left = free(place)
    seen = f"{left / MEGA:,.0f} MB are free at {place}"
    if left < ENOUGH:
        cure = f"free {(ENOUGH - left) / MEGA:,.0f} MB, or set PRELABEL_HOME to a larger disk"
        return bad("disk", seen, cure)
    return good("disk", seen)


def weights(resources: Resources, record: ProjectRecord, version: str) -> Line:
    """Whether the live version can be loaded."""
    check = "weights"
    try:
        model = resources.model(record, version)
    except PrelabelError as error:
        cure = f"`prelabel rollback {record.id}` to the version before, or `prelabel train`"
        return bad(check, str(error), cure)
    answers = [*model.heads, *model.finders]
    return good(
        check, f"{version} can be loaded, and answers {', '.join(answers) or 'nothing yet'}"
    )


def encoder(resources: Resources, setting: str) -> Line:
    """Whether images can be embedded. Nothing is downloaded for it.

    Args:
        resources: of this process.
        setting: ``PRELABEL_ENCODER``, or what the live version was made by.
    """
    from backend.vision.encoders.base import noise
    from backend.vision.encoders.load import here
    from backend.vision.hub import why_not_asked

    check, folder = "encoder", resources.weights
    if resources.settings.compute == MODAL:
        return unknown(check, "not needed here, images are embedded on Modal")
    try:
        if not here(setting, folder):
            why_not = why_not_asked()
            if not why_not:
                return unknown(check, f"the weights of {setting} are fetched at first use")
            if setting != "auto":
                return bad(check, f"the weights of {setting} are not here, and {why_not}", ENCODERS)
        found = resources.encoder(setting)
        vectors = found.encode_images([noise()])
    except EncoderError as error:
        return bad(check, str(error), ENCODERS)
    chosen = f", which takes {found.name}," if setting == "auto" else ""
    return good(check, f"{setting}{chosen} gives {vectors.shape[1]} numbers an image")


def detector(resources: Resources) -> Line:
    """Whether there is something to fine-tune from. Nothing is downloaded for it."""
    from backend.vision.detection.base_weights import HOME
    from backend.vision.detection.network import DEFAULT, NOTHING, find_base, load_base
    from backend.vision.hub import answers

    check, folder = "detector", resources.weights
    if resources.settings.compute == MODAL:
        return unknown(check, "not needed here, networks are trained on Modal")
    setting = resources.settings.detector
    try:
        file = find_base(DEFAULT if setting == "auto" else setting, folder, download=False)
        if file is not None:
            load_base(file)
            named = "the builtin network" if setting == NOTHING else file.name
            return good(check, f"{named} can be loaded")
    except DetectorError as error:
        return bad(check, str(error), DETECTORS)
    if answers(HOME):
        return unknown(
            check, f"{DEFAULT if setting == 'auto' else setting} is fetched at first use"
        )
    if setting == "auto":
        return unknown(check, f"a small network from nothing; better: put {DEFAULT} into {folder}")
    return bad(check, f"{setting} is not here, and {HOME} does not answer", DETECTORS)


def modal(settings: Settings) -> Line:
    """Whether rounds can be computed on Modal; asked of Modal only where they are."""
    check = "Modal"
    if settings.compute != MODAL:
        return unknown(check, "not used (PRELABEL_COMPUTE=local)")
    if importlib.util.find_spec("modal") is None:
        return bad(check, "the package is not installed", "`pip install modal`")
    try:
        greet(settings)
    except UsageError as error:
        return bad(check, str(error), MODAL_TOKEN)
    except RoundError as error:
        return bad(check, str(error), "`prelabel deploy`, where there is internet")
    return good(check, f"lets us in, and has the app {settings.app!r}")
