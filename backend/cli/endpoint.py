"""``prelabel endpoint``: serve predictions of the live versions to applications."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from backend.cli import arguments
from backend.cli.command import Command, CommandResult
from backend.cli.serve import serve_app
from backend.cli.terminal import print_line
from backend.errors import StoreError, UsageError

if TYPE_CHECKING:
    from backend.store.api_keys import ApiKey

LOCK_FILE = "endpoint.lock"
"""Only one process per folder may run, because another would send each alert again."""
SHUTDOWN_TIMEOUT_SECONDS = 3.0
"""Time to wait for the lock of an endpoint that was just stopped."""
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


def _add_options(parser: argparse.ArgumentParser) -> None:
    arguments.add_listen_options(parser, 9091)
    parser.add_argument("--open", action="store_true", help="accept requests without an API key")


def _run(options: argparse.Namespace) -> CommandResult:
    from backend.endpoint.assembly import create_endpoint
    from backend.settings import read_settings
    from backend.store.api_keys import ApiKeyStore
    from backend.store.files import check_writable, exclusive_lock

    settings = read_settings()
    check_writable(settings.home)
    state_home = settings.endpoint_data_dir or settings.home
    busy_error = StoreError(
        f"Another endpoint uses {state_home}: stop it, or set PRELABEL_HOME to another folder."
    )
    keys, is_local = ApiKeyStore(settings.home).all(), options.host in LOCAL_HOSTS
    if not keys and not options.open and not is_local:
        raise UsageError(
            f"There is no API key yet, and other machines can reach {options.host}: create a key "
            "with `prelabel keys create NAME`, or add --open to accept requests without one."
        )

    def print_addresses(port: int) -> None:
        address = arguments.listen_url(options.host, port)
        print_line(f"The endpoint listens at {address}", options)
        access = _describe_access(keys, open=options.open)
        print_line(f"{access} {address}/v1/functions lists the functions.", options)

    with exclusive_lock(state_home / LOCK_FILE, busy_error, SHUTDOWN_TIMEOUT_SECONDS):
        app = create_endpoint(settings, allow_anonymous=options.open, open_until_key=is_local)
        port = serve_app(app, options.host, options.port, print_addresses)
    return {"address": arguments.listen_url(options.host, port)}


def _describe_access(keys: Sequence[ApiKey], *, open: bool) -> str:
    if open:
        return "No API key is required."
    if not keys:
        return "No API key is required until the first one is created."
    active_count = sum(not key.revoked for key in keys)
    if not active_count:
        return "All requests are refused because every API key is revoked."
    return f"API keys: {active_count} active."


COMMAND = Command(
    "endpoint",
    "serve predictions to applications over HTTP",
    "prelabel endpoint --host 0.0.0.0 --port 9091",
    _add_options,
    _run,
)
