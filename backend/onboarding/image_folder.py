"""Read the images of a folder, without duplicates and files that Label Studio cannot show.

Skipped files are yielded with a reason. Only one image at a time is in memory.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backend.errors import ImageError, UsageError
from backend.onboarding.label_order import natural_sort_key, sort_label_names

DUPLICATE_REASON = "duplicate of another file in the folder"
ALREADY_IMPORTED_REASON = "already in the project"
HIDDEN_REASON = "hidden file"
UNREADABLE_REASON = "cannot be opened"
HEADER_BYTES = 64
RAW_SUFFIXES = frozenset(
    ".3fr .arw .cr2 .cr3 .dng .erf .iiq .kdc .mef .mos .nef .nrw .orf .pef .raf .rw2 .srw".split()
)
"""Endings of raw files of cameras, most of which start as a TIFF with a small preview."""
RAW_FILE_REASON = "raw file of a camera: save it as JPEG"


@dataclass(frozen=True)
class FolderImage:
    """An image to import.

    Attributes:
        path: path relative to the folder, with ``/``.
        digest: SHA-256 of the file, hexadecimal.
        suffix: suffix of its format, whatever the name of the file.
        content: the bytes to import: those of the file, or a JPEG of the same pixels.
    """

    path: str
    digest: str
    suffix: str
    content: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """File name of letters, digits, ``-`` and ``_``, with the suffix of its format."""
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(self.path).stem).strip("-")[:60]
        return f"{stem or self.digest[:12]}{self.suffix}"


@dataclass(frozen=True)
class SkippedFile:
    """A file that is not imported.

    Attributes:
        path: path relative to the folder.
        reason: reason why it is skipped.
    """

    path: str
    reason: str


@dataclass(frozen=True)
class ImageLimits:
    """Maximum size of a file in bytes and of an image in pixels."""

    max_bytes: int
    max_pixels: int


def list_files(folder: Path) -> list[Path]:
    """Return all files of a folder and its subfolders, sorted by name.

    Links to other folders are not followed.

    Raises:
        UsageError: the folder does not exist or cannot be opened.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}: name the one that contains the images.")

    def raise_usage_error(error: OSError) -> None:
        raise UsageError(f"{error.filename} cannot be opened ({error.strerror}).") from error

    return [
        Path(parent) / name
        for parent, subfolders, names in _sorted_walk(os.walk(folder, onerror=raise_usage_error))
        for name in sorted(names, key=natural_sort_key)
    ]


def read_images(
    folder: Path, files: Sequence[Path], known_digests: frozenset[str], image_limits: ImageLimits
) -> Iterator[FolderImage | SkippedFile]:
    """Read files lazily.

    Args:
        folder: folder that contains the files.
        files: files returned by :func:`list_files`.
        known_digests: digests of images that the project already has.
        image_limits: limits above which files are skipped.

    Yields:
        the image of each file, or the reason why it is skipped.
    """
    seen_digests: set[str] = set()
    for path in files:
        entry = _read_file(
            path, path.relative_to(folder).as_posix(), seen_digests, known_digests, image_limits
        )
        if isinstance(entry, FolderImage):
            seen_digests.add(entry.digest)
        yield entry


def detect_suffix(header: bytes) -> str:
    """Return the suffix for an image file, such as ``.jpg``, by its first bytes; "" if it is none.

    Example:
        >>> detect_suffix(bytes.fromhex("ffd8ffe0")), detect_suffix(b"hello")
        ('.jpg', '')
    """
    from backend.vision.images.display import (
        CONVERTED_SUFFIX,
        displayable_suffix,
        needs_conversion,
    )

    return displayable_suffix(header) or (CONVERTED_SUFFIX if needs_conversion(header) else "")


def subfolder_names(folder: Path, files: Sequence[Path]) -> list[str]:
    """Return the names of direct subfolders with files, which may serve as labels."""
    relative_paths = (path.relative_to(folder).parts for path in files)
    return sort_label_names(
        {
            path_parts[0]
            for path_parts in relative_paths
            if len(path_parts) > 1 and path_parts[0][0] != "."
        }
    )


def _read_file(
    path: Path,
    relative_path: str,
    seen_digests: set[str],
    known_digests: frozenset[str],
    image_limits: ImageLimits,
) -> FolderImage | SkippedFile:
    if any(part.startswith(".") for part in Path(relative_path).parts) or path.name == "Thumbs.db":
        return SkippedFile(relative_path, HIDDEN_REASON)
    try:
        content, suffix = _read_content(path, image_limits)
    except OSError as error:
        return SkippedFile(relative_path, f"{UNREADABLE_REASON} ({error.strerror or error})")
    except ImageError as error:
        return SkippedFile(relative_path, str(error))
    digest = hashlib.sha256(content).hexdigest()
    if digest in seen_digests:
        return SkippedFile(relative_path, DUPLICATE_REASON)
    if digest in known_digests:
        seen_digests.add(digest)
        return SkippedFile(relative_path, ALREADY_IMPORTED_REASON)
    try:
        return FolderImage(relative_path, digest, suffix, _importable(content, image_limits))
    except ImageError as error:
        return SkippedFile(relative_path, error.reason)


def _read_content(path: Path, image_limits: ImageLimits) -> tuple[bytes, str]:
    """Return the bytes of an image file and its suffix.

    Raises:
        ImageError: the file is not a supported image, or is too large.
    """
    if not path.is_file():  # reading a pipe would block
        raise ImageError("not a file")
    with path.open("rb") as stream:
        header = stream.read(HEADER_BYTES)
        if not header:
            raise ImageError("empty file")
        suffix = detect_suffix(header)
        if path.suffix.lower() in RAW_SUFFIXES:
            raise ImageError(RAW_FILE_REASON)
        if not suffix:
            raise ImageError(
                f"not an image ({path.suffix.lower()})" if path.suffix else "not an image"
            )
        content = header + stream.read(max(0, image_limits.max_bytes - HEADER_BYTES) + 1)
    if len(content) > image_limits.max_bytes:
        max_megabytes = image_limits.max_bytes // 1_000_000
        raise ImageError(f"larger than {max_megabytes} MB (PRELABEL_MAX_IMAGE_MB)")
    return content, suffix


def _importable(content: bytes, image_limits: ImageLimits) -> bytes:
    """Return the bytes to import: those of the file, or an upright JPEG without metadata.

    Raises:
        ImageError: the image cannot be read.
    """
    from backend.vision.images.decode import decode_upright_image
    from backend.vision.images.display import make_displayable, needs_conversion

    if needs_conversion(content):
        return make_displayable(content, image_limits.max_pixels)[0]
    decode_upright_image(content, max_pixels=image_limits.max_pixels, min_side=1)
    return content


def _sorted_walk(
    walk: Iterator[tuple[str, list[str], list[str]]],
) -> Iterator[tuple[str, list[str], list[str]]]:
    for parent, subfolders, names in walk:
        subfolders.sort(key=natural_sort_key)
        yield parent, subfolders, names
