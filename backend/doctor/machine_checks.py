"""This machine: its home folder, the weights, and the way to Modal where that computes."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

from backend.bootstrap import check_modal_access
from backend.doctor.check_result import CheckResult, failed, passed, unchecked
from backend.errors import (
    DetectorError,
    EncoderError,
    PrelabelError,
    RoundError,
    StoreError,
    UsageError,
)
from backend.runtime.resources import Resources
from backend.settings import COMPUTE_MODAL, Settings
from backend.store.files import check_writable
from backend.store.projects import ProjectRecord

MIN_FREE_BYTES = 1_000_000_000
"""Bytes that must be free: a few versions, and copies of images."""
BYTES_PER_MB = 1_000_000
FreeSpace = Callable[[Path], int]
ENCODER_FIX = "set PRELABEL_ENCODER=auto or builtin, or to weights that are there"
DETECTOR_FIX = "set PRELABEL_DETECTOR=auto or builtin, or to weights that are there"
MODAL_TOKEN_FIX = "`modal token new`, or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET"  # noqa: S105
HOME_FIX = "set PRELABEL_HOME to a folder of your own"


def free_bytes(folder: Path) -> int:
    """What is left on a folder's disk."""
    return shutil.disk_usage(folder).free


def check_home(settings: Settings) -> CheckResult:
    """Whether what lasts can be written."""
    try:
        check_writable(settings.home)
    except StoreError as error:
        return failed("home", str(error), HOME_FIX)
    return passed("home", f"{settings.home} can be written")


def check_disk(settings: Settings, measure_free: FreeSpace) -> CheckResult:
    """Whether there is space for what is to come."""
    existing_folder = next(
        (p for p in (settings.home, *settings.home.parents) if p.exists()), Path("/")
    )
    free_space = measure_free(existing_folder)
    message = f"{free_space / BYTES_PER_MB:,.0f} MB are free at {existing_folder}"
    if free_space < MIN_FREE_BYTES:
        fix = f"free {(MIN_FREE_BYTES - free_space) / BYTES_PER_MB:,.0f} MB, or set PRELABEL_HOME to a larger disk"
        return failed("disk", message, fix)
    return passed("disk", message)


def check_weights(resources: Resources, record: ProjectRecord, version: str) -> CheckResult:
    """Whether the live version can be loaded."""
    check = "weights"
    try:
        model = resources.model(record, version)
    except PrelabelError as error:
        fix = f"`prelabel rollback {record.id}` to the version before, or `prelabel train`"
        return failed(check, str(error), fix)
    control_names = [*model.heads, *model.detectors]
    return passed(
        check, f"{version} can be loaded, and answers {', '.join(control_names) or 'nothing yet'}"
    )


def check_encoder(resources: Resources, setting: str) -> CheckResult:
    """Whether images can be embedded. Nothing is downloaded for it.

    Args:
        resources: of this process.
        setting: ``PRELABEL_ENCODER``, or what the live version was made by.
    """
    from backend.vision.encoders.base import make_noise_image
    from backend.vision.encoders.load import is_encoder_local
    from backend.vision.hub import hub_unavailable_reason

    check, folder = "encoder", resources.weights_folder
    if resources.settings.compute == COMPUTE_MODAL:
        return unchecked(check, "not needed here, images are embedded on Modal")
    try:
        if not is_encoder_local(setting, folder):
            offline_reason = hub_unavailable_reason()
            if not offline_reason:
                return unchecked(check, f"the weights of {setting} are fetched at first use")
            if setting != "auto":
                return failed(
                    check,
                    f"the weights of {setting} are not here, and {offline_reason}",
                    ENCODER_FIX,
                )
        loaded_encoder = resources.encoder(setting)
        vectors = loaded_encoder.encode_images([make_noise_image()])
    except EncoderError as error:
        return failed(check, str(error), ENCODER_FIX)
    auto_choice = f", which takes {loaded_encoder.name}," if setting == "auto" else ""
    return passed(check, f"{setting}{auto_choice} gives {vectors.shape[1]} numbers an image")


def check_detector(resources: Resources) -> CheckResult:
    """Whether there is something to fine-tune from. Nothing is downloaded for it."""
    from backend.vision.detection.base_weights import ULTRALYTICS_URL
    from backend.vision.detection.network import (
        BUILTIN_SETTING,
        DEFAULT_WEIGHTS,
        find_base_weights,
        load_base_network,
    )
    from backend.vision.hub import is_url_reachable

    check, folder = "detector", resources.weights_folder
    if resources.settings.compute == COMPUTE_MODAL:
        return unchecked(check, "not needed here, networks are trained on Modal")
    setting = resources.settings.detector
    try:
        file = find_base_weights(
            DEFAULT_WEIGHTS if setting == "auto" else setting, folder, download=False
        )
        if file is not None:
            load_base_network(file)
            weights_name = "the builtin network" if setting == BUILTIN_SETTING else file.name
            return passed(check, f"{weights_name} can be loaded")
    except DetectorError as error:
        return failed(check, str(error), DETECTOR_FIX)
    if is_url_reachable(ULTRALYTICS_URL):
        return unchecked(
            check, f"{DEFAULT_WEIGHTS if setting == 'auto' else setting} is fetched at first use"
        )
    if setting == "auto":
        return unchecked(
            check, f"a small network from nothing; better: put {DEFAULT_WEIGHTS} into {folder}"
        )
    return failed(
        check, f"{setting} is not here, and {ULTRALYTICS_URL} does not answer", DETECTOR_FIX
    )


def check_modal(settings: Settings) -> CheckResult:
    """Whether rounds can be computed on Modal; asked of Modal only where they are."""
    check = "Modal"
    if settings.compute != COMPUTE_MODAL:
        return unchecked(check, "not used (PRELABEL_COMPUTE=local)")
    if importlib.util.find_spec("modal") is None:
        return failed(check, "the package is not installed", "`pip install modal`")
    try:
        check_modal_access(settings)
    except UsageError as error:
        return failed(check, str(error), MODAL_TOKEN_FIX)
    except RoundError as error:
        return failed(check, str(error), "`prelabel deploy`, where there is internet")
    return passed(check, f"lets us in, and has the app {settings.modal_app!r}")
