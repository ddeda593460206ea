"""Copies of images at the size that detectors look at: read in milliseconds, from no network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from backend.store.files import stat_files, write_bytes

if TYPE_CHECKING:
    from PIL import Image

MAX_EDGE_PIXELS = 1280
"""Pixels of a copy's longer edge at most."""
JPEG_QUALITY = 95
MAX_TOTAL_BYTES = 8_000_000_000
"""What all copies may take together; the ones used longest ago go first."""


class ImageCopies:
    """Upright images by the hash of their original bytes.

    Args:
        folder: made when missing.
        max_bytes: see :meth:`trim`.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_TOTAL_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def has(self, digest: str) -> bool:
        """Whether there is a copy."""
        return self._path(digest).exists()

    def get(self, digest: str) -> Image.Image | None:
        """The copy, RGB; None where there is none, or a damaged one."""
        from PIL import Image

        file = self._path(digest)
        try:
            os.utime(file)
            with Image.open(file, formats=("JPEG", "PNG")) as image:
                return image.convert("RGB")
        except FileNotFoundError:
            return None
        except (OSError, SyntaxError, ValueError):
            file.unlink(missing_ok=True)
            return None

    def put(self, digest: str, image: Image.Image, jpeg: bytes = b"") -> Image.Image:
        """Keep a copy.

        Args:
            digest: of the original's bytes.
            image: RGB, upright, of any size.
            jpeg: a JPEG without metadata of exactly this image, where there is one.

        Returns:
            the image as :meth:`get` will give it.

        Raises:
            StoreError: it cannot be written.
        """
        import io

        if jpeg and max(image.size) <= MAX_EDGE_PIXELS:
            write_bytes(self._path(digest), jpeg, durable=False)
            return image
        resized = shrink_to_limit(image)
        buffer = io.BytesIO()
        if max(resized.size) < MAX_EDGE_PIXELS // 4:
            resized.save(buffer, "PNG")  # JPEG would show its blocks
        else:
            resized.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        path = self._path(digest)
        write_bytes(path, buffer.getvalue(), durable=False)
        return self.get(digest) or resized

    def trim(self) -> int:
        """Remove the copies used longest ago until the rest fits; how many went."""
        stat_pairs = stat_files(self._folder.glob("*/*"))
        files = [(stat.st_mtime, stat.st_size, file) for stat, file in stat_pairs]
        total_bytes, removed = sum(size for _, size, _ in files), 0
        for _, size, file in sorted(files):
            if total_bytes <= self._max_bytes:
                break
            file.unlink(missing_ok=True)
            total_bytes, removed = total_bytes - size, removed + 1
        return removed

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest


def shrink_to_limit(image: Image.Image) -> Image.Image:
    """An image whose longer edge is at most ``MAX_EDGE_PIXELS``; never enlarged."""
    from PIL import Image as Pillow

    scale = MAX_EDGE_PIXELS / max(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Pillow.Resampling.BILINEAR, reducing_gap=2.0)
