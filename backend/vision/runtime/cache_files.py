"""Write and delete files in the cache folder of networks."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def write_atomically(file: Path, content: bytes) -> None:
    """Write a file; readers see the old or the new content, never a part.

    Raises:
        OSError: the folder is not writable, or the disk is full.
    """
    temporary = file.with_name(f".{secrets.token_hex(4)}{file.suffix}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(file)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def prune_cache(folder: Path, suffixes: Sequence[str], maximum: int) -> None:
    """Delete the least recently used files, and temporary ones of killed processes with them.

    Args:
        folder: cache folder.
        suffixes: suffixes of the files; those with equal stems are kept or deleted together.
        maximum: number of stems to keep.
    """
    used: dict[str, float] = {}
    for path in folder.iterdir():
        if path.suffix in suffixes:
            used[path.stem] = max(used.get(path.stem, 0.0), path.stat().st_mtime)
    for stem in sorted(used, key=lambda stem: used[stem])[:-maximum]:
        for suffix in suffixes:
            (folder / f"{stem}{suffix}").unlink(missing_ok=True)
