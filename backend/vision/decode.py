"""Bytes that somebody sent → an upright RGB image, or one clear reason why not."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from backend.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
UPRIGHT_SWAPS = frozenset({5, 6, 7, 8})
"""EXIF orientations that exchange width and height."""
EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        image: RGB, upright; reduced while decoding where ``at_least`` allowed it.
        width: pixels of the upright original.
        height: pixels of the upright original.
    """

    image: Image.Image
    width: int
    height: int


def decode(content: bytes, *, max_pixels: int, at_least: int = 0) -> Picture:
    """Decode an image from an untrusted source.

    Args:
        content: the file's bytes.
        max_pixels: width × height above which it is refused, before any pixel is decoded.
        at_least: a JPEG may be reduced while decoding as long as both sides stay at least this
            many pixels; 0: never.

    Returns:
        the upright RGB image and the original's size.

    Raises:
        ImageError: not an image, a format that is not read, too large, or damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(content, max_pixels, at_least)
    except UnidentifiedImageError as error:
        raise ImageError("not an image", f"none of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise ImageError("too many pixels", str(error)) from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError) as error:
        raise ImageError("damaged image", str(error)) from error


def _decode(content: bytes, max_pixels: int, at_least: int) -> Picture:
    if not content:
        raise ImageError("empty file")
    with Image.open(io.BytesIO(content), formats=FORMATS) as file:
        width, height = file.size
        if width * height > max_pixels:
            raise ImageError("too many pixels", f"{width} × {height}, at most {max_pixels:,}")
        turned = _orientation(file) in UPRIGHT_SWAPS
        if at_least:
            file.draft("RGB", (at_least, at_least))
        file.load()
        image = _rgb(ImageOps.exif_transpose(file))
    return Picture(image, *((height, width) if turned else (width, height)))


def _orientation(file: ImageFile.ImageFile) -> int:
    value = file.getexif().get(EXIF_ORIENTATION, 1)
    return value if isinstance(value, int) else 1


def _rgb(image: Image.Image) -> Image.Image:
    """RGB on white where it is transparent; 16-bit greys scaled, not cut off."""
    if image.mode.startswith("I"):
        image = image.convert("F").point(lambda value: value / 256).convert("L")
    if "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, "white")
        image.alpha_composite(layer)
    return image.convert("RGB")
