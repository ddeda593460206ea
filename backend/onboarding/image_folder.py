"""A folder of files → the images of it that Label Studio and a model can use, each once.

Everything that is passed over is counted by its reason. One image at a time is in memory.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backend.errors import ImageError, UsageError

TWICE = "the same as another file of the folder"
THERE = "in the project already"
HIDDEN = "hidden file"
CLOSED = "cannot be opened"
SIGNS = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
)
"""How files begin that browsers show; the ending is what Label Studio knows them by."""
HEAD = 64
HEIC = frozenset({b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"})
AVIF = frozenset({b"avif", b"avis"})
UNSHOWN = "which browsers do not show: save them as JPEG"


@dataclass(frozen=True)
class Found:
    """An image to import.

    Attributes:
        file: its place below the folder, with ``/``.
        digest: SHA-256 of its bytes, hexadecimal.
        ending: what its kind ends with, whatever the file is called.
        content: its bytes.
    """

    file: str
    digest: str
    ending: str
    content: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """A plain file name: letters, digits, ``-`` and ``_``, and the ending of its kind."""
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(self.file).stem).strip("-")[:60]
        return f"{stem or self.digest[:12]}{self.ending}"


@dataclass(frozen=True)
class Passed:
    """A file that is not imported.

    Attributes:
        file: its place below the folder.
        reason: why, as it is counted.
    """

    file: str
    reason: str


@dataclass(frozen=True)
class Largest:
    """What is still read: bytes of a file, and pixels of an image."""

    bytes: int
    pixels: int


def files_of(folder: Path) -> list[Path]:
    """All files of a folder and its subfolders, in the order of their names.

    Links to other folders are not followed.

    Raises:
        UsageError: there is no such folder, or it cannot be opened.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}: name the one that holds the images.")

    def refused(error: OSError) -> None:
        raise UsageError(f"{error.filename} cannot be opened ({error.strerror}).") from error

    return [
        Path(place) / name
        for place, below, names in _sorted(os.walk(folder, onerror=refused))
        for name in sorted(names, key=_natural)
    ]


def read(
    folder: Path, files: Sequence[Path], known: frozenset[str], largest: Largest
) -> Iterator[Found | Passed]:
    """Read files one after the other.

    Args:
        folder: that they are in.
        files: of :func:`files_of`.
        known: digests of images that the project has already.
        largest: what is still read.

    Yields:
        for each file the image, or why it is passed over.
    """
    seen: set[str] = set()
    for path in files:
        one = _one(path, path.relative_to(folder).as_posix(), seen, known, largest)
        if isinstance(one, Found):
            seen.add(one.digest)
        yield one


def kind_of(head: bytes) -> str:
    """The ending for a file that begins so, such as ``.jpg``; else why it is not taken.

    Example:
        >>> kind_of(bytes.fromhex("ffd8ffe0")), kind_of(b"hello")
        ('.jpg', 'not an image')
    """
    for sign, ending in SIGNS:
        if head.startswith(sign):
            return ending
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return ".webp"
    if head[:4] in (b"II*\0", b"MM\0*"):
        return f"TIFF or a camera's raw file, {UNSHOWN}"
    if head[4:8] == b"ftyp" and head[8:12] in HEIC | AVIF:
        return f"{'HEIC' if head[8:12] in HEIC else 'AVIF'}, {UNSHOWN}"
    return "not an image"


def folder_names(folder: Path, files: Sequence[Path]) -> list[str]:
    """The names of the subfolders that hold files, which may be labels already."""
    tops = (path.relative_to(folder).parts for path in files)
    return list(dict.fromkeys(parts[0] for parts in tops if len(parts) > 1 and parts[0][0] != "."))


def _one(
    path: Path, file: str, seen: set[str], known: frozenset[str], largest: Largest
) -> Found | Passed:
    if any(part.startswith(".") for part in Path(file).parts) or path.name == "Thumbs.db":
        return Passed(file, HIDDEN)
    try:
        content, kind = _content(path, largest)
    except OSError as error:
        return Passed(file, f"{CLOSED} ({error.strerror or error})")
    except ImageError as error:
        return Passed(file, str(error))
    digest = hashlib.sha256(content).hexdigest()
    if digest in seen:
        return Passed(file, TWICE)
    if digest in known:
        seen.add(digest)
        return Passed(file, THERE)
    why_not = _why_not(content, largest)
    return Passed(file, why_not) if why_not else Found(file, digest, kind, content)


def _content(path: Path, largest: Largest) -> tuple[bytes, str]:
    """The bytes of an image file, and its ending.

    Raises:
        ImageError: it is none, or too large.
    """
    if not path.is_file():  # a pipe would never end
        raise ImageError("not a file")
    with path.open("rb") as opened:
        head = opened.read(HEAD)
        if not head:
            raise ImageError("empty file")
        kind = kind_of(head)
        if not kind.startswith("."):
            ending = f" ({path.suffix.lower()})" if path.suffix and kind == "not an image" else ""
            raise ImageError(kind + ending)
        content = head + opened.read(max(0, largest.bytes - HEAD) + 1)
    if len(content) > largest.bytes:
        mega = largest.bytes // 1_000_000
        raise ImageError(f"larger than {mega} MB (PRELABEL_MAX_IMAGE_MB)")
    return content, kind


def _why_not(content: bytes, largest: Largest) -> str:
    """Why an image cannot be read; empty when it can."""
    from backend.vision.images.decode import decode

    try:
        decode(content, max_pixels=largest.pixels, at_least=1)
    except ImageError as error:
        return error.reason
    return ""


def _sorted(
    walk: Iterator[tuple[str, list[str], list[str]]],
) -> Iterator[tuple[str, list[str], list[str]]]:
    for place, below, names in walk:
        below.sort(key=_natural)
        yield place, below, names


def _natural(name: str) -> list[tuple[int, str]]:
    """A sorting key by which 2 comes before 10."""
    parts = re.split(r"(\d+)", name)
    return [(int(p), "") if p.isdigit() and p.isascii() else (-1, p.lower()) for p in parts]
