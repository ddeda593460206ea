"""``prelabel endpoint``: the live versions answer applications."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from backend.cli import addresses
from backend.errors import UsageError
from backend.settings import Settings, read_settings

if TYPE_CHECKING:
    from backend.store.api_keys import Key

HELP = "answer applications: the public predict endpoint"
EXAMPLE = "prelabel endpoint --host 0.0.0.0 --port 9091"
LOCK = "endpoint.lock"
"""Beside the counters and alerts: two processes would each count and send for themselves."""
ENDING_SECONDS = 3.0
"""That one which was told to stop may take to let its home go."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    addresses.add_listening(parser, 9091)
    parser.add_argument("--open", action="store_true", help="let everybody ask, without a key")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Answer until told to stop.

    Raises:
        UsageError: no key was ever made, and others than this machine could ask.
        StoreError: the home folder cannot be written, or another endpoint serves it.
        PrelabelError: the port is taken.
    """
    from backend.store.files import alone, writable

    settings = read_settings()
    writable(settings.home)
    kept = settings.kept or settings.home
    taken = f"Another endpoint serves {kept}: stop it, or set PRELABEL_HOME to another home."
    with alone(kept / LOCK, taken, ENDING_SECONDS):
        return _serve(settings, options)


def _serve(settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    import uvicorn

    from backend.cli.main import say
    from backend.endpoint.assembly import endpoint
    from backend.server.sockets import listen
    from backend.store.api_keys import Keys

    keys, here = Keys(settings.home).all(), options.host in LOOPBACK
    if not keys and not options.open and not here:
        raise UsageError(
            f"There is no key yet, and {options.host} can be reached by others: make one with "
            "`prelabel keys create NAME`, or add --open to let everybody ask."
        )
    app = endpoint(settings, open=options.open, open_at_first=here)
    with listen(options.host, options.port) as socket:
        address = addresses.listening_at(options.host, socket.getsockname()[1])
        say(f"The endpoint listens at {address}", options)
        who = _who_may_ask(keys, open=options.open)
        say(f"{who}: {address}/v1/functions lists what can be invoked.", options)
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on")
        uvicorn.Server(config).run(sockets=[socket])
    return {"address": address}


def _who_may_ask(keys: Sequence[Key], *, open: bool) -> str:
    if open:
        return "Everybody may ask"
    if not keys:
        return "Everybody may ask until the first key is made"
    good = sum(not key.revoked for key in keys)
    if not good:
        return "Nobody may ask until a key is made, because all are revoked"
    return "One key may ask" if good == 1 else f"{good} keys may ask"
