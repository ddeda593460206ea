"""Check this machine: home folder, disk, weights, and access to Modal."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

from backend.bootstrap import check_modal_access
from backend.doctor.check import CheckResult, failed, passed, unchecked
from backend.doctor.contexts import CheckedProject, LabelStudioSetup, Setup
from backend.errors import DetectorError, EncoderError, PrelabelError, RoundError, UsageError
from backend.runtime.resources import Resources
from backend.settings import COMPUTE_MODAL
from backend.store.files import check_writable

MIN_FREE_BYTES = 1_000_000_000
"""Minimum free space, for a few versions and reduced copies of images."""
BYTES_PER_MB = 1_000_000
ENCODER_FIX = "set PRELABEL_ENCODER=auto or builtin, or to weights that exist"
DETECTOR_FIX = "set PRELABEL_DETECTOR=auto or builtin, or to weights that exist"
MODAL_TOKEN_FIX = "run `modal token new`, or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET"  # noqa: S105
HOME_FIX = "set PRELABEL_HOME to a writable folder"


def free_bytes(folder: Path) -> int:
    """Return the number of free bytes on the disk of a folder."""
    return shutil.disk_usage(folder).free


def check_home(setup: Setup) -> CheckResult:
    """Check that the home folder is writable."""
    check_writable(setup.settings.home)
    return passed("home", f"{setup.settings.home} is writable")


def check_disk(setup: Setup) -> CheckResult:
    """Check the free space on the disk of the home folder."""
    home = setup.settings.home
    folder = next((p for p in (home, *home.parents) if p.exists()), Path("/"))
    free_space = setup.measure_free(folder)
    message = f"{free_space / BYTES_PER_MB:,.0f} MB are free in {folder}"
    if free_space >= MIN_FREE_BYTES:
        return passed("disk", message)
    missing = (MIN_FREE_BYTES - free_space) / BYTES_PER_MB
    fix = f"free {missing:,.0f} MB, or set PRELABEL_HOME to a larger disk"
    return failed("disk", message, fix)


def check_modal(setup: Setup) -> CheckResult:
    """Check access to Modal, if it is used."""
    check, settings = "Modal", setup.settings
    if settings.compute != COMPUTE_MODAL:
        return unchecked(check, "not used (PRELABEL_COMPUTE=local)")
    if importlib.util.find_spec("modal") is None:
        return failed(check, "the package is not installed", "`pip install modal`")
    try:
        check_modal_access(settings)
    except UsageError as error:
        return failed(check, str(error), MODAL_TOKEN_FIX)
    except RoundError as error:
        return failed(check, str(error), "run `prelabel deploy` with internet access")
    return passed(check, f"the token is valid, and the app {settings.modal_app!r} is deployed")


def check_weights(project: CheckedProject) -> Iterator[CheckResult]:
    """Check that the live version can be loaded, if there is one."""
    check, record, version = "weights", project.record, project.live_version
    if record is None or not version:
        return
    try:
        model = project.setup.resources.model(record, version)
    except PrelabelError as error:
        fix = f"run `prelabel rollback {record.id}`, or `prelabel train {record.id}`"
        yield failed(check, str(error), fix)
        return
    controls = ", ".join([*model.heads, *model.detectors]) or "no control yet"
    yield passed(check, f"{version} can be loaded and predicts {controls}")


def check_encoders(target: LabelStudioSetup) -> Iterator[CheckResult]:
    """Check the encoders if a control needs one."""
    if "choices" in target.control_kinds:
        for setting in target.encoder_settings:
            yield _check_encoder(target.setup.resources, setting)


def _check_encoder(resources: Resources, setting: str) -> CheckResult:
    """Check that an encoder can embed an image, without downloading weights.

    Args:
        resources: resources of this process.
        setting: value of ``PRELABEL_ENCODER``, now or when the live version was trained.
    """
    from backend.vision.encoders.base import make_noise_image
    from backend.vision.encoders.load import is_encoder_local
    from backend.vision.hub import hub_unavailable_reason

    check, folder = "encoder", resources.weights_folder
    if resources.settings.compute == COMPUTE_MODAL:
        return unchecked(check, "not needed here: images are embedded on Modal")
    try:
        if not is_encoder_local(setting, folder):
            offline_reason = hub_unavailable_reason()
            if not offline_reason:
                return unchecked(check, f"the weights of {setting} are downloaded on first use")
            if setting != "auto":
                message = f"the weights of {setting} are not on this machine, and {offline_reason}"
                return failed(check, message, ENCODER_FIX)
        encoder = resources.encoder(setting)
        embedding = encoder.encode_images([make_noise_image()])
    except EncoderError as error:
        return failed(check, str(error), ENCODER_FIX)
    resolved = f" (resolved to {encoder.name})" if setting == "auto" else ""
    dimension = embedding.shape[1]
    return passed(check, f"{setting}{resolved} computes embeddings with {dimension} dimensions")


def check_detector(target: LabelStudioSetup) -> Iterator[CheckResult]:
    """Check the weights of the detector if a control needs one."""
    if target.control_kinds & {"boxes", "points"}:
        yield _check_detector(target.setup.resources)


def _check_detector(resources: Resources) -> CheckResult:
    """Check that there are weights for fine-tuning, without downloading them."""
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
        return unchecked(check, "not needed here: detectors are trained on Modal")
    setting = resources.settings.detector
    weights = DEFAULT_WEIGHTS if setting == "auto" else setting
    try:
        file = find_base_weights(weights, folder, download=False)
        if file is not None:
            load_base_network(file)
            name = "the builtin network" if setting == BUILTIN_SETTING else file.name
            return passed(check, f"{name} can be loaded")
    except DetectorError as error:
        return failed(check, str(error), DETECTOR_FIX)
    if is_url_reachable(ULTRALYTICS_URL):
        return unchecked(check, f"{weights} is downloaded on first use")
    if setting == "auto":
        message = (
            f"a small network will be trained from scratch; for a better one, put {weights} into "
            f"{folder}"
        )
        return unchecked(check, message)
    message = f"{setting} is not on this machine, and {ULTRALYTICS_URL} does not answer"
    return failed(check, message, DETECTOR_FIX)
