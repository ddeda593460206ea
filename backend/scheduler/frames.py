"""Frames that the server and its worker processes exchange over a pipe, without pickle.

A frame consists of the lengths of header and body as big-endian 32-bit integers, a JSON header, and
a body of bytes.
"""

from __future__ import annotations

import asyncio
import json
import struct
from typing import IO

from backend.json_records import JsonObject

LENGTHS_STRUCT = struct.Struct(">II")


def pack_frame(header: JsonObject, body: bytes = b"") -> bytes:
    """Return a frame as bytes."""
    text = json.dumps(header).encode()
    return LENGTHS_STRUCT.pack(len(text), len(body)) + text + body


def read_frame(stream: IO[bytes]) -> tuple[JsonObject, bytes] | None:
    """Return the header and body of the next frame; None at the end of the stream."""
    lengths = stream.read(LENGTHS_STRUCT.size)
    if len(lengths) < LENGTHS_STRUCT.size:
        return None
    header_size, body_size = LENGTHS_STRUCT.unpack(lengths)
    return json.loads(stream.read(header_size)), stream.read(body_size)


async def receive_frame(stream: asyncio.StreamReader) -> tuple[JsonObject, bytes] | None:
    """Return the header and body of the next frame; None at the end of the stream."""
    try:
        lengths = await stream.readexactly(LENGTHS_STRUCT.size)
        header_size, body_size = LENGTHS_STRUCT.unpack(lengths)
        header = json.loads(await stream.readexactly(header_size))
        return header, await stream.readexactly(body_size)
    except asyncio.IncompleteReadError:
        return None
