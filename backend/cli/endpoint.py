"""``prelabel endpoint``: the live versions answer applications."""

from __future__ import annotations

import argparse
from typing import Any

from backend.cli import places
from backend.errors import UsageError
from backend.settings import read_settings

HELP = "answer applications: the public predict endpoint"
EXAMPLE = "prelabel endpoint --host 0.0.0.0 --port 9091"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    places.add_listening(parser, 9091)
    parser.add_argument("--open", action="store_true", help="let everybody ask, without a key")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Answer until told to stop.

    Raises:
        UsageError: there is no key, and others than this machine could ask.
        StoreError: the home folder cannot be written.
        PrelabelError: the port is taken.
    """
    import uvicorn

    from backend.cli.main import say
    from backend.server.listening import listen
    from backend.store.files import writable
    from backend.store.keys import Keys
    from serverless.endpoint.assembly import endpoint

    settings = read_settings()
    writable(settings.home)
    keys = [key for key in Keys(settings.home).all() if not key.revoked]
    if not keys and not options.open and options.host not in LOOPBACK:
        raise UsageError(
            f"There is no key yet, and {options.host} can be reached by others: make one with "
            "`prelabel keys create NAME`, or add --open to let everybody ask."
        )
    app = endpoint(settings, open=options.open or not keys)
    with listen(options.host, options.port) as socket:
        address = places.listening_at(options.host, socket.getsockname()[1])
        say(f"The endpoint listens at {address}", options)
        who = "Everybody"
        if keys and not options.open:
            who = "One key" if len(keys) == 1 else f"{len(keys)} keys"
        say(f"{who} may ask: {address}/v1/functions lists what can be invoked.", options)
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on")
        uvicorn.Server(config).run(sockets=[socket])
    return {"address": address}
