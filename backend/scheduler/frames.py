"""How the server and its working processes talk: frames over a pipe, no pickle.

A frame is a JSON header and bytes: two big-endian 32-bit lengths, then both.
"""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any, BinaryIO

LENGTHS_STRUCT = struct.Struct(">II")
FrameHeader = dict[str, Any]


def pack_frame(header: FrameHeader, body: bytes = b"") -> bytes:
    """One frame."""
    text = json.dumps(header).encode()
    return LENGTHS_STRUCT.pack(len(text), len(body)) + text + body


def read_frame(stream: BinaryIO) -> tuple[FrameHeader, bytes] | None:
    """The next frame; None at the end of the stream."""
    lengths = stream.read(LENGTHS_STRUCT.size)
    if len(lengths) < LENGTHS_STRUCT.size:
        return None
    header_size, body_size = LENGTHS_STRUCT.unpack(lengths)
    return json.loads(stream.read(header_size)), stream.read(body_size)


async def receive_frame(stream: asyncio.StreamReader) -> tuple[FrameHeader, bytes] | None:
    """The next frame; None at the end of the stream."""
    try:
        header_size, body_size = LENGTHS_STRUCT.unpack(
            await stream.readexactly(LENGTHS_STRUCT.size)
        )
        return json.loads(await stream.readexactly(header_size)), await stream.readexactly(
            body_size
        )
    except asyncio.IncompleteReadError:
        return None
