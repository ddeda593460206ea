"""The labels of a folder or file in one format, read one image at a time.

Label files are untrusted: their size is limited, and a path in them only names an image.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from backend.domain import ImageSize
from backend.errors import UsageError

MAX_LABEL_FILE_BYTES = 300_000_000
"""Maximum size of a COCO or CSV file; COCO's own largest file has 470 MB for 118,000 images."""
MAX_IMAGE_LABEL_BYTES = 5_000_000
"""Maximum size of a file with the labels of one image."""
FORMAT_NAMES = {
    "coco": "COCO",
    "yolo": "YOLO",
    "voc": "Pascal VOC",
    "csv": "CSV",
    "folders": "sorted folders",
}


@dataclass(frozen=True)
class SourceBox:
    """A bounding box as a label file has it, in pixels or in fractions of the image."""

    label: str
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class UnusableLabel:
    """A label that cannot be imported.

    Attributes:
        label: its name; empty if unknown.
        reason: why, as it is counted.
    """

    label: str
    reason: str


@dataclass(frozen=True)
class ImageLabels:
    """The labels of one image.

    Attributes:
        paths: where the image may be, relative to the source's folder; most likely first.
        choices: labels of the whole image.
        boxes: labels of objects.
        unusable: labels that cannot be imported.
        in_pixels: the boxes are in pixels; otherwise in fractions, 0 to 1, of the upright image.
        size: size of the image according to the label file; None if it has none.
        by_stem: the paths have no suffix.
    """

    paths: tuple[str, ...]
    choices: tuple[str, ...] = ()
    boxes: tuple[SourceBox, ...] = ()
    unusable: tuple[UnusableLabel, ...] = ()
    in_pixels: bool = False
    size: ImageSize | None = None
    by_stem: bool = False


@dataclass(frozen=True)
class LabelSource:
    """Labels in one format.

    Attributes:
        format: a key of ``FORMAT_NAMES``.
        root: the folder that the paths of images are relative to.
        files: the files that hold the labels.
        label_names: the labels that occur, in the order of the source.
        has_boxes: the labels are boxes; otherwise labels of whole images.
        is_multiple: an image can have several labels.
        image_count: number of images with labels.
        read: yields the labels of each image.
    """

    format: str
    root: Path
    files: frozenset[Path]
    label_names: tuple[str, ...]
    has_boxes: bool
    image_count: int
    read: Callable[[], Iterator[ImageLabels]]
    is_multiple: bool = False

    @property
    def description(self) -> str:
        """What it holds, for people."""
        subject = "boxes" if self.has_boxes else "labels"
        images = "1 image" if self.image_count == 1 else f"{self.image_count} images"
        return f"{FORMAT_NAMES[self.format]}: {subject} of {images}"


def read_label_file(file: Path, max_bytes: int) -> bytes:
    """Return the content of a label file.

    Raises:
        UsageError: it is too large, or cannot be opened.
    """
    try:
        size = file.stat().st_size if file.is_file() else None
        if size is None:
            raise UsageError(f"{file} is not a file.")
        if size > max_bytes:
            raise UsageError(
                f"{file} has {size:,} bytes; at most {max_bytes:,} are read: split it into several."
            )
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be opened ({error.strerror}).") from error


def clean_path(text: str) -> str:
    """Return an image's path or address as relative path, which cannot leave a folder.

    Example:
        >>> clean_path("C:\\\\data\\\\..\\\\a b.jpg"), clean_path("http://x/d/a%20b.jpg?v=1")
        ('data/a b.jpg', 'd/a b.jpg')
    """
    if re.match(r"[a-z][a-z0-9+.-]+://", text, re.IGNORECASE) or text.startswith("/data/local-"):
        try:
            parts = urlsplit(text)
            text = parse_qs(parts.query).get("d", [""])[0] or unquote(parts.path)
        except ValueError:
            return ""
    names = re.sub(r"^[A-Za-z]:", "", text.strip().replace("\\", "/")).split("/")
    return "/".join(name for name in names if name not in ("", ".", "..") and "\0" not in name)


def join_path(folder: Path, root: Path, name: str) -> str:
    """Return the path of a file in a folder, relative to the root."""
    return clean_path(f"{folder.relative_to(root).as_posix()}/{name}")


def parse_number(value: object) -> float:
    """Return a number of a label file; NaN if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except (OverflowError, ValueError):
        return math.nan


def parse_size(width: object, height: object) -> ImageSize | None:
    """Return the size of an image in pixels; None if it is missing or impossible."""
    numbers = (parse_number(width), parse_number(height))
    if not all(1 <= number < 1e6 for number in numbers):
        return None
    return ImageSize(int(numbers[0]), int(numbers[1]))
