"""File names of exported images: the original ones, safe on every system, each used once."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

EXPORTED_IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"})
UPLOAD_PATTERN = re.compile(r"/data/upload/\d+/[0-9a-f]{8}-(.+)$")
"""An upload in Label Studio's media folder: the original name after eight random digits."""
INLINE_PATTERN = re.compile(r"data:image/(\w+)", re.IGNORECASE)
LOCAL_FILES_PATH = "/data/local-files/"
"""Label Studio's address of a file in a local storage; its path is the parameter ``d``."""
MAX_NAME_BYTES = 150
"""Most file systems allow 255 bytes; a task id and a suffix may follow."""


def original_name(address: str, task: int) -> str:
    """Return the original file name of a task's image.

    Where it has none, the name is ``task-N``, with a suffix if it is known.

    Args:
        address: as stored in the task's data; untrusted.
        task: id of the task.

    Example:
        >>> original_name("/data/upload/3/1f0c22aa-my_cat.jpg", 7)
        'my_cat.jpg'
        >>> original_name("data:image/png;base64,iVBORw0KGgo=", 7)
        'task-7.png'
    """
    if inline := INLINE_PATTERN.match(address):
        suffix = f".{inline[1].lower()}".replace(".jpeg", ".jpg")
        return f"task-{task}{suffix if suffix in EXPORTED_IMAGE_SUFFIXES else ''}"
    path = _address_path(address)
    upload = UPLOAD_PATTERN.search(path)
    return (upload[1] if upload else PurePosixPath(path).name) or f"task-{task}"


def _address_path(address: str) -> str:
    """Return the path in an address, decoded; empty for a malformed one."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    if parts.scheme.lower() == "data":
        return ""
    if parts.scheme and not parts.scheme.lower().startswith("http"):
        return address.partition("://")[2].partition("/")[2]  # keys of cloud storage are not quoted
    if parts.path.endswith(LOCAL_FILES_PATH):
        return parse_qs(parts.query).get("d", [""])[0]
    return unquote(parts.path)


def split_suffix(name: str) -> tuple[str, str]:
    """Return a file name as stem and suffix; the suffix is empty unless it is that of an image.

    Example:
        >>> split_suffix("beach.2024.JPG"), split_suffix("beach.2024")
        (('beach.2024', '.JPG'), ('beach.2024', ''))
    """
    suffix = PurePosixPath(name).suffix
    if suffix.lower() not in EXPORTED_IMAGE_SUFFIXES:
        return name, ""
    return name.removesuffix(suffix), suffix


class FileNames:
    """Gives out file names whose stems differ, also where case does not count.

    The stems differ, not only the names: labels of ``a.jpg`` and ``a.png`` are both ``a.txt``.
    """

    def __init__(self) -> None:
        self._used_stems: set[str] = set()

    def assign(self, name: str, fallback: str) -> str:
        """Return a safe file name that was not given out before.

        Args:
            name: the wanted name, perhaps of a path; untrusted.
            fallback: added where the name is used already, and used where nothing is left of it.
        """
        wanted_stem, suffix = split_suffix(name)
        stem = _safe_text(wanted_stem) or fallback
        unique_stem, count = stem, 1
        while unique_stem.casefold() in self._used_stems:
            unique_stem = f"{stem}-{fallback}" if count == 1 else f"{stem}-{fallback}-{count}"
            count += 1
        self._used_stems.add(unique_stem.casefold())
        return unique_stem + suffix


def _safe_text(text: str) -> str:
    """Return a text without separators, reserved characters and names; letters stay as they are."""
    from pathvalidate import sanitize_filename

    encodable = text.encode(errors="replace").decode()  # JSON may hold half a surrogate pair
    return sanitize_filename(
        unicodedata.normalize("NFC", encodable).lstrip("."),
        replacement_text="_",
        platform="universal",
        max_len=MAX_NAME_BYTES,
    )
