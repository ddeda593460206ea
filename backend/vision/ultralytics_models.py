"""Import ultralytics without side effects, and load its checkpoints safely.

Network requests, telemetry, automatic installs and changes to global state are disabled.
Checkpoints are pickles; those that would execute code are rejected.
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
"""Fonts that ultralytics downloads if they are missing."""
_import_lock = threading.Lock()


@dataclass(frozen=True)
class Checkpoint:
    """A network loaded from a ``.pt`` file.

    Attributes:
        network: torch module in float32 and evaluation mode, on the CPU.
        task: ultralytics task: ``classify``, ``detect``, …
        image_size: training input size in pixels from the file, unvalidated; None if missing.
    """

    network: Any
    task: str
    image_size: int | None


def import_ultralytics(folder: Path | None = None) -> Any:
    """Import ultralytics with its side effects disabled.

    Args:
        folder: config folder of ultralytics, temporary by default. Only the first call in a process
            has an effect.
    """
    with _import_lock:
        _set_environment(folder)
        with _preserve_process_state():
            import torch  # noqa: F401 - before ultralytics sets OMP_NUM_THREADS
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
        folder: where ultralytics keeps its settings; a temporary folder by default.
        error_type: exception type to raise.

    Raises:
        EncoderError: it is not an ultralytics checkpoint, or it contains code. Another type if
            ``error_type`` is given.
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
    except Exception as error:  # torch, pickle and ultralytics raise many exception types
        raise error_type(
            f"{path} cannot be read safely as an ultralytics checkpoint "
            f"({_short_message(error)}): use a file published by or trained with ultralytics."
        ) from error


def find_checkpoint(setting: str, weights_dir: Path | None) -> Path | None:
    """Find a checkpoint by path or by name in the weights folder; None if there is no file."""
    path = Path(setting).expanduser()
    candidates = (path, weights_dir / setting) if weights_dir else (path,)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def download_checkpoint(
    name: str, folder: Path, error_type: type[PrelabelError] = EncoderError
) -> Path:
    """Download weights published by ultralytics.

    Args:
        name: file name such as ``yolo11n-cls.pt``.
        folder: destination folder.
        error_type: exception type to raise.

    Raises:
        EncoderError: (or ``error_type``) no such weights are published, or the download failed.
    """
    import_ultralytics(folder / "ultralytics")
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

    if name not in GITHUB_ASSETS_NAMES:
        raise error_type(f"ultralytics has no published weights {name!r}: use the path of a file.")
    target = folder.expanduser().resolve() / name
    try:
        attempt_download_asset(target, progress=False, retry=1)
    except Exception as error:  # network errors of many types
        setting = "PRELABEL_ENCODER" if error_type is EncoderError else "PRELABEL_DETECTOR"
        raise error_type(
            f"{name} is not on this machine and cannot be downloaded ({_short_message(error)}): "
            f"put the file into {folder}, or set {setting}=builtin."
        ) from error
    return target


def detection_model_class(*, is_rtdetr: bool) -> Any:
    """Return ultralytics' model class for YOLO or RT-DETR."""
    import_ultralytics()
    from ultralytics.nn.tasks import DetectionModel, RTDETRDetectionModel

    return RTDETRDetectionModel if is_rtdetr else DetectionModel


def read_network_yaml(path: Path) -> dict[str, object]:
    """Load a model YAML from a file or from those bundled with ultralytics.

    Args:
        path: file such as ``yolo26n.yaml``; the letter after the number is the scale.

    Raises:
        DetectorError: there is no such file, or it is not a model YAML.
    """
    import_ultralytics()
    from ultralytics.nn.tasks import yaml_model_load

    try:
        description: dict[str, object] = yaml_model_load(str(path))
    except Exception as error:  # yaml and ultralytics raise many exception types
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
    """Undo the global changes made by importing ultralytics.

    The import sets OMP_NUM_THREADS=1, which child processes inherit, patches ``PIL.Image.open`` to
    install packages for unsupported formats, and changes numpy's print options.
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
    """Disable telemetry, move all folders into the config folder, and install fonts."""
    folder = Path(settings.file).parent
    required: dict[str, object] = dict.fromkeys(REPORTING_SETTINGS, False)
    required |= {name: str(folder / name) for name in FOLDER_SETTINGS}
    changed = {k: v for k, v in required.items() if k in settings and settings[k] != v}
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
