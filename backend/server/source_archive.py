"""The source archive of the running program."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

REPOSITORY_ROOT = Path(__file__).resolve().parents[2]
SOURCE_FOLDERS = ("backend", "demo", "serverless", "label_config")
PROJECT_FILES = ("LICENSE", "README.md", "pyproject.toml", "Dockerfile", "compose.yaml")
"""Files in the repository root."""
INSTALLED_SOURCE_FOLDER = REPOSITORY_ROOT / "prelabel-source"
"""Folder of these files when the package is installed."""


def zip_source() -> bytes:
    """Return a zip archive with the code, the license and the build files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in sorted(_source_files()):
            archive.write(file, name)
    return buffer.getvalue()


def _source_files() -> Iterator[tuple[str, Path]]:
    """Yield the name in the archive and the path of each file."""
    for source_folder in SOURCE_FOLDERS:
        for file in (REPOSITORY_ROOT / source_folder).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                yield str(file.relative_to(REPOSITORY_ROOT)), file
    files_root = INSTALLED_SOURCE_FOLDER if INSTALLED_SOURCE_FOLDER.is_dir() else REPOSITORY_ROOT
    for name in PROJECT_FILES:
        if (files_root / name).is_file():
            yield name, files_root / name
