"""Import ultralytics quietly and safely; only the modules of detection use it besides.

Its network calls, reports, automatic installs and changes to the process are disabled. A checkpoint
is a pickle; one that carries code is refused, and the code does not run.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backend.errors import DetectorError, EncoderError, PrelabelError
from backend.vision.images.draw import find_dejavu_font

QUIET_ENVIRONMENT = {
    "YOLO_OFFLINE": "1",
    "YOLO_AUTOINSTALL": "0",
    "YOLO_VERBOSE": "0",
    "ULTRALYTICS_SAFE_LOAD": "1",
}
CONFIG_DIR_VARIABLE = "YOLO_CONFIG_DIR"
REPORTING_SETTINGS = "sync clearml comet dvc mlflow raytune vscode_msg openvino_msg".split()
FOLDER_SETTINGS = ("datasets_dir", "weights_dir", "runs_dir")
FONT_FILES = ("Arial.ttf", "Arial.Unicode.ttf")
"""Fonts that ultralytics would download to draw on images."""
_import_lock = threading.Lock()


@dataclass(frozen=True)
class Checkpoint:
    """A network that was loaded without running code from its file.

    Attributes:
        network: in float32 and evaluation mode, on the CPU.
        task: ``classify``, ``detect``, …
        image_size: input size in training, from the file's own metadata; not checked.
    """

    network: Any
    task: str
    image_size: int | None


def import_ultralytics(folder: Path | None = None) -> Any:
    """Import ultralytics with its side effects disabled.

    Args:
        folder: where it may store its settings; by default a temporary one. The first call of a
            process decides.
    """
    with _import_lock:
        _set_environment(folder)
        with _preserve_process_state():
            import torch  # noqa: F401 - before ultralytics limits the threads that torch counts
            import ultralytics
            from ultralytics.nn import tasks
        tasks.SAFE_LOAD = True  # even if ultralytics was imported before
        _apply_settings(ultralytics.settings)
        return ultralytics


def load_checkpoint(
    path: Path, folder: Path | None = None, error_type: type[PrelabelError] = EncoderError
) -> Checkpoint:
    """Load a network from an untrusted ``.pt`` file.

    Args:
        path: the file.
        folder: see :func:`import_ultralytics`.
        error_type: the error to raise.

    Raises:
        EncoderError: or ``error_type``: it is not a checkpoint of ultralytics, or carries code.
    """
    path = path.expanduser().resolve()
    if not path.is_file():
        raise error_type(f"There is no file {path}: check the name, or download it first.")
    if "'" in str(path):
        raise error_type(f"ultralytics cannot open {path}: remove the apostrophe from its name.")
    import_ultralytics(folder)
    from ultralytics.nn.modules import Classify
    from ultralytics.nn.tasks import load_checkpoint as load

    try:
        network, content = load(str(path), device="cpu")
        task = "classify" if isinstance(network.model[-1], Classify) else str(network.task)
        size = (content.get("train_args") or {}).get("imgsz")
        return Checkpoint(network, task, size if isinstance(size, int) else None)
    except Exception as error:  # torch, pickle and ultralytics raise many kinds
        raise error_type(
            f"{path} cannot be read safely as a checkpoint of ultralytics "
            f"({_short_message(error)}): use one that was published by or trained with ultralytics."
        ) from error


def find_checkpoint(setting: str, weights_dir: Path | None) -> Path | None:
    """Return the file of a setting: a path, or the name of a file in the weights folder."""
    path = Path(setting).expanduser()
    candidates = (path, weights_dir / setting) if weights_dir else (path,)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def download_checkpoint(
    name: str, folder: Path, error_type: type[PrelabelError] = EncoderError
) -> Path:
    """Download published weights that the user asked for by name.

    Args:
        name: such as ``yolo11n-cls.pt``.
        folder: destination.
        error_type: the error to raise.

    Raises:
        EncoderError: or ``error_type``: there are no such weights, or the download failed.
    """
    import_ultralytics(folder / "ultralytics")
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

    if name not in GITHUB_ASSETS_NAMES:
        raise error_type(f"ultralytics has no published weights {name!r}: use a file's path.")
    target = folder.expanduser().resolve() / name
    try:
        attempt_download_asset(target, progress=False, retry=1)
    except Exception as error:  # whatever the network raises
        setting = "PRELABEL_ENCODER" if error_type is EncoderError else "PRELABEL_DETECTOR"
        raise error_type(
            f"{name} is not on this machine and cannot be downloaded ({_short_message(error)}): "
            f"put the file into {folder}, or set {setting}=builtin."
        ) from error
    return target


def detection_model_class(*, is_rtdetr: bool) -> Any:
    """Return the class of detection networks: YOLO's or RT-DETR's."""
    import_ultralytics()
    from ultralytics.nn.tasks import DetectionModel, RTDETRDetectionModel

    return RTDETRDetectionModel if is_rtdetr else DetectionModel


def read_network_yaml(path: Path) -> dict[str, object]:
    """Read the layers of a network from a ``.yaml``, also from one that is part of ultralytics.

    Args:
        path: such as ``yolo26n.yaml``; the letter after the number is the scale.

    Raises:
        DetectorError: there is no such file, or it does not describe a network.
    """
    import_ultralytics()
    from ultralytics.nn.tasks import yaml_model_load

    try:
        description: dict[str, object] = yaml_model_load(str(path))
    except Exception as error:  # yaml and ultralytics raise many kinds
        reason = _short_message(error)
        raise DetectorError(f"{path} cannot be read as a network ({reason}).") from error
    if not description.get("backbone") or not description.get("head"):
        raise DetectorError(f"{path} does not describe a network: it needs backbone and head.")
    return description


def _set_environment(folder: Path | None) -> None:
    os.environ.update(QUIET_ENVIRONMENT)
    os.environ.pop("ULTRALYTICS_API_KEY", None)
    if CONFIG_DIR_VARIABLE not in os.environ:
        config_dir = folder.resolve() if folder else _temporary_config_dir()
        os.environ[CONFIG_DIR_VARIABLE] = str(config_dir)


def _temporary_config_dir() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="prelabel-ultralytics-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextmanager
def _preserve_process_state() -> Iterator[None]:
    """Undo the changes to the process that importing ultralytics makes.

    It sets OMP_NUM_THREADS=1, which child processes inherit, replaces ``PIL.Image.open`` by a
    function that installs a package for files it cannot read, and changes how numpy prints numbers.
    """
    thread_setting, original_open = os.environ.get("OMP_NUM_THREADS"), Image.open
    print_options: dict[str, Any] = dict(np.get_printoptions())
    try:
        yield
    finally:
        Image.open = original_open
        np.set_printoptions(**print_options)
        if thread_setting is None:
            os.environ.pop("OMP_NUM_THREADS", None)


def _apply_settings(settings: Any) -> None:
    """Disable reports, restrict its folders, and install fonts so that none is downloaded."""
    folder = Path(settings.file).parent
    wanted: dict[str, object] = dict.fromkeys(REPORTING_SETTINGS, False)
    wanted |= {name: str(folder / name) for name in FOLDER_SETTINGS}
    changed = {k: v for k, v in wanted.items() if k in settings and settings[k] != v}
    if changed:
        settings.update(changed)
    with suppress(OSError):
        _install_fonts(folder)


def _install_fonts(folder: Path) -> None:
    font = find_dejavu_font()
    for name in FONT_FILES:
        if font and not (folder / name).exists():
            shutil.copyfile(font, folder / name)


def _short_message(error: Exception) -> str:
    text = " ".join(str(error).replace("ERROR ❌️", "").replace("❌", "").split())
    return text[:160].rstrip(".") or type(error).__name__
