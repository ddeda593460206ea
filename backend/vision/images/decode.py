"""Bytes that somebody sent → an upright RGB image, or one clear reason why not."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

from PIL import Image, ImageFile, UnidentifiedImageError

from backend.errors import ImageError
from backend.vision.images.decode_memory import DECODING
from backend.vision.images.metadata import MOST_SCANS, excess, orientation, passes, split_jpeg

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""Those that browsers show, too: what nobody sees nobody labels."""
TURNS = {
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
PIXEL = 8
"""Bytes that a pixel takes while decoding: Pillow's four, once as stored and once as RGB."""
COEFFICIENTS = 6
"""Bytes more in a JPEG of several passes, which is held whole however much it is reduced."""
ROWS = 256
"""Rows that are put on white at a time."""
SWAPS = frozenset(turn for orientation, turn in TURNS.items() if orientation >= 5)
"""Those that exchange width and height."""
Shrink = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        image: RGB, upright; reduced while decoding where ``at_least`` allowed it.
        width: pixels of the upright original.
        height: pixels of the upright original.
        file: a JPEG without metadata that holds exactly this image; empty where there is none.
    """

    image: Image.Image
    width: int
    height: int
    file: bytes = field(default=b"", repr=False, kw_only=True)


def decode(
    content: bytes, *, max_pixels: int, at_least: int = 0, shrink: Shrink | None = None
) -> Picture:
    """Decode an image from an untrusted source.

    Large images wait until there is memory for them, see ``decode_budget.DECODING``.

    Args:
        content: the file's bytes.
        max_pixels: width × height above which it is refused, before any pixel is decoded.
        at_least: a JPEG may be reduced while decoding as long as both sides stay at least this
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
            return _decode(content, max_pixels, at_least, shrink or _as_it_is)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not an image", f"none of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise ImageError("too many pixels", str(error)) from error
    except MemoryError as error:
        raise ImageError("too many pixels", "there is no memory for it") from error
    except Exception as error:  # whatever a decoder makes of bytes that somebody sent
        raise ImageError("damaged image", str(error)) from error


def _decode(content: bytes, max_pixels: int, at_least: int, shrink: Shrink) -> Picture:
    if not content:
        raise ImageError("empty file")
    exif = b""
    if content.startswith(b"\xff\xd8"):
        content, exif = split_jpeg(content)
    too_much = excess(content)
    if too_much:
        raise ImageError("too much work", too_much)
    with Image.open(io.BytesIO(content), formats=FORMATS) as file:
        width, height = file.size
        if width * height > max_pixels:
            raise ImageError("too many pixels", f"{width} × {height}, at most {max_pixels:,}")
        drawn = passes(content, width * height)
        if drawn > MOST_SCANS:
            raise ImageError("too much work", "it is drawn over too often: save it anew")
        if at_least:
            file.draft("RGB", (at_least, at_least))
        with DECODING.hold(_memory(file, width * height if drawn > 1 else 0)):
            file.load()
            turn = TURNS.get(orientation(exif or _exif(file)))
            image = shrink(_rgb(file))
            image = image.copy() if image is file else image
            image.info = {}
            upright = image.transpose(turn) if turn is not None else image
        as_stored = file.format == "JPEG" and file.mode in ("RGB", "L") and turn is None
        same = content if as_stored and upright.size == (width, height) else b""
    return Picture(upright, *((height, width) if turn in SWAPS else (width, height)), file=same)


def _as_it_is(image: Image.Image) -> Image.Image:
    return image


def _memory(file: ImageFile.ImageFile, held: int) -> int:
    """Bytes that decoding takes, about.

    Args:
        file: opened, and reduced where it may be.
        held: pixels that are held as coefficients until the last pass.
    """
    return PIXEL * file.width * file.height + COEFFICIENTS * held


def _exif(file: ImageFile.ImageFile) -> bytes:
    """The EXIF block of a PNG or WebP; such a one may stand after the pixels."""
    block = file.info.get("exif")
    return block if isinstance(block, bytes) else b""


def _rgb(image: Image.Image) -> Image.Image:
    """RGB on white where it is transparent; 16-bit greys scaled, not cut off."""
    if image.mode.startswith("I"):
        image = image.convert("F").point(lambda value: value / 256).convert("L")
    if "A" in image.getbands() or "transparency" in image.info:
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """Without transparency: a band of rows at a time, as whole copies would take much memory."""
    whole = Image.new("RGB", image.size)
    for top in range(0, image.height, ROWS):
        box = (0, top, image.width, min(top + ROWS, image.height))
        layer = image.crop(box).convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        white.alpha_composite(layer)
        whole.paste(white.convert("RGB"), box)
    return whole
