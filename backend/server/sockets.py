"""A port to listen at, or one sentence why not."""

from __future__ import annotations

import errno
import socket

from backend.errors import PrelabelError

BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Args:
        host: name or address.
        port: 0 takes a free one.

    Raises:
        PrelabelError: the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # named as TCP, or asyncio does not turn Nagle's delay off: every answer would take 40 ms
    server = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((host, port))
        server.listen(BACKLOG)
    except OSError as error:
        server.close()
        elsewhere = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        cure = "--host takes an address of this machine, or 0.0.0.0 for all of them"
        raise PrelabelError(
            f"Cannot listen at {host}:{port} ({error.strerror}): "
            f"{cure if elsewhere else 'choose another --port'}."
        ) from error
    return server
