"""The one owner of ultralytics: made quiet and safe before it is imported.

Switched off are its network calls, its reports, its installs and what it changes in the process
around it. A checkpoint is a pickle: one that carries code is refused and its code does not run.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backend.errors import DetectorError, EncoderError, PrelabelError

QUIET_ENVIRONMENT = {
    "YOLO_OFFLINE": "1",
    "YOLO_AUTOINSTALL": "0",
    "YOLO_VERBOSE": "0",
    "ULTRALYTICS_SAFE_LOAD": "1",
}
CONFIG_DIR_VARIABLE = "YOLO_CONFIG_DIR"
REPORTING_SETTINGS = (
    "sync",
    "clearml",
    "comet",
    "dvc",
    "mlflow",
    "raytune",
    "vscode_msg",
    "openvino_msg",
)
FOLDER_SETTINGS = ("datasets_dir", "weights_dir", "runs_dir")
FONT_FILES = ("Arial.ttf", "Arial.Unicode.ttf")
"""What it would download to write on pictures."""
_import_lock = threading.Lock()


@dataclass(frozen=True)
class Checkpoint:
    """A network that was read without running code of its file.

    Attributes:
        network: in float32 and evaluation mode, on the CPU.
        task: ``classify``, ``detect``, …
        train_arguments: what it was trained with, as the file says; not checked.
    """

    network: Any
    task: str
    train_arguments: Mapping[str, Any]


def import_ultralytics(folder: Path | None = None) -> Any:
    """The ultralytics package, without its habits.

    Args:
        folder: where it may keep its settings; a temporary one when not given. The first call of
            a process decides.

    Returns:
        the module.
    """
    with _import_lock:
        _set_environment(folder)
        with _preserve_process_state():
            import torch  # noqa: F401 - before ultralytics limits the threads that torch counts
            import ultralytics
            from ultralytics.nn import tasks
        tasks.SAFE_LOAD = True  # also where somebody imported it before us
        _apply_settings(ultralytics.settings)
        return ultralytics


def load_checkpoint(
    path: Path, folder: Path | None = None, error_type: type[PrelabelError] = EncoderError
) -> Checkpoint:
    """Read a network from a ``.pt`` file, which nobody has to trust.

    Args:
        path: the file.
        folder: see :func:`import_ultralytics`.
        error_type: what to raise.

    Raises:
        EncoderError: or ``error_type``: it is no checkpoint of ultralytics, or carries code.
    """
    path = path.expanduser().resolve()
    if not path.is_file():
        raise error_type(f"There is no file {path}: check the name, or download it first.")
    if "'" in str(path):
        raise error_type(f"ultralytics cannot open {path}: take the apostrophe out of its name.")
    import_ultralytics(folder)
    from ultralytics.nn.modules import Classify
    from ultralytics.nn.tasks import load_checkpoint as load

    try:
        network, content = load(str(path), device="cpu")
        task = "classify" if isinstance(network.model[-1], Classify) else str(network.task)
        return Checkpoint(network, task, dict(content.get("train_args") or {}))
    except Exception as error:  # torch, pickle and ultralytics raise many kinds
        raise error_type(
            f"{path} cannot be read safely as a checkpoint of ultralytics ({_short_message(error)}): use "
            "one that ultralytics published or that was trained with it."
        ) from error


def download_checkpoint(
    name: str, folder: Path, error_type: type[PrelabelError] = EncoderError
) -> Path:
    """Fetch published weights, because somebody asked for them by name.

    Args:
        name: such as ``yolo11n-cls.pt``.
        folder: where they are kept.
        error_type: what to raise.

    Returns:
        the file.

    Raises:
        EncoderError: or ``error_type``: nothing is published under this name, or it cannot be had.
    """
    import_ultralytics(folder / "ultralytics")
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

    if name not in GITHUB_ASSETS_NAMES:
        raise error_type(f"ultralytics publishes no weights {name!r}: give the path of a file.")
    target = folder.expanduser().resolve() / name
    try:
        attempt_download_asset(target, progress=False, retry=1)
    except Exception as error:  # whatever the network raises
        setting = "PRELABEL_ENCODER" if error_type is EncoderError else "PRELABEL_DETECTOR"
        raise error_type(
            f"{name} is not on this machine and cannot be downloaded ({_short_message(error)}): put the "
            f"file into {folder}, or set {setting}=builtin."
        ) from error
    return target


def detection_model_class(*, is_rtdetr: bool) -> Any:
    """The class of detection networks: YOLO's, or RT-DETR's with its queries."""
    import_ultralytics()
    from ultralytics.nn.tasks import DetectionModel, RTDETRDetectionModel

    return RTDETRDetectionModel if is_rtdetr else DetectionModel


def read_network_yaml(path: Path) -> dict[str, Any]:
    """The layers of a network from a ``.yaml``, also one that ultralytics brings along.

    Args:
        path: such as ``yolo26n.yaml``; a letter after the number names the scale.

    Raises:
        DetectorError: there is no such file, or it describes no network.
    """
    import_ultralytics()
    from ultralytics.nn.tasks import yaml_model_load

    try:
        description: dict[str, Any] = yaml_model_load(str(path))
    except Exception as error:  # yaml and ultralytics raise many kinds
        raise DetectorError(
            f"{path} cannot be read as a network ({_short_message(error)})."
        ) from error
    if not description.get("backbone") or not description.get("head"):
        raise DetectorError(f"{path} describes no network: it needs backbone and head.")
    return description


def _set_environment(folder: Path | None) -> None:
    os.environ.update(QUIET_ENVIRONMENT)
    os.environ.pop("ULTRALYTICS_API_KEY", None)
    if CONFIG_DIR_VARIABLE not in os.environ:
        os.environ[CONFIG_DIR_VARIABLE] = str(
            folder.resolve() if folder else _temporary_config_dir()
        )


def _temporary_config_dir() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="prelabel-ultralytics-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextmanager
def _preserve_process_state() -> Iterator[None]:
    """Undo what importing ultralytics does to everybody else in the process.

    It sets OMP_NUM_THREADS=1, which child processes inherit, replaces ``PIL.Image.open`` by one
    that installs a package for a file it cannot read, and changes how numpy shows numbers.
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
    """No reports, no folders outside its own, no font to download."""
    folder = Path(settings.file).parent
    requested_settings: dict[str, Any] = {
        name: False for name in REPORTING_SETTINGS if name in settings
    }
    requested_settings |= {name: str(folder / name) for name in FOLDER_SETTINGS if name in settings}
    if any(settings[name] != value for name, value in requested_settings.items()):
        settings.update(requested_settings)
    with suppress(OSError):
        _install_fonts(folder)


def _install_fonts(folder: Path) -> None:
    matplotlib_spec = importlib.util.find_spec("matplotlib")
    if matplotlib_spec is None or matplotlib_spec.origin is None:
        return
    font = Path(matplotlib_spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    for name in FONT_FILES:
        if font.is_file() and not (folder / name).exists():
            shutil.copyfile(font, folder / name)


def _short_message(error: Exception) -> str:
    text = " ".join(str(error).replace("ERROR ❌️", "").replace("❌", "").split())
    return text[:160].rstrip(".") or type(error).__name__
