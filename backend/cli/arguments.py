"""Command-line arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable

DEFAULT_BACKEND_URL = "http://127.0.0.1:9090"
"""Default address of `prelabel serve`."""
MAX_PORT = 65_535
PROJECT_HELP = "number or title of the project, or the start of its title"


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Return an argparse type for whole numbers in a range.

    >>> whole_number(1, 500)("60")
    60
    """

    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}")
        return int(text)

    return parse


def add_project_argument(
    parser: argparse.ArgumentParser, default: str = "if there is only one"
) -> None:
    """Add the argument for a project, which ``--project`` can name as well.

    Args:
        parser: parser of the command.
        default: when the argument can be left out.
    """
    parser.add_argument(
        "project",
        nargs="?",
        default=argparse.SUPPRESS,  # else it would replace the value of --project
        metavar="PROJECT",
        help=f"{PROJECT_HELP}; optional {default}",
    )
    parser.add_argument("--project", default="", metavar="PROJECT", help="the same")


def add_project_option(parser: argparse.ArgumentParser, *aliases: str) -> None:
    """Add the option for a project to a command whose arguments are something else."""
    parser.add_argument(
        *("--project", *aliases),
        default="",
        metavar="PROJECT",
        help=f"{PROJECT_HELP}; optional if there is only one",
    )


def add_listen_options(
    parser: argparse.ArgumentParser, default_port: int | None, default_text: str = ""
) -> None:
    """Add the options for the address and port of a server.

    Args:
        parser: parser of the command.
        default_port: port without the option; None if the command determines it.
        default_text: what the default is, if the command determines it.
    """
    add_host_option(parser)
    parser.add_argument(
        "--port",
        type=whole_number(0, MAX_PORT),
        default=default_port,
        help=f"port to listen on; 0 chooses a free one (default: {default_text or default_port})",
    )


def add_host_option(parser: argparse._ActionsContainer) -> None:
    """Add the option for the address of a server."""
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)"
    )


def add_backend_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for the address at which Label Studio reaches the backend."""
    parser.add_argument(
        "--backend",
        default="",
        metavar="URL",
        help=f"address at which Label Studio reaches the backend (default {DEFAULT_BACKEND_URL}, "
        "or the port that projects call already)",
    )


def add_served_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for the address at which this machine reaches the backend."""
    parser.add_argument(
        "--backend",
        default="",
        metavar="URL",
        help="address of the backend (default: where `prelabel serve` of this home folder listens)",
    )


def listen_url(host: str, port: int) -> str:
    """Return the URL of a server, with the loopback address if it listens on all interfaces.

    >>> listen_url("::1", 9091), listen_url("0.0.0.0", 9091)
    ('http://[::1]:9091', 'http://127.0.0.1:9091')
    """
    if host in ("0.0.0.0", "::"):  # noqa: S104
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
