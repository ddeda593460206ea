"""What is read of an image file besides its pixels: how it is turned, and how much work it makes.

Cameras and programs write metadata that keep to no standard. Nothing here fails on them: what
cannot be read is not there, and the image stays usable. A small file may also make work for
minutes without having many pixels; such a one is told from what cameras and programs write.
"""

from __future__ import annotations

import re
import struct

EXIF = b"Exif\0\0"
ORIENTATION = 0x0112
SHORT = 3
"""The type of the orientation in a TIFF directory: 16 bits."""
SCAN, END = 0xDA, 0xD9
BARE = frozenset({0x01, *range(0xD0, 0xDA)})
"""Markers of a JPEG without a length."""
NEEDED = frozenset({0xE0, 0xEE})
"""Application segments of a JPEG that pixels depend on: JFIF, and Adobe's, which tells CMYK."""
NEXT = re.compile(rb"\xff+[^\x00\xff]")
SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""A marker among the pixels of a JPEG: there 0xFF is followed by 0, or is a restart."""
MOST_SCANS = 100
"""Passes over a progressive JPEG; programs write about ten."""
MOST_SCANNED = 2_500_000_000
"""Pixels of all passes together: 25 over 100 megapixels."""
MOST_SEGMENTS = 20_000
"""Segments of a JPEG, or blocks before the first frame of a GIF."""
MOST_CHUNKS = 100_000
"""Of a PNG; programs write one for 8 kB or more."""
MOST_RUN = 1_000_000
"""Bytes of a BMP that is compressed by run length, which is decoded slowly."""


def orientation(exif: bytes) -> int:
    """The orientation that an EXIF block gives, 1 to 8; 1 where it gives none.

    Args:
        exif: a TIFF directory, with or without ``Exif`` before it.
    """
    block = exif.removeprefix(EXIF)
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", block, at)
            if tag == ORIENTATION:
                (value,) = struct.unpack_from(f"{order}H", block, at + 8)
                return int(value) if kind == SHORT and 1 <= value <= 8 else 1
    except struct.error:  # it points outside of itself
        pass
    return 1


def split_jpeg(content: bytes) -> tuple[bytes, bytes]:
    """A JPEG without its metadata, and its EXIF block.

    Returns:
        the file with all that its pixels need; the block, empty where there is none.
    """
    kept, exif, done, at = [content[:2]], b"", 2, 2
    for _ in range(MOST_SEGMENTS):
        found = NEXT.match(content, at)
        marker = content[found.end() - 1] if found else SCAN
        if not found or marker == SCAN or marker in BARE:
            break
        start = found.end()
        end = start + int.from_bytes(content[start : start + 2], "big")
        if 0xE1 <= marker <= 0xEF and marker not in NEEDED:
            body = content[start + 2 : end]
            exif = exif or (body if marker == 0xE1 and body.startswith(EXIF) else b"")
            kept.append(content[done:at])
            done = end
        at = end
    return (b"".join([*kept, content[done:]]) if len(kept) > 1 else content), exif


def excess(content: bytes) -> str:
    """What makes a file work before its pixels are reached; empty where nothing does."""
    if content.startswith(b"\xff\xd8"):
        return f"over {MOST_SEGMENTS:,} segments" if _many_segments(content) else ""
    if content.startswith(b"\x89PNG"):
        return f"over {MOST_CHUNKS:,} chunks" if _many_chunks(content) else ""
    if content.startswith(b"GIF8"):
        return f"over {MOST_SEGMENTS:,} blocks" if _many_blocks(content) else ""
    if content.startswith(b"BM") and content[30:31] in (b"\1", b"\2"):
        return "a large BMP of run lengths: save it anew" if len(content) > MOST_RUN else ""
    return ""


def passes(content: bytes, pixels: int) -> int:
    """How often a JPEG is drawn over; 1 for all other files.

    Args:
        content: of the file.
        pixels: width × height.

    Returns:
        at least as many as a decoder finds; over ``MOST_SCANS`` where that is too much work.
    """
    if not content.startswith(b"\xff\xd8"):
        return 1
    count = content.count(b"\xff\xda")  # may stand elsewhere by chance, but never less often
    if count > 1 and (count > MOST_SCANS or count * pixels > MOST_SCANNED):
        count = _counted_scans(content)
        if count > 1 and count * pixels > MOST_SCANNED:
            return max(count, MOST_SCANS + 1)
    return max(1, count)


def _counted_scans(content: bytes) -> int:
    scans, at = 0, 2
    for _ in range(MOST_SEGMENTS):
        found = NEXT.search(content, at)
        if found is None or content[found.end() - 1] == END:
            return scans
        marker, at = content[found.end() - 1], found.end()
        if marker in BARE:
            continue
        at += int.from_bytes(content[at : at + 2], "big")
        if marker == SCAN:
            scans += 1
            end = SCAN_END.search(content, at)
            at = end.start() if end else len(content)
    return MOST_SCANS + 1


def _many_segments(content: bytes) -> bool:
    at = 2
    for _ in range(MOST_SEGMENTS):
        found = NEXT.match(content, at)
        if found is None or content[found.end() - 1] in (SCAN, *BARE):
            return False
        at = found.end() + int.from_bytes(content[found.end() : found.end() + 2], "big")
    return True


def _many_chunks(content: bytes) -> bool:
    at = 8
    for _ in range(MOST_CHUNKS):
        if at + 8 > len(content) or content[at + 4 : at + 8] == b"IEND":
            return False
        at += 12 + int.from_bytes(content[at : at + 4], "big")
    return True


def _many_blocks(content: bytes) -> bool:
    """Before the first frame of a GIF; the blocks of its pixels are read quickly."""
    packed = content[10] if len(content) > 10 else 0
    at, inside = 13 + (3 << ((packed & 7) + 1) if packed & 0x80 else 0), False
    for _ in range(MOST_SEGMENTS):
        mark = content[at : at + 1]
        if inside:
            inside = mark not in (b"", b"\0")
            at += 1 + (mark[0] if mark else 0)
        elif mark in (b"", b",", b";"):
            return False
        else:
            inside = mark == b"!"
            at += 2 if inside else 1
    return True
