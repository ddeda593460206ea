"""Bytes that somebody sent → an upright RGB image, or one clear reason why not."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

from PIL import Image, ImageFile, UnidentifiedImageError

from backend.errors import ImageError
from backend.vision.images.decode_memory import DECODING_BUDGET
from backend.vision.images.metadata import (
    MAX_JPEG_SCANS,
    count_jpeg_scans,
    decoding_cost_reason,
    read_orientation,
    split_jpeg,
)

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""Those that browsers show, too: what nobody sees nobody labels."""
TRANSPOSE_BY_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation. XMP may give one as well: browsers do not
look at it, and what people mark has to fit what models see."""
DECODING_BYTES_PER_PIXEL = 8
"""Bytes that a pixel takes while decoding: Pillow's four, once as stored and once as RGB."""
PROGRESSIVE_EXTRA_BYTES = 6
"""Bytes more in a JPEG of several passes, which is held whole however much it is reduced."""
COMPOSITE_BAND_ROWS = 256
"""Rows that are put on white at a time."""
SWAPPING_TRANSPOSES = frozenset(
    turn for read_orientation, turn in TRANSPOSE_BY_ORIENTATION.items() if read_orientation >= 5
)
"""Those that exchange width and height."""
ImageTransform = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image.

    Attributes:
        image: RGB, upright; reduced while decoding where ``at_least`` allowed it.
        width: pixels of the upright original.
        height: pixels of the upright original.
        jpeg_bytes: a JPEG without metadata that holds exactly this image; empty where there is none.
    """

    image: Image.Image
    width: int
    height: int
    jpeg_bytes: bytes = field(default=b"", repr=False, kw_only=True)


def decode_upright_image(
    content: bytes, *, max_pixels: int, min_side: int = 0, shrink: ImageTransform | None = None
) -> DecodedImage:
    """Decode an image from an untrusted source.

    Large images wait until there is memory for them, see ``decode_budget.DECODING_BUDGET``.

    Args:
        content: the file's bytes.
        max_pixels: width × height above which it is refused, before any pixel is decoded.
        min_side: a JPEG may be reduced while decoding as long as both sides stay at least this
            many pixels; 0: never.
        shrink: makes the image smaller while its memory still counts.

    Returns:
        the upright RGB image and the original's size.

    Raises:
        ImageError: not an image, a format that is not read, too large, or damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode_checked(content, max_pixels, min_side, shrink or _return_unchanged)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not an image", f"none of {', '.join(IMAGE_FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise ImageError("too many pixels", str(error)) from error
    except MemoryError as error:
        raise ImageError("too many pixels", "there is no memory for it") from error
    except Exception as error:  # whatever a decoder makes of bytes that somebody sent
        raise ImageError("damaged image", str(error)) from error


def _decode_checked(
    content: bytes, max_pixels: int, min_side: int, shrink: ImageTransform
) -> DecodedImage:
    if not content:
        raise ImageError("empty file")
    exif = b""
    if content.startswith(b"\xff\xd8"):
        content, exif = split_jpeg(content)
    cost_reason = decoding_cost_reason(content)
    if cost_reason:
        raise ImageError("too much work", cost_reason)
    with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as file:
        width, height = file.size
        if width * height > max_pixels:
            raise ImageError("too many pixels", f"{width} × {height}, at most {max_pixels:,}")
        scan_count = count_jpeg_scans(content, width * height)
        if scan_count > MAX_JPEG_SCANS:
            raise ImageError("too much work", "it is drawn over too often: save it anew")
        if min_side:
            file.draft("RGB", (min_side, min_side))
        with DECODING_BUDGET.reserve(
            _estimate_memory(file, width * height if scan_count > 1 else 0)
        ):
            file.load()
            transpose = TRANSPOSE_BY_ORIENTATION.get(read_orientation(exif or _read_exif(file)))
            image = shrink(_to_rgb(file))
            image = image.copy() if image is file else image
            image.info = {}
            upright = image.transpose(transpose) if transpose is not None else image
        is_stored_form = file.format == "JPEG" and file.mode in ("RGB", "L") and transpose is None
        original_bytes = content if is_stored_form and upright.size == (width, height) else b""
    return DecodedImage(
        upright,
        *((height, width) if transpose in SWAPPING_TRANSPOSES else (width, height)),
        jpeg_bytes=original_bytes,
    )


def _return_unchanged(image: Image.Image) -> Image.Image:
    return image


def _estimate_memory(file: ImageFile.ImageFile, coefficient_pixels: int) -> int:
    """Bytes that decoding takes, about.

    Args:
        file: opened, and reduced where it may be.
        coefficient_pixels: pixels that are held as coefficients until the last pass.
    """
    return (
        DECODING_BYTES_PER_PIXEL * file.width * file.height
        + PROGRESSIVE_EXTRA_BYTES * coefficient_pixels
    )


def _read_exif(file: ImageFile.ImageFile) -> bytes:
    """The EXIF block of a PNG or WebP; such a one may stand after the pixels."""
    block = file.info.get("exif")
    return block if isinstance(block, bytes) else b""


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB on white where it is transparent; 16-bit greys scaled, not cut off."""
    if image.mode.startswith("I"):
        image = image.convert("F").point(lambda value: value / 256).convert("L")
    if "A" in image.getbands() or "transparency" in image.info:
        return _composite_on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _composite_on_white(image: Image.Image) -> Image.Image:
    """Without transparency: a band of rows at a time, as whole copies would take much memory."""
    opaque_image = Image.new("RGB", image.size)
    for top in range(0, image.height, COMPOSITE_BAND_ROWS):
        box = (0, top, image.width, min(top + COMPOSITE_BAND_ROWS, image.height))
        layer = image.crop(box).convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        white.alpha_composite(layer)
        opaque_image.paste(white.convert("RGB"), box)
    return opaque_image
