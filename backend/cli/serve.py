"""``prelabel serve``: the backend that Label Studio talks to."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from backend.cli import addresses
from backend.settings import Settings, read_settings

if TYPE_CHECKING:
    from backend.onboarding.backend_connection import PendingConnections

HELP = "start the backend that Label Studio talks to"
EXAMPLE = "prelabel serve --host 0.0.0.0 --port 9090"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    addresses.add_listen_options(parser, 9090)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Serve until told to stop.

    Raises:
        StoreError: the home folder cannot be written.
        PrelabelError: the port is taken.
    """
    import uvicorn

    from backend.bootstrap import choose_compute
    from backend.cli.main import print_line
    from backend.onboarding.backend_connection import PendingConnections
    from backend.scheduler.service import Service
    from backend.server.app import create_app
    from backend.server.auth import BasicAuthMiddleware
    from backend.server.sockets import open_listening_socket
    from backend.store.files import check_writable
    from backend.store.webhook_secret import load_webhook_secret

    settings = read_settings()
    check_writable(settings.home)
    secret = load_webhook_secret(settings.home)
    service = Service(settings, reload_files=choose_compute(settings).fetch_captures)
    auth_app = BasicAuthMiddleware(create_app(service), settings.user, settings.password, secret)
    with open_listening_socket(options.host, options.port) as socket:
        url = addresses.listen_url(options.host, socket.getsockname()[1])
        address = f"{url}/{secret}" if settings.user else url
        print_line(f"Prelabel listens at {address}", options)
        pending = PendingConnections(settings.home)
        if not pending.has_pending(settings.label_studio_url):  # they are connected below
            print_line(
                "Connect it in Label Studio: project → Settings → Model → Connect Model.", options
            )
        if settings.user:
            print_line("The last part of that address is a secret: webhooks come with it.", options)
        connect_pending(pending, settings, url, options)
        config = uvicorn.Config(auth_app, log_level="warning", access_log=False, lifespan="on")
        uvicorn.Server(config).run(sockets=[socket])
    return {"address": address}


def connect_pending(
    pending: PendingConnections, settings: Settings, url: str, options: argparse.Namespace
) -> None:
    """Connect what `prelabel init` left waiting, as soon as this backend answers."""
    import threading

    from backend.cli.main import print_line

    def connect_all() -> None:
        pending.connect_all(settings, url, lambda line: print_line(line, options))

    threading.Thread(target=connect_all, daemon=True).start()
