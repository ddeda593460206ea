"""The image formats that can be decoded, and what is particular to some of them."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import ImageFile

PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "TIFF")
"""Formats that Pillow opens without a plugin."""
IMAGE_FORMATS = (*PILLOW_FORMATS, "HEIF")
"""Names in Pillow. Browsers display all but TIFF and HEIF, which are converted on import."""
HEIF_BRANDS = frozenset(
    {b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"}
)
"""Major brands of HEIF files, which phones call HEIC (ISO/IEC 23008-12)."""
AVIF_BRANDS = frozenset({b"avif", b"avis"})
TILE_TAGS = (322, 323)
"""Width and height of the tiles of a TIFF."""
MIN_TILE_PIXELS = 1 << 20
"""Pixels of a TIFF tile that are always accepted: tiles may be larger than a small image."""
VIDEO_CODEC_FORMATS = frozenset({"AVIF", "HEIF"})
"""Formats whose decoders keep the planes of a video frame besides Pillow's image."""
SVG_HEADER_BYTES = 4096
SVG_START = re.compile(
    rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?"
    rb"(<!--[^>]*-->\s*|<!DOCTYPE svg[^>\[]*(\[[^\]]*\])?>\s*)*<svg[\s/>]"
)
"""What comes before the outermost tag: byte order mark, XML declaration, comments, DOCTYPE."""
END_OF_JPEG = b"\xff\xd9"


def detect_heif(header: bytes) -> str:
    """Return ``AVIF`` or ``HEIC`` by the first 12 bytes of a file; empty for other formats.

    Example:
        >>> detect_heif(bytes(4) + b"ftypavif"), detect_heif(b"GIF89a")
        ('AVIF', '')
    """
    brand = header[8:12] if header[4:8] == b"ftyp" else b""
    if brand in AVIF_BRANDS:
        return "AVIF"
    return "HEIC" if brand in HEIF_BRANDS else ""


def is_svg(content: bytes) -> bool:
    """Return whether a file is an SVG drawing, which browsers show and Pillow cannot read.

    Example:
        >>> is_svg(b"<?xml version='1.0'?><!-- made by hand --><svg/>"), is_svg(b"<html><svg/>")
        (True, False)
    """
    return SVG_START.match(content, 0, SVG_HEADER_BYTES) is not None


def is_tiff(header: bytes) -> bool:
    """Return whether a file starts as a TIFF, or as the raw file of a camera, which is one."""
    return header[:4] in (b"II*\0", b"MM\0*")


@functools.cache
def register_heif() -> None:
    """Let Pillow open HEIF files, without their thumbnails and depth maps."""
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)


def tile_error(file: ImageFile.ImageFile, max_pixels: int) -> str:
    """Return why the tiles of a TIFF are too large to decode; empty if they are not.

    A tile is decoded as a whole, however small the image is.
    """
    tags = getattr(file, "tag_v2", None)
    if file.format != "TIFF" or tags is None:
        return ""
    width, height = (int(tags.get(tag) or 0) for tag in TILE_TAGS)
    if width * height <= max(MIN_TILE_PIXELS, min(max_pixels, 4 * file.width * file.height)):
        return ""
    return f"tiles of {width} × {height} pixels"
