"""Copies of images at the size that detectors look at: read in milliseconds, from no network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from backend.store.files import told, write_bytes

if TYPE_CHECKING:
    from PIL import Image

LONGEST = 1280
"""Pixels of a copy's longer edge at most."""
QUALITY = 95
MOST_BYTES = 8_000_000_000
"""What all copies may take together; the ones used longest ago go first."""


class PictureFiles:
    """Upright images by the hash of their original bytes.

    Args:
        folder: made when missing.
        most_bytes: see :meth:`trim`.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self._folder = folder
        self._most = most_bytes

    def has(self, digest: str) -> bool:
        """Whether there is a copy."""
        return self._file(digest).exists()

    def get(self, digest: str) -> Image.Image | None:
        """The copy, RGB; None where there is none, or a damaged one."""
        from PIL import Image

        file = self._file(digest)
        try:
            os.utime(file)
            with Image.open(file, formats=("JPEG", "PNG")) as image:
                return image.convert("RGB")
        except FileNotFoundError:
            return None
        except (OSError, SyntaxError, ValueError):
            file.unlink(missing_ok=True)
            return None

    def put(self, digest: str, image: Image.Image, stored: bytes = b"") -> Image.Image:
        """Keep a copy.

        Args:
            digest: of the original's bytes.
            image: RGB, upright, of any size.
            stored: a JPEG without metadata of exactly this image, where there is one.

        Returns:
            the image as :meth:`get` will give it.

        Raises:
            StoreError: it cannot be written.
        """
        import io

        if stored and max(image.size) <= LONGEST:
            write_bytes(self._file(digest), stored, lasting=False)
            return image
        small = reduced(image)
        file = io.BytesIO()
        if max(small.size) < LONGEST // 4:
            small.save(file, "PNG")  # JPEG would show its blocks
        else:
            small.save(file, "JPEG", quality=QUALITY, subsampling=0)
        path = self._file(digest)
        write_bytes(path, file.getvalue(), lasting=False)
        return self.get(digest) or small

    def trim(self) -> int:
        """Remove the copies used longest ago until the rest fits; how many went."""
        found = told(self._folder.glob("*/*"))
        files = [(stat.st_mtime, stat.st_size, file) for stat, file in found]
        whole, gone = sum(size for _, size, _ in files), 0
        for _, size, file in sorted(files):
            if whole <= self._most:
                break
            file.unlink(missing_ok=True)
            whole, gone = whole - size, gone + 1
        return gone

    def _file(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest


def reduced(image: Image.Image) -> Image.Image:
    """An image whose longer edge is at most ``LONGEST``; never enlarged."""
    from PIL import Image as Pillow

    factor = LONGEST / max(image.size)
    if factor >= 1:
        return image
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Pillow.Resampling.BILINEAR, reducing_gap=2.0)
