"""What is read of an image file besides its pixels: how it is turned, and how much work it makes.

Cameras and programs write metadata that keep to no standard. Nothing here fails on them: what
cannot be read is not there, and the image stays usable. A small file may also make work for
minutes without having many pixels; such a one is told from what cameras and programs write.
"""

from __future__ import annotations

import re
import struct

EXIF_PREFIX = b"Exif\0\0"
ORIENTATION_TAG = 0x0112
TIFF_SHORT_TYPE = 3
"""The type of the orientation in a TIFF directory: 16 bits."""
SCAN_MARKER, END_MARKER = 0xDA, 0xD9
MARKERS_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xDA)})
"""Markers of a JPEG without a length."""
REQUIRED_SEGMENTS = frozenset({0xE0, 0xEE})
"""Application segments of a JPEG that pixels depend on: JFIF, and Adobe's, which tells CMYK."""
NEXT_MARKER_PATTERN = re.compile(rb"\xff+[^\x00\xff]")
SCAN_END_PATTERN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""A marker among the pixels of a JPEG: there 0xFF is followed by 0, or is a restart."""
MAX_JPEG_SCANS = 100
"""Passes over a progressive JPEG; programs write about ten."""
MAX_SCANNED_PIXELS = 2_500_000_000
"""Pixels of all passes together: 25 over 100 megapixels."""
MAX_SEGMENTS = 20_000
"""Segments of a JPEG, or blocks before the first frame of a GIF."""
MAX_PNG_CHUNKS = 100_000
"""Of a PNG; programs write one for 8 kB or more."""
MAX_RLE_BMP_BYTES = 1_000_000
"""Bytes of a BMP that is compressed by run length, which is decoded slowly."""


def read_orientation(exif: bytes) -> int:
    """The orientation that an EXIF block gives, 1 to 8; 1 where it gives none.

    Args:
        exif: a TIFF directory, with or without ``Exif`` before it.
    """
    block = exif.removeprefix(EXIF_PREFIX)
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
        for offset in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", block, offset)
            if tag == ORIENTATION_TAG:
                (value,) = struct.unpack_from(f"{order}H", block, offset + 8)
                return int(value) if kind == TIFF_SHORT_TYPE and 1 <= value <= 8 else 1
    except struct.error:  # it points outside of itself
        pass
    return 1


def split_jpeg(content: bytes) -> tuple[bytes, bytes]:
    """A JPEG without its metadata, and its EXIF block.

    Returns:
        the file with all that its pixels need; the block, empty where there is none.
    """
    kept_parts, exif, copied_until, offset = [content[:2]], b"", 2, 2
    for _ in range(MAX_SEGMENTS):
        match = NEXT_MARKER_PATTERN.match(content, offset)
        marker = content[match.end() - 1] if match else SCAN_MARKER
        if not match or marker == SCAN_MARKER or marker in MARKERS_WITHOUT_LENGTH:
            break
        start = match.end()
        end = start + int.from_bytes(content[start : start + 2], "big")
        if 0xE1 <= marker <= 0xEF and marker not in REQUIRED_SEGMENTS:
            body = content[start + 2 : end]
            exif = exif or (body if marker == 0xE1 and body.startswith(EXIF_PREFIX) else b"")
            kept_parts.append(content[copied_until:offset])
            copied_until = end
        offset = end
    return (
        b"".join([*kept_parts, content[copied_until:]]) if len(kept_parts) > 1 else content
    ), exif


def decoding_cost_reason(content: bytes) -> str:
    """What makes a file work before its pixels are reached; empty where nothing does."""
    if content.startswith(b"\xff\xd8"):
        return f"over {MAX_SEGMENTS:,} segments" if _has_too_many_segments(content) else ""
    if content.startswith(b"\x89PNG"):
        return f"over {MAX_PNG_CHUNKS:,} chunks" if _has_too_many_chunks(content) else ""
    if content.startswith(b"GIF8"):
        return f"over {MAX_SEGMENTS:,} blocks" if _has_too_many_blocks(content) else ""
    if content.startswith(b"BM") and content[30:31] in (b"\1", b"\2"):
        return (
            "a large BMP of run lengths: save it anew" if len(content) > MAX_RLE_BMP_BYTES else ""
        )
    return ""


def count_jpeg_scans(content: bytes, pixels: int) -> int:
    """How often a JPEG is drawn over; 1 for all other files.

    Args:
        content: of the file.
        pixels: width × height.

    Returns:
        at least as many as a decoder finds; over ``MAX_JPEG_SCANS`` where that is too much work.
    """
    if not content.startswith(b"\xff\xd8"):
        return 1
    count = content.count(b"\xff\xda")  # may stand elsewhere by chance, but never less often
    if count > 1 and (count > MAX_JPEG_SCANS or count * pixels > MAX_SCANNED_PIXELS):
        count = _parse_scan_count(content)
        if count > 1 and count * pixels > MAX_SCANNED_PIXELS:
            return max(count, MAX_JPEG_SCANS + 1)
    return max(1, count)


def _parse_scan_count(content: bytes) -> int:
    scans, offset = 0, 2
    for _ in range(MAX_SEGMENTS):
        match = NEXT_MARKER_PATTERN.search(content, offset)
        if match is None or content[match.end() - 1] == END_MARKER:
            return scans
        marker, offset = content[match.end() - 1], match.end()
        if marker in MARKERS_WITHOUT_LENGTH:
            continue
        offset += int.from_bytes(content[offset : offset + 2], "big")
        if marker == SCAN_MARKER:
            scans += 1
            end = SCAN_END_PATTERN.search(content, offset)
            offset = end.start() if end else len(content)
    return MAX_JPEG_SCANS + 1


def _has_too_many_segments(content: bytes) -> bool:
    offset = 2
    for _ in range(MAX_SEGMENTS):
        match = NEXT_MARKER_PATTERN.match(content, offset)
        if match is None or content[match.end() - 1] in (SCAN_MARKER, *MARKERS_WITHOUT_LENGTH):
            return False
        offset = match.end() + int.from_bytes(content[match.end() : match.end() + 2], "big")
    return True


def _has_too_many_chunks(content: bytes) -> bool:
    offset = 8
    for _ in range(MAX_PNG_CHUNKS):
        if offset + 8 > len(content) or content[offset + 4 : offset + 8] == b"IEND":
            return False
        offset += 12 + int.from_bytes(content[offset : offset + 4], "big")
    return True


def _has_too_many_blocks(content: bytes) -> bool:
    """Before the first frame of a GIF; the blocks of its pixels are read quickly."""
    packed = content[10] if len(content) > 10 else 0
    offset, in_extension = 13 + (3 << ((packed & 7) + 1) if packed & 0x80 else 0), False
    for _ in range(MAX_SEGMENTS):
        block_type = content[offset : offset + 1]
        if in_extension:
            in_extension = block_type not in (b"", b"\0")
            offset += 1 + (block_type[0] if block_type else 0)
        elif block_type in (b"", b",", b";"):
            return False
        else:
            in_extension = block_type == b"!"
            offset += 2 if in_extension else 1
    return True
