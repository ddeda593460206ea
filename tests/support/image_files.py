"""Well-formed and malformed image files as bytes."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image


def encode_image(image: Image.Image, kind: str = "PNG", **more: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **more)
    return out.getvalue()


def make_jpeg_with_segments(*segments: bytes) -> bytes:
    """Return a JPEG of 64 × 48 pixels with application segments at the start."""
    content = encode_image(Image.new("RGB", (64, 48), "teal"), "JPEG")
    parts = [one[:2] + struct.pack(">H", len(one)) + one[2:] for one in segments]
    return content[:2] + b"".join(parts) + content[2:]


def make_exif_segment(*entries: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """Return an EXIF segment with these entries: tag, type, count, four bytes."""
    rows = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3] for entry in sorted(entries))
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    directory = struct.pack(f"{order}H", len(entries)) + rows + bytes(4)
    return b"\xff\xe1Exif\0\0" + head + directory


ROTATED_EXIF_FIELD = (0x0112, 3, 1, struct.pack("<HH", 6, 0))


MALFORMED_EXIF_FIELDS = [
    (0x011A, 3, 1, struct.pack("<HH", 72, 0)),  # a resolution that is no fraction
    (0x010F, 3, 1, struct.pack("<HH", 72, 0)),  # a maker that is a number
    (0x0100, 2, 4, b"64\0\0"),  # a width that is a text
    (0x9000, 2, 4, b"0220"),
    (0x0131, 9, 1, struct.pack("<i", 5)),
    (0x0213, 2, 2, b"1\0\0\0"),
    (0x0128, 2, 2, b"2\0\0\0"),
    (0x8825, 4, 1, struct.pack("<I", 9999)),  # directories that lie outside
    (0x8769, 4, 1, struct.pack("<I", 9999)),
    (0x0201, 4, 1, struct.pack("<I", 5)),
    (0x0132, 5, 1, struct.pack("<I", 70_000)),
    (0x9286, 7, 0xFFFFFFFF, b"xxxx"),
]


def make_jpeg_with_repeated_scans(side: int, times: int) -> bytes:
    """Return a progressive JPEG whose last scan is repeated."""
    content = encode_image(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    last = content[content.rfind(b"\xff\xda") : -2]
    return content[:-2] + last * times + b"\xff\xd9"


def make_png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
