"""A disk cache of downscaled images, large enough for the input of detectors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from backend.store.files import stat_files, write_bytes

if TYPE_CHECKING:
    from PIL import Image

MAX_EDGE_PIXELS = 1280
"""Maximum length of a copy's longer edge."""
JPEG_QUALITY = 95
MAX_TOTAL_BYTES = 8_000_000_000
"""Maximum size of the cache; the least recently used copies are removed first."""


class ImageCopies:
    """A cache of upright images, keyed by the hash of the original file.

    Args:
        folder: folder of the cache; created if missing.
        max_bytes: see :meth:`trim`.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_TOTAL_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def has(self, digest: str) -> bool:
        """Return whether there is a copy."""
        return self._path(digest).exists()

    def get(self, digest: str) -> Image.Image | None:
        """Read a copy as RGB; None if it is missing or damaged."""
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
        """Save a copy.

        Args:
            digest: hash of the original file.
            image: upright RGB image of any size.
            jpeg: the same image as JPEG without metadata; may be empty.

        Returns:
            the image as :meth:`get` returns it.

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
            resized.save(buffer, "PNG")  # JPEG artifacts are visible at this size
        else:
            resized.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        write_bytes(self._path(digest), buffer.getvalue(), durable=False)
        return self.get(digest) or resized

    def trim(self) -> int:
        """Remove the least recently used copies until the rest fits; return their number."""
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
    """Downscale an image whose longer edge exceeds ``MAX_EDGE_PIXELS``."""
    from PIL import Image as Pillow

    scale = MAX_EDGE_PIXELS / max(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Pillow.Resampling.BILINEAR, reducing_gap=2.0)
