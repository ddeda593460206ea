"""``prelabel serve``: start the ML backend for Label Studio."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from backend.cli import arguments
from backend.cli.command import Command, CommandResult
from backend.cli.label_studio_starter import LabelStudioStarter, add_start_option
from backend.cli.terminal import print_line
from backend.errors import PortInUseError, PrelabelError

if TYPE_CHECKING:
    from backend.settings import Settings

CONNECT_HINT = (
    "To connect a project, run `prelabel connect PROJECT`, or in Label Studio: project → Settings "
    "→ Model → Connect Model."
)
STOPPED_MESSAGE = "Stopped. Labels and versions are kept; run `prelabel serve` to go on."
OTHER_PORT_MESSAGE = (
    "Connected projects call port {called}: leave out --port, or connect each project to this port "
    "with `prelabel connect PROJECT --backend {url}`."
)


def _add_options(parser: argparse.ArgumentParser) -> None:
    arguments.add_listen_options(parser, None, "the port that connected projects call, else 9090")
    add_start_option(parser)


def _run(options: argparse.Namespace) -> CommandResult:
    """Serve, and run the Label Studio that `prelabel init` started before."""
    from backend.onboarding.backend_port import registered_port
    from backend.settings import read_settings

    settings = read_settings()
    if options.port is None:
        options.port = registered_port(settings)
    with LabelStudioStarter(options, settings, lambda line: print_line(line, options)) as own:
        settings = own.ensure_running(
            may_ask=False, before_start=lambda: check_port(settings, options.host, options.port)
        )
        if own.is_started and sys.stderr.isatty():
            link = own.sign_in_link(settings.label_studio_url)
            print_line(f"To label, signed in until this command ends: {link}", options)
        return serve_backend(options)


def serve_backend(options: argparse.Namespace) -> CommandResult:
    """Serve until the process is stopped.

    Raises:
        StoreError: the home folder is not writable.
        PortInUseError: the port is in use; the message says by what.
    """
    from backend.bootstrap import choose_compute
    from backend.onboarding.backend_connection import PendingConnections
    from backend.scheduler.service import Service
    from backend.server.app import create_app
    from backend.server.auth import BasicAuthMiddleware
    from backend.settings import read_settings
    from backend.store.files import check_writable
    from backend.store.projects import ProjectStore
    from backend.store.served_address import read_called_port, save_served_address
    from backend.store.webhook_secret import load_webhook_secret

    settings = read_settings()
    check_writable(settings.home)
    secret = load_webhook_secret(settings.home)
    service = Service(settings, reload_files=choose_compute(settings).fetch_captures)
    app = BasicAuthMiddleware(create_app(service), settings.user, settings.password, secret)
    pending = PendingConnections(settings.home)

    def print_addresses(port: int) -> None:
        url = arguments.listen_url(options.host, port)
        save_served_address(settings.home, url)
        print_line(f"Prelabel listens at {url}{secret_path}", options)
        connected_count = len(ProjectStore(settings.home).listed())
        print_line(
            f"To see the accuracy, open the dashboard: {url} ({_count_projects(connected_count)})",
            options,
        )
        if not connected_count and not pending.has_pending(settings.label_studio_url):
            print_line(CONNECT_HINT, options)
        called_port = read_called_port(settings.home)
        if called_port not in (0, port):
            print_line(OTHER_PORT_MESSAGE.format(called=called_port, url=url), options)
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
    try:
        port = serve_app(app, options.host, options.port, print_addresses)
    except PortInUseError as error:
        url = arguments.listen_url(options.host, options.port)
        raise PortInUseError(_explain_used_port(settings, url, options.port)) from error
    except KeyboardInterrupt:
        print_line(STOPPED_MESSAGE, options)
        raise
    return {"address": arguments.listen_url(options.host, port) + secret_path}


def _count_projects(count: int) -> str:
    """Return how many projects are connected.

    Example:
        >>> _count_projects(0), _count_projects(1), _count_projects(3)
        ('no project is connected yet', '1 project is connected', '3 projects are connected')
    """
    if count == 1:
        return "1 project is connected"
    return f"{count} projects are connected" if count else "no project is connected yet"


def check_port(settings: Settings, host: str, port: int) -> None:
    """Check that a port is free.

    Raises:
        PortInUseError: it is in use; the message says by what.
        PrelabelError: the address does not belong to this machine.
    """
    from backend.server.sockets import open_listening_socket

    try:
        open_listening_socket(host, port).close()
    except PortInUseError as error:
        url = arguments.listen_url(host, port)
        raise PortInUseError(_explain_used_port(settings, url, port)) from error


def _explain_used_port(settings: Settings, url: str, port: int) -> str:
    """Return what uses the port of the backend, and what to do."""
    from backend.onboarding.backend_connection import find_running_backend

    other = f"--port {port + 101}"
    try:
        running = find_running_backend(settings, url)
    except PrelabelError:  # another service, or a Prelabel with another password
        running = None
    if running is None:
        return (
            f"Another program uses port {port}: stop it, or start Prelabel with {other} and "
            f"connect it with `prelabel connect PROJECT --backend http://127.0.0.1:{port + 101}`."
        )
    if running.has_other_home(settings):
        return (
            f"Another Prelabel (home {running.home_id}) runs at {url}; it may be a demo that is "
            f"still running. Stop it, or start this one with {other}."
        )
    return (
        f"Prelabel is already running at {url}, with the same home folder: there is nothing to "
        "start. To restart it, stop the other one with Ctrl-C in its terminal."
    )


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
        PortInUseError: the port is in use.
        PrelabelError: the address does not belong to this machine.
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
