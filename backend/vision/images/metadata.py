"""Read the EXIF orientation of image files and reject files that are too expensive to decode.

Metadata often violate the standards, so unreadable metadata are ignored instead of rejecting the
image. A small file with few pixels can still take minutes to decode; the limits are far above what
cameras and image editors write.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

EXIF_PREFIX = b"Exif\0\0"
ORIENTATION_TAG = 0x0112
TIFF_SHORT_TYPE = 3
"""Type of the orientation entry in a TIFF directory: unsigned 16-bit integer."""
SCAN_MARKER, END_MARKER = 0xDA, 0xD9
MARKERS_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xDA)})
"""JPEG markers that are not followed by a length."""
REQUIRED_SEGMENTS = frozenset({0xE0, 0xEE})
"""JPEG application segments required for decoding: APP0 (JFIF) and APP14 (Adobe, marks CMYK)."""
NEXT_MARKER_PATTERN = re.compile(rb"\xff+[^\x00\xff]")
SCAN_END_PATTERN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""The marker that ends the data of a scan, where 0xFF is stuffed with 0 or a restart marker."""
MAX_JPEG_SCANS = 100
"""Maximum scans of a progressive JPEG; encoders write about ten."""
MAX_SCANNED_PIXELS = 2_500_000_000
"""Maximum scans × pixels of a JPEG, for example 25 scans of 100 megapixels."""
MAX_SEGMENTS = 20_000
"""Maximum segments of a JPEG, or blocks before the first frame of a GIF."""
MAX_PNG_CHUNKS = 100_000
"""Maximum chunks of a PNG; encoders write chunks of at least 8 kB."""
MAX_TIFF_ENTRIES = 500
"""Maximum entries of the directory of a TIFF, each of which Pillow reads into memory."""
TIFF_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
"""Bytes of one value by the type of a TIFF entry (TIFF 6.0, page 15)."""
MAX_RLE_BMP_BYTES = 1_000_000
"""Maximum file size of a run-length encoded BMP, which Pillow decodes slowly."""


def read_orientation(exif: bytes) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if missing or invalid.

    Args:
        exif: EXIF block, with or without the prefix ``Exif``.
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
    except struct.error:  # an offset beyond the block
        pass
    return 1


def split_jpeg(content: bytes) -> tuple[bytes, bytes]:
    """Return a JPEG without metadata, and its EXIF block (empty if there is none)."""
    parts, exif, copied_until = [content[:2]], b"", 2
    for segment in islice(_header_segments(content), MAX_SEGMENTS):
        if 0xE1 <= segment.marker <= 0xEF and segment.marker not in REQUIRED_SEGMENTS:
            body = content[segment.start + 2 : segment.end]
            is_exif = segment.marker == 0xE1 and body.startswith(EXIF_PREFIX)
            exif = exif or (body if is_exif else b"")
            parts.append(content[copied_until : segment.offset])
            copied_until = segment.end
    stripped = b"".join([*parts, content[copied_until:]]) if len(parts) > 1 else content
    return stripped, exif


class _Segment(NamedTuple):
    """A JPEG segment: the marker starts at ``offset``; length and body are in ``start:end``."""

    marker: int
    offset: int
    start: int
    end: int


def _header_segments(content: bytes) -> Iterator[_Segment]:
    """Yield the segments of a JPEG before its first scan."""
    offset = 2
    while match := NEXT_MARKER_PATTERN.match(content, offset):
        marker, start = content[match.end() - 1], match.end()
        if marker == SCAN_MARKER or marker in MARKERS_WITHOUT_LENGTH:
            return
        end = start + int.from_bytes(content[start : start + 2], "big")
        yield _Segment(marker, offset, start, end)
        offset = end


def header_cost_error(content: bytes) -> str:
    """Return why a file is too expensive to parse, before any pixel is decoded; empty if not."""
    if content.startswith(b"\xff\xd8"):
        segment_limit = islice(_header_segments(content), MAX_SEGMENTS - 1, None)
        return f"over {MAX_SEGMENTS:,} segments" if any(segment_limit) else ""
    if content.startswith(b"\x89PNG"):
        return f"over {MAX_PNG_CHUNKS:,} chunks" if _has_too_many_chunks(content) else ""
    if content.startswith(b"GIF8"):
        return f"over {MAX_SEGMENTS:,} blocks" if _has_too_many_blocks(content) else ""
    if content.startswith(b"BM") and content[30:31] in (b"\1", b"\2"):
        is_large = len(content) > MAX_RLE_BMP_BYTES
        return "a large run-length encoded BMP: save the image again" if is_large else ""
    if content[:4] in (b"II*\0", b"MM\0*"):
        return _tiff_cost_error(content)
    if content[:4] in (b"II+\0", b"MM\0+"):
        return "a BigTIFF: save the image again"
    return ""


def count_jpeg_scans(content: bytes, pixels: int) -> int:
    """Return an upper bound of the number of scans of a JPEG; 1 for other formats.

    Args:
        content: content of the file.
        pixels: width × height.

    Returns:
        the bound; above ``MAX_JPEG_SCANS`` if scans × pixels exceeds ``MAX_SCANNED_PIXELS``.
    """
    if not content.startswith(b"\xff\xd8"):
        return 1
    count = content.count(b"\xff\xda")  # may also occur in other data
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


def _has_too_many_chunks(content: bytes) -> bool:
    offset = 8
    for _ in range(MAX_PNG_CHUNKS):
        if offset + 8 > len(content) or content[offset + 4 : offset + 8] == b"IEND":
            return False
        offset += 12 + int.from_bytes(content[offset : offset + 4], "big")
    return True


def _tiff_cost_error(content: bytes) -> str:
    """Return why the first directory of a TIFF is too expensive to read; empty if it is not."""
    order, value_bytes = "<" if content.startswith(b"II") else ">", 0
    try:
        (start,) = struct.unpack_from(f"{order}I", content, 4)
        (count,) = struct.unpack_from(f"{order}H", content, start)
        if count > MAX_TIFF_ENTRIES:
            return f"over {MAX_TIFF_ENTRIES} entries"
        for offset in range(start + 2, start + 2 + 12 * count, 12):
            kind, length = struct.unpack_from(f"{order}HI", content, offset + 2)
            value_bytes += TIFF_TYPE_BYTES.get(kind, 1) * length
    except struct.error:  # damaged: Pillow reports it
        return ""
    return "entries larger than the file" if value_bytes > 2 * len(content) else ""


def _has_too_many_blocks(content: bytes) -> bool:
    """Return whether a GIF has more than ``MAX_SEGMENTS`` blocks before its first frame."""
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
