"""Which network fine-tuning starts from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from backend.errors import DetectorError
from backend.vision.detection.network import DEFAULT, NOTHING, SMALL, find_base

HOME = "https://github.com"
"""Where ultralytics publishes its weights."""


@dataclass(frozen=True)
class Base:
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


def choose_base(setting: str, folder: Path, say: Callable[[str], None]) -> Base:
    """The file of ``PRELABEL_DETECTOR``.

    Args:
        setting: ``auto``, ``builtin``, a weights file or name, or a ``.yaml``.
        folder: where weights are kept.
        say: told in one line what ``auto`` took and why; before it fetches anything.

    Raises:
        DetectorError: there is no such file or name, or it cannot be had.
    """
    if setting != "auto":
        path = find_base(setting, folder, download=True)
        assert path is not None  # noqa: S101 - it may be downloaded
        return Base(setting, path)
    here = find_base(DEFAULT, folder, download=False)
    if here is not None:
        say(f"Detector: {here}, found on disk.")
        return Base(str(here), here)
    return _downloaded(folder, say)


def _downloaded(folder: Path, say: Callable[[str], None]) -> Base:
    from backend.vision.hub import answers

    why_not = "" if answers(HOME) else f"{HOME} does not answer"
    if not why_not:
        say(
            f"Detector: fetching {DEFAULT} once from {HOME} (5 MB, pretrained on COCO) into "
            f"{folder}; PRELABEL_DETECTOR=builtin does without."
        )
        try:
            path = find_base(DEFAULT, folder, download=True)
            assert path is not None  # noqa: S101 - it may be downloaded
            return Base(str(path), path)
        except DetectorError as error:
            why_not = str(error).rstrip(".")
    say(
        f"Detector: a small network that starts from nothing ({why_not}). Better: put {DEFAULT} "
        f"into {folder}: curl -fL -o {quote(str(folder / DEFAULT))} "
        f"https://github.com/ultralytics/assets/releases/latest/download/{DEFAULT}"
    )
    return Base(NOTHING, SMALL)
