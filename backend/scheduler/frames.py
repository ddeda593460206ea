"""How the server and its working processes talk: frames over a pipe, no pickle.

A frame is a JSON header and bytes: two big-endian 32-bit lengths, then both.
"""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any, BinaryIO

HEAD = struct.Struct(">II")
Header = dict[str, Any]


def pack(header: Header, body: bytes = b"") -> bytes:
    """One frame."""
    text = json.dumps(header).encode()
    return HEAD.pack(len(text), len(body)) + text + body


def read(stream: BinaryIO) -> tuple[Header, bytes] | None:
    """The next frame; None at the end of the stream."""
    head = stream.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    size, rest = HEAD.unpack(head)
    return json.loads(stream.read(size)), stream.read(rest)


async def receive(stream: asyncio.StreamReader) -> tuple[Header, bytes] | None:
    """The next frame; None at the end of the stream."""
    try:
        size, rest = HEAD.unpack(await stream.readexactly(HEAD.size))
        return json.loads(await stream.readexactly(size)), await stream.readexactly(rest)
    except asyncio.IncompleteReadError:
        return None
