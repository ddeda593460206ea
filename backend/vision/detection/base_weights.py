"""Choose the base weights for fine-tuning detectors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from backend.callbacks import LogCallback
from backend.errors import DetectorError
from backend.vision.detection.network import (
    BUILTIN_SETTING,
    DEFAULT_WEIGHTS,
    SMALL_NETWORK_FILE,
    find_base_weights,
)

ULTRALYTICS_URL = "https://github.com"
"""Host of ultralytics' published weights."""


@dataclass(frozen=True)
class BaseWeights:
    """The base weights of detectors.

    Attributes:
        setting: ``PRELABEL_DETECTOR`` setting that selects this file.
        path: weights file or model YAML; may be the name of a YAML bundled with ultralytics.
    """

    setting: str
    path: Path

    @property
    def id(self) -> str:
        """Name and content hash of the file."""
        content = self.path.read_bytes() if self.path.is_file() else b""
        return f"{self.path.name}:{hashlib.sha256(content).hexdigest()[:16]}"


def choose_base_weights(setting: str, weights_dir: Path, log: LogCallback) -> BaseWeights:
    """Resolve ``PRELABEL_DETECTOR`` to base weights, downloading them if necessary.

    Args:
        setting: ``auto``, ``builtin``, a weights file or name, or a ``.yaml``.
        weights_dir: folder of downloaded weights.
        log: receives the choice of ``auto``, before a download starts.

    Raises:
        DetectorError: there is no such file or name, or the download failed.
    """
    if setting != "auto":
        path = find_base_weights(setting, weights_dir, download=True)
        assert path is not None  # noqa: S101 - download=True never returns None
        return BaseWeights(setting, path)
    path = find_base_weights(DEFAULT_WEIGHTS, weights_dir, download=False)
    if path is None:
        return _download_base_weights(weights_dir, log)
    log(f"Detector: {path}, found on disk.")
    return BaseWeights(str(path), path)


def _download_base_weights(weights_dir: Path, log: LogCallback) -> BaseWeights:
    from backend.vision.hub import is_url_reachable

    reason = "" if is_url_reachable(ULTRALYTICS_URL) else f"{ULTRALYTICS_URL} does not answer"
    if not reason:
        log(
            f"Detector: downloading {DEFAULT_WEIGHTS} once from {ULTRALYTICS_URL} (5 MB, trained "
            f"on COCO) into {weights_dir}. PRELABEL_DETECTOR=builtin needs no download."
        )
        try:
            path = find_base_weights(DEFAULT_WEIGHTS, weights_dir, download=True)
            assert path is not None  # noqa: S101 - download=True never returns None
            return BaseWeights(str(path), path)
        except DetectorError as error:
            reason = str(error).rstrip(".")
    log(
        f"Detector: a small network that is trained from scratch ({reason}). For better results, "
        f"put {DEFAULT_WEIGHTS} into {weights_dir}: "
        f"curl -fL -o {quote(str(weights_dir / DEFAULT_WEIGHTS))} "
        f"https://github.com/ultralytics/assets/releases/latest/download/{DEFAULT_WEIGHTS}"
    )
    return BaseWeights(BUILTIN_SETTING, SMALL_NETWORK_FILE)
