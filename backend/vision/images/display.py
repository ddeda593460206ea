"""Which image files Label Studio can store and browsers can show; convert the others to JPEG."""

from __future__ import annotations

import io

from backend.vision.images.formats import detect_heif, is_tiff

SUFFIX_BY_SIGNATURE = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG\r\n\x1a\n": ".png",
    b"GIF8": ".gif",
    b"BM": ".bmp",
}
"""Suffix by the first bytes of the formats that need no conversion; WebP has them in two places."""
CONVERTED_SUFFIX = ".jpg"
JPEG_QUALITY = 95


def displayable_suffix(header: bytes) -> str:
    """Return the suffix of an image that needs no conversion, by its first 12 bytes; "" if none.

    Example:
        >>> displayable_suffix(bytes.fromhex("ffd8ffe0")), displayable_suffix(b"II*")
        ('.jpg', '')
    """
    for signature, suffix in SUFFIX_BY_SIGNATURE.items():
        if header.startswith(signature):
            return suffix
    return ".webp" if header[:4] == b"RIFF" and header[8:12] == b"WEBP" else ""


def needs_conversion(header: bytes) -> bool:
    """Return whether a file is an image that has to be converted, by its first 12 bytes.

    Browsers show neither TIFF nor HEIC, and Label Studio 1.23 refuses to store AVIF.
    """
    return detect_heif(header) != "" or is_tiff(header)


def make_displayable(content: bytes, max_pixels: int) -> tuple[bytes, str]:
    """Return an image file that Label Studio can show, with its suffix.

    Files that need no conversion are returned unchanged, the others as an upright JPEG without
    metadata of the same size.

    Raises:
        ImageError: the image must be converted and cannot be read, or has more than ``max_pixels``.
    """
    from backend.vision.images.decode import decode_upright_image

    if not needs_conversion(content):
        return content, displayable_suffix(content) or CONVERTED_SUFFIX
    stream = io.BytesIO()
    image = decode_upright_image(content, max_pixels=max_pixels).image
    image.save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue(), CONVERTED_SUFFIX
