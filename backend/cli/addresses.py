"""Addresses on the command line: where to listen, and where a backend is."""

from __future__ import annotations

import argparse

DEFAULT_BACKEND_URL = "http://127.0.0.1:9090"
"""Where `prelabel serve` listens when it is not told otherwise."""
MAX_PORT = 65_535


def add_listen_options(parser: argparse.ArgumentParser, port: int) -> None:
    """Where a server listens.

    Args:
        parser: of the command.
        port: its own.
    """
    add_host_option(parser)
    parser.add_argument("--port", type=parse_port, default=port, help=f"to listen at ({port})")


def add_host_option(parser: argparse._ActionsContainer) -> None:
    """The address that a server listens at."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1)")


def listen_url(host: str, port: int) -> str:
    """The address to tell of a server that listens; on this machine, where it does at all of them.

    >>> listen_url("::1", 9091), listen_url("0.0.0.0", 9091)
    ('http://[::1]:9091', 'http://127.0.0.1:9091')
    """
    if host in ("0.0.0.0", "::"):  # noqa: S104
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def add_backend_option(parser: argparse.ArgumentParser) -> None:
    """Where the backend is that a command is about."""
    parser.add_argument(
        "--backend",
        default=DEFAULT_BACKEND_URL,
        metavar="URL",
        help=f"where `prelabel serve` listens, as Label Studio reaches it ({DEFAULT_BACKEND_URL})",
    )


def parse_port(text: str) -> int:
    """A port as an argument; 0 is a free one."""
    if not text.isdecimal() or int(text) > MAX_PORT:
        raise argparse.ArgumentTypeError(f"a port is a whole number from 0 to {MAX_PORT}")
    return int(text)
