"""Open listening sockets."""

from __future__ import annotations

import errno
import socket

from backend.errors import PrelabelError

SOCKET_BACKLOG = 2048


def open_listening_socket(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 selects a free one.

    Raises:
        PrelabelError: the port is in use, or the address does not belong to this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio disables Nagle's algorithm for IPPROTO_TCP only; with it responses take 40 ms longer
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(SOCKET_BACKLOG)
    except OSError as error:
        listener.close()
        is_foreign_address = (
            isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        )
        host_hint = "--host takes an address of this machine, or 0.0.0.0 for all of them"
        raise PrelabelError(
            f"Cannot listen at {host}:{port} ({error.strerror}): "
            f"{host_hint if is_foreign_address else 'choose another --port'}."
        ) from error
    return listener
