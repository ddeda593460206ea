"""The source of the running program, for whoever it serves."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]

SOURCES = {".py", ".html", ".css", ".js", ".svg", ".yaml"}


def pack_source() -> bytes:
    """A zip file of the package as it lies on this machine."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        files = (file for file in PACKAGE.rglob("*") if file.suffix in SOURCES)
        for file in sorted(files):
            archive.write(file, str(file.relative_to(PACKAGE.parent)))
    return packed.getvalue()
