"""``prelabel serve``: the backend that Label Studio talks to."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from backend.cli import addresses
from backend.settings import Settings, read_settings

if TYPE_CHECKING:
    from backend.onboarding.backend_connection import Waiting

HELP = "start the backend that Label Studio talks to"
EXAMPLE = "prelabel serve --host 0.0.0.0 --port 9090"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    addresses.add_listening(parser, 9090)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Serve until told to stop.

    Raises:
        StoreError: the home folder cannot be written.
        PrelabelError: the port is taken.
    """
    import uvicorn

    from backend.bootstrap import choose_compute
    from backend.cli.main import say
    from backend.onboarding.backend_connection import Waiting
    from backend.scheduler.service import Service
    from backend.server.app import make_app
    from backend.server.auth import Gate
    from backend.server.sockets import listen
    from backend.store.files import writable
    from backend.store.webhook_secret import webhook_secret

    settings = read_settings()
    writable(settings.home)
    secret = webhook_secret(settings.home)
    service = Service(settings, refresh=choose_compute(settings).collect)
    gate = Gate(make_app(service), settings.user, settings.password, secret)
    with listen(options.host, options.port) as socket:
        listening = addresses.listening_at(options.host, socket.getsockname()[1])
        address = f"{listening}/{secret}" if settings.user else listening
        say(f"Prelabel listens at {address}", options)
        waiting = Waiting(settings.home)
        if not waiting.any_of(settings.label_studio_url):  # they are connected below
            say("Connect it in Label Studio: project → Settings → Model → Connect Model.", options)
        if settings.user:
            say("The last part of that address is a secret: webhooks come with it.", options)
        connect_waiting(waiting, settings, listening, options)
        config = uvicorn.Config(gate, log_level="warning", access_log=False, lifespan="on")
        uvicorn.Server(config).run(sockets=[socket])
    return {"address": address}


def connect_waiting(
    waiting: Waiting, settings: Settings, listening: str, options: argparse.Namespace
) -> None:
    """Connect what `prelabel init` left waiting, as soon as this backend answers."""
    import threading

    from backend.cli.main import say

    def work() -> None:
        waiting.connect(settings, listening, lambda line: say(line, options))

    threading.Thread(target=work, daemon=True).start()
