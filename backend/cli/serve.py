"""``prelabel serve``: start the ML backend for Label Studio."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable
from typing import Any

from backend.cli import arguments
from backend.cli.command import Command, CommandResult
from backend.cli.label_studio_starter import LabelStudioStarter, add_start_option
from backend.cli.terminal import print_line


def _add_options(parser: argparse.ArgumentParser) -> None:
    arguments.add_listen_options(parser, 9090)
    add_start_option(parser)


def _run(options: argparse.Namespace) -> CommandResult:
    """Serve, and run the Label Studio that `prelabel init` started before."""
    from backend.settings import read_settings

    settings = read_settings()
    with LabelStudioStarter(options, settings, lambda line: print_line(line, options)) as own:
        settings = own.ensure_running(may_ask=False)
        if own.is_started:
            link = own.sign_in_link(settings.label_studio_url)
            print_line(f"This link signs you in until this command ends: {link}", options)
        return serve_backend(options)


def serve_backend(options: argparse.Namespace) -> CommandResult:
    """Serve until the process is stopped.

    Raises:
        StoreError: the home folder is not writable.
        PrelabelError: the port is in use.
    """
    from backend.bootstrap import choose_compute
    from backend.onboarding.backend_connection import PendingConnections
    from backend.scheduler.service import Service
    from backend.server.app import create_app
    from backend.server.auth import BasicAuthMiddleware
    from backend.settings import read_settings
    from backend.store.files import check_writable
    from backend.store.webhook_secret import load_webhook_secret

    settings = read_settings()
    check_writable(settings.home)
    secret = load_webhook_secret(settings.home)
    service = Service(settings, reload_files=choose_compute(settings).fetch_captures)
    app = BasicAuthMiddleware(create_app(service), settings.user, settings.password, secret)
    pending = PendingConnections(settings.home)

    def print_addresses(port: int) -> None:
        url = arguments.listen_url(options.host, port)
        print_line(f"Prelabel listens at {url}{secret_path}", options)
        if not pending.has_pending(settings.label_studio_url):
            print_line(
                "Connect it in Label Studio: project → Settings → Model → Connect Model.", options
            )
        if settings.user:
            print_line(
                "The last part of the address is a secret that authenticates webhooks.", options
            )
        threading.Thread(
            target=pending.connect_all,
            args=(settings, url, lambda line: print_line(line, options)),
            daemon=True,
        ).start()

    secret_path = f"/{secret}" if settings.user else ""
    port = serve_app(app, options.host, options.port, print_addresses)
    return {"address": arguments.listen_url(options.host, port) + secret_path}


def serve_app(app: Any, host: str, port: int, print_addresses: Callable[[int], None]) -> int:
    """Serve an ASGI app until the process is stopped.

    Args:
        app: ASGI application.
        host: address to listen on.
        port: port to listen on; 0 chooses a free one.
        print_addresses: called with the port once the socket is listening.

    Returns:
        the port.

    Raises:
        PrelabelError: the port is in use, or the address does not belong to this machine.
    """
    import uvicorn

    from backend.server.sockets import open_listening_socket

    with open_listening_socket(host, port) as socket:
        listening_port = int(socket.getsockname()[1])
        print_addresses(listening_port)
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on")
        uvicorn.Server(config).run(sockets=[socket])
    return listening_port


COMMAND = Command(
    "serve",
    "start the ML backend for Label Studio",
    "prelabel serve --host 0.0.0.0 --port 9090",
    _add_options,
    _run,
)
