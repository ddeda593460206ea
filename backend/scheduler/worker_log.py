"""Print the log of worker processes as the server's own.

If they wrote to the terminal themselves, their lines would run into the progress line of `init`.
"""

from __future__ import annotations

import asyncio
import logging
import sys

log = logging.getLogger("prelabel")
CHUNK_BYTES = 65_536
MAX_LINE_BYTES = 65_536
"""A longer line is split."""
REPEATED_PREFIXES = ("Detector: ", "Encoder: ")
"""Beginnings of lines that each worker process logs when it loads a model; one is enough."""

_printed: set[str] = set()


async def relay_log(stream: asyncio.StreamReader) -> None:
    """Log each line of a worker process, until it closes its standard error."""
    pending = b""
    while chunk := await stream.read(CHUNK_BYTES):
        *lines, pending = (pending + chunk).split(b"\n")
        if len(pending) > MAX_LINE_BYTES:
            lines, pending = [*lines, pending], b""
        for line in lines:
            log_line(line)
    if pending:
        log_line(pending)


def log_line(line: bytes) -> None:
    """Log a line; of a progress bar, which returns to the start of the line, its last state."""
    text = line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
    if text.startswith(REPEATED_PREFIXES):
        if text in _printed:
            return
        _printed.add(text)
    if not text:
        return
    if log.isEnabledFor(logging.INFO):
        log.info("%s", text)
    else:  # the program that embeds the server configured no log
        print(text, file=sys.stderr, flush=True)
