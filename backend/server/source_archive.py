"""The source of the running program, for whoever it serves."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

PLACE = Path(__file__).resolve().parents[2]
ROOMS = ("backend", "demo", "serverless", "label_config")
BESIDE = ("LICENSE", "README.md", "pyproject.toml", "Dockerfile", "compose.yaml")
"""What else the program is made of."""
PACKED = PLACE / "prelabel-source"
"""Where an installed program has these: its folder is full of other packages."""


def pack_source() -> bytes:
    """A zip file of the program as it lies on this machine: code, licence, and how it is built."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in sorted(_files()):
            archive.write(file, name)
    return packed.getvalue()


def _files() -> Iterator[tuple[str, Path]]:
    """Name in the zip file, and file."""
    for room in ROOMS:
        for file in (PLACE / room).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                yield str(file.relative_to(PLACE)), file
    beside = PACKED if PACKED.is_dir() else PLACE
    for name in BESIDE:
        if (beside / name).is_file():
            yield name, beside / name
