"""``prelabel endpoint``: the live versions answer applications."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from backend.cli import addresses
from backend.errors import StoreError, UsageError
from backend.settings import Settings, read_settings

if TYPE_CHECKING:
    from backend.store.api_keys import ApiKey

HELP = "answer applications: the public predict endpoint"
EXAMPLE = "prelabel endpoint --host 0.0.0.0 --port 9091"
LOCK_FILE = "endpoint.lock"
"""Beside the counters and alerts: two processes would each count and send for themselves."""
LOCK_TIMEOUT_SECONDS = 3.0
"""That one which was told to stop may take to let its home go."""
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    addresses.add_listen_options(parser, 9091)
    parser.add_argument("--open", action="store_true", help="let everybody ask, without a key")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Answer until told to stop.

    Raises:
        UsageError: no key was ever made, and others than this machine could ask.
        StoreError: the home folder cannot be written, or another endpoint serves it.
        PrelabelError: the port is taken.
    """
    from backend.store.files import check_writable, exclusive_lock

    settings = read_settings()
    check_writable(settings.home)
    state_home = settings.endpoint_data_dir or settings.home
    busy = StoreError(
        f"Another endpoint serves {state_home}: stop it, or set PRELABEL_HOME to another home."
    )
    with exclusive_lock(state_home / LOCK_FILE, busy, LOCK_TIMEOUT_SECONDS):
        return _serve(settings, options)


def _serve(settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    import uvicorn

    from backend.cli.main import print_line
    from backend.endpoint.assembly import create_endpoint
    from backend.server.sockets import open_listening_socket
    from backend.store.api_keys import ApiKeyStore

    keys, is_loopback = ApiKeyStore(settings.home).all(), options.host in LOOPBACK_HOSTS
    if not keys and not options.open and not is_loopback:
        raise UsageError(
            f"There is no key yet, and {options.host} can be reached by others: make one with "
            "`prelabel keys create NAME`, or add --open to let everybody ask."
        )
    app = create_endpoint(settings, allow_anonymous=options.open, open_until_key=is_loopback)
    with open_listening_socket(options.host, options.port) as socket:
        address = addresses.listen_url(options.host, socket.getsockname()[1])
        print_line(f"The endpoint listens at {address}", options)
        access = _describe_access(keys, open=options.open)
        print_line(f"{access}: {address}/v1/functions lists what can be invoked.", options)
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on")
        uvicorn.Server(config).run(sockets=[socket])
    return {"address": address}


def _describe_access(keys: Sequence[ApiKey], *, open: bool) -> str:
    if open:
        return "Everybody may ask"
    if not keys:
        return "Everybody may ask until the first key is made"
    active_count = sum(not key.revoked for key in keys)
    if not active_count:
        return "Nobody may ask until a key is made, because all are revoked"
    return "One key may ask" if active_count == 1 else f"{active_count} keys may ask"
