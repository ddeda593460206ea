"""Decode untrusted image files to upright RGB images."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

from PIL import Image, ImageFile, UnidentifiedImageError

from backend.errors import ImageError
from backend.vision.images.decode_memory import DECODING_BUDGET
from backend.vision.images.formats import (
    END_OF_JPEG,
    IMAGE_FORMATS,
    PILLOW_FORMATS,
    VIDEO_CODEC_FORMATS,
    detect_heif,
    is_svg,
    register_heif,
    tile_error,
)
from backend.vision.images.metadata import (
    MAX_JPEG_SCANS,
    count_jpeg_scans,
    header_cost_error,
    read_orientation,
    split_jpeg,
)

TRANSPOSE_BY_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposes by EXIF orientation. The orientation in XMP is ignored, as browsers do, so that the
model input matches the image on which annotators drew."""
DECODING_BYTES_PER_PIXEL = 8
"""Peak memory per pixel: Pillow uses 4 bytes each for the decoded and the RGB image."""
PROGRESSIVE_EXTRA_BYTES = 6
"""Additional bytes per full-size pixel of a progressive JPEG, for its DCT coefficients."""
VIDEO_CODEC_EXTRA_BYTES = 8
"""Additional bytes per pixel of AVIF and HEIF: the planes of the frame, and its RGBA copy."""
MIN_AVIF_BYTES = 400_000_000
"""Reserved for an AVIF at least, so that two are decoded at a time. The frame inside may be larger
than the file says: 1 kB can hold 16,384 × 16,384 pixels, which libavif decodes before scaling."""
MISSING_ROW_GREY = 128
"""Brightness that libjpeg gives to the rows that a JPEG lacks."""
MAX_MISSING_FRACTION = 15 / 16
"""Fraction of a JPEG that may be missing; with less of it left, it counts as damaged."""
COMPOSITE_BAND_ROWS = 256
"""Rows per band when compositing on white."""
SWAPPING_TRANSPOSES = frozenset(
    transpose for orientation, transpose in TRANSPOSE_BY_ORIENTATION.items() if orientation >= 5
)
"""Transposes that swap width and height."""
MAX_ASPECT_RATIO = 64
"""Maximum longer edge / shorter edge. Resizing the shorter edge of a 1 × 50,000 image to 224 pixels
would take 7 GB."""
ImageTransform = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image.

    Attributes:
        image: RGB, upright; may be smaller than the original, see ``min_side``.
        width: width of the upright original in pixels.
        height: height of the upright original in pixels.
        orientation: EXIF orientation of the file, 1 to 8; ``image`` is upright in any case.
        jpeg_bytes: the original JPEG without metadata if its pixels equal ``image``; else empty.
        file_format: one of ``IMAGE_FORMATS``; empty for images that were not decoded from a file.
    """

    image: Image.Image
    width: int
    height: int
    orientation: int = field(default=1, kw_only=True)
    jpeg_bytes: bytes = field(default=b"", repr=False, kw_only=True)
    file_format: str = field(default="", kw_only=True)

    @property
    def is_turned(self) -> bool:
        """Whether the file has an EXIF orientation that ``image`` is turned by."""
        return self.orientation in TRANSPOSE_BY_ORIENTATION


def decode_upright_image(
    content: bytes,
    *,
    max_pixels: int,
    min_side: int = 0,
    shrink: ImageTransform | None = None,
    accept_truncated: bool = True,
) -> DecodedImage:
    """Decode an image from an untrusted source.

    Blocks until ``decode_memory.DECODING_BUDGET`` has enough memory.

    Args:
        content: content of the file.
        max_pixels: maximum width × height, checked before pixels are decoded.
        min_side: allow downscaled JPEG decoding (Pillow's ``draft``) that keeps both sides at least
            this many pixels; 0 decodes at full size.
        shrink: downscales the decoded image while the memory for the original is reserved.
        accept_truncated: decode what is there of a JPEG that is cut off, as browsers do.

    Raises:
        ImageError: not an image, an unsupported format, too large, or damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            decode = _decode_or_complete if accept_truncated else _decode_checked
            return decode(content, max_pixels, min_side, shrink or _return_unchanged)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        if is_svg(content):
            raise ImageError("SVG drawing", "save it as PNG") from error
        raise ImageError("not an image", f"none of {', '.join(IMAGE_FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise ImageError("too many pixels", str(error)) from error
    except MemoryError as error:
        raise ImageError("too many pixels", "there is not enough memory") from error
    except Exception as error:  # decoders raise many exception types
        raise ImageError("damaged image", str(error)) from error


def _decode_or_complete(
    content: bytes, max_pixels: int, min_side: int, shrink: ImageTransform
) -> DecodedImage:
    """Decode an image; of a JPEG that is cut off, the part that is there, as browsers do.

    The missing rows become grey.
    """
    try:
        return _decode_checked(content, max_pixels, min_side, shrink)
    except UnidentifiedImageError:
        raise
    except OSError as error:
        if not content.startswith(b"\xff\xd8") or "file is truncated" not in str(error):
            raise
        decoded = _decode_checked(content + END_OF_JPEG, max_pixels, min_side, shrink)
        if _grey_fraction(decoded.image) > MAX_MISSING_FRACTION:
            raise
        return decoded


def _grey_fraction(image: Image.Image) -> float:
    """Return the fraction of pixels, 0 to 1, that have the grey of missing rows."""
    return image.convert("L").histogram()[MISSING_ROW_GREY] / (image.width * image.height)


def _decode_checked(
    content: bytes, max_pixels: int, min_side: int, shrink: ImageTransform
) -> DecodedImage:
    if not content:
        raise ImageError("empty file")
    exif = b""
    if content.startswith(b"\xff\xd8"):
        content, exif = split_jpeg(content)
    cost_error = header_cost_error(content)
    if cost_error:
        raise ImageError("too much work", cost_error)
    is_heif = detect_heif(content[:12]) == "HEIC"
    if is_heif:
        register_heif()
    formats = ("HEIF",) if is_heif else PILLOW_FORMATS
    with Image.open(io.BytesIO(content), formats=formats) as file:
        width, height = file.size
        if width * height > max_pixels:
            raise ImageError("too many pixels", f"{width} × {height}, at most {max_pixels:,}")
        cost_error = tile_error(file, max_pixels)
        if cost_error:
            raise ImageError("too much work", cost_error)
        scan_count = count_jpeg_scans(content, width * height)
        if scan_count > MAX_JPEG_SCANS:
            raise ImageError("too much work", "too many progressive scans: save the image again")
        if min_side:
            file.draft("RGB", (min_side, min_side))
        coefficient_pixels = width * height if scan_count > 1 else 0
        with DECODING_BUDGET.reserve(_estimate_memory(file, coefficient_pixels)):
            file.load()
            orientation = read_orientation(exif or _read_exif(file))
            transpose = TRANSPOSE_BY_ORIENTATION.get(orientation)
            image = shrink(_to_rgb(file))
            image = image.copy() if image is file else image
            image.info = {}
            upright = image.transpose(transpose) if transpose is not None else image
        # Pillow calls a JPEG with several pictures MPO; the first one is decoded
        file_format = "JPEG" if file.format == "MPO" else file.format or ""
        is_unmodified = file.format == "JPEG" and file.mode in ("RGB", "L") and transpose is None
        original_bytes = content if is_unmodified and upright.size == (width, height) else b""
    size = (height, width) if transpose in SWAPPING_TRANSPOSES else (width, height)
    return DecodedImage(
        upright,
        *size,
        orientation=orientation,
        jpeg_bytes=original_bytes,
        file_format=file_format,
    )


def _return_unchanged(image: Image.Image) -> Image.Image:
    return image


def _estimate_memory(file: ImageFile.ImageFile, coefficient_pixels: int) -> int:
    """Return the approximate number of bytes that decoding takes.

    Args:
        file: the opened file, after ``draft``.
        coefficient_pixels: full-size pixels of a progressive JPEG; 0 for other files.
    """
    codec_bytes = VIDEO_CODEC_EXTRA_BYTES if file.format in VIDEO_CODEC_FORMATS else 0
    pixel_bytes = (DECODING_BYTES_PER_PIXEL + codec_bytes) * file.width * file.height
    estimate = pixel_bytes + PROGRESSIVE_EXTRA_BYTES * coefficient_pixels
    return max(estimate, MIN_AVIF_BYTES) if file.format == "AVIF" else estimate


def _read_exif(file: ImageFile.ImageFile) -> bytes:
    """Return the EXIF block of a loaded PNG, WebP or AVIF; it may follow the pixel data.

    A TIFF and a HEIF are upright once they are loaded.
    """
    block = file.info.get("exif")
    return block if isinstance(block, bytes) else b""


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB, compositing transparency on white and scaling 16-bit grey to 8 bits."""
    if image.mode.startswith("I"):
        image = image.convert("F").point(lambda value: value / 256).convert("L")
    if "A" in image.getbands() or "transparency" in image.info:
        return _composite_on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _composite_on_white(image: Image.Image) -> Image.Image:
    """Composite an image on white, in bands of rows to save memory."""
    opaque_image = Image.new("RGB", image.size)
    for top in range(0, image.height, COMPOSITE_BAND_ROWS):
        box = (0, top, image.width, min(top + COMPOSITE_BAND_ROWS, image.height))
        layer = image.crop(box).convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        white.alpha_composite(layer)
        opaque_image.paste(white.convert("RGB"), box)
    return opaque_image


def crop_extreme_aspect(image: Image.Image) -> Image.Image:
    """Centre-crop an image to ``MAX_ASPECT_RATIO``; return other images unchanged."""
    width, height = image.size
    max_edge = MAX_ASPECT_RATIO * min(width, height)
    if max(width, height) <= max_edge:
        return image
    left, top = max(0, width - max_edge) // 2, max(0, height - max_edge) // 2
    return image.crop((left, top, left + min(width, max_edge), top + min(height, max_edge)))
