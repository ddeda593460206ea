"""Which network fine-tuning starts from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from backend.errors import DetectorError
from backend.vision.detection.network import (
    BUILTIN_SETTING,
    DEFAULT_WEIGHTS,
    SMALL_NETWORK_FILE,
    find_base_weights,
)

ULTRALYTICS_URL = "https://github.com"
"""Where ultralytics publishes its weights."""


@dataclass(frozen=True)
class BaseWeights:
    """A file to start from.

    Attributes:
        setting: a spelling that leads to this very file again.
        path: the file, or the name of a description that ultralytics brings along.
    """

    setting: str
    path: Path

    @property
    def id(self) -> str:
        """Tells the file's content from all others."""
        content = self.path.read_bytes() if self.path.is_file() else b""
        return f"{self.path.name}:{hashlib.sha256(content).hexdigest()[:16]}"


def choose_base_weights(setting: str, weights_dir: Path, say: Callable[[str], None]) -> BaseWeights:
    """The file of ``PRELABEL_DETECTOR``.

    Args:
        setting: ``auto``, ``builtin``, a weights file or name, or a ``.yaml``.
        weights_dir: where weights are kept.
        say: told in one line what ``auto`` took and why; before it fetches anything.

    Raises:
        DetectorError: there is no such file or name, or it cannot be had.
    """
    if setting != "auto":
        path = find_base_weights(setting, weights_dir, download=True)
        assert path is not None  # noqa: S101 - it may be downloaded
        return BaseWeights(setting, path)
    local_path = find_base_weights(DEFAULT_WEIGHTS, weights_dir, download=False)
    if local_path is not None:
        say(f"Detector: {local_path}, found on disk.")
        return BaseWeights(str(local_path), local_path)
    return _download_base_weights(weights_dir, say)


def _download_base_weights(weights_dir: Path, say: Callable[[str], None]) -> BaseWeights:
    from backend.vision.hub import is_url_reachable

    reason = "" if is_url_reachable(ULTRALYTICS_URL) else f"{ULTRALYTICS_URL} does not answer"
    if not reason:
        say(
            f"Detector: fetching {DEFAULT_WEIGHTS} once from {ULTRALYTICS_URL} (5 MB, pretrained on COCO) into "
            f"{weights_dir}; PRELABEL_DETECTOR=builtin does without."
        )
        try:
            path = find_base_weights(DEFAULT_WEIGHTS, weights_dir, download=True)
            assert path is not None  # noqa: S101 - it may be downloaded
            return BaseWeights(str(path), path)
        except DetectorError as error:
            reason = str(error).rstrip(".")
    say(
        f"Detector: a small network that starts from nothing ({reason}). Better: put {DEFAULT_WEIGHTS} "
        f"into {weights_dir}: curl -fL -o {quote(str(weights_dir / DEFAULT_WEIGHTS))} "
        f"https://github.com/ultralytics/assets/releases/latest/download/{DEFAULT_WEIGHTS}"
    )
    return BaseWeights(BUILTIN_SETTING, SMALL_NETWORK_FILE)
