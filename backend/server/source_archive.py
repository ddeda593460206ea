"""The source of the running program, for whoever it serves."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

REPOSITORY_ROOT = Path(__file__).resolve().parents[2]
SOURCE_FOLDERS = ("backend", "demo", "serverless", "label_config")
PROJECT_FILES = ("LICENSE", "README.md", "pyproject.toml", "Dockerfile", "compose.yaml")
"""What else the program is made of."""
INSTALLED_SOURCE_FOLDER = REPOSITORY_ROOT / "prelabel-source"
"""Where an installed program has these: its folder is full of other packages."""


def zip_source() -> bytes:
    """A zip file of the program as it lies on this machine: code, licence, and how it is built."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in sorted(_source_files()):
            archive.write(file, name)
    return buffer.getvalue()


def _source_files() -> Iterator[tuple[str, Path]]:
    """Name in the zip file, and file."""
    for source_folder in SOURCE_FOLDERS:
        for file in (REPOSITORY_ROOT / source_folder).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                yield str(file.relative_to(REPOSITORY_ROOT)), file
    files_root = INSTALLED_SOURCE_FOLDER if INSTALLED_SOURCE_FOLDER.is_dir() else REPOSITORY_ROOT
    for name in PROJECT_FILES:
        if (files_root / name).is_file():
            yield name, files_root / name
