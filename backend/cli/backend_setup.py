"""The backend of a project that `prelabel init` makes: found, joined, started, or waited for."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from backend.cli import terminal
from backend.cli.addresses import DEFAULT_BACKEND_URL
from backend.errors import PrelabelError
from backend.settings import Settings

if TYPE_CHECKING:
    from backend.label_studio.client import LabelStudioClient
    from backend.onboarding.backend_connection import RunningBackend
    from backend.onboarding.folder_project import FolderProject

OTHER_BACKEND_MESSAGE = (
    "Another Prelabel (home {home}) answers at {url}, such as a demo that is still running: stop "
    "it, or choose another port, such as --backend http://127.0.0.1:{port}."
)
SetupResult = dict[str, Any]


class BackendSetup:
    """Brings a project and a backend together.

    Args:
        options: of the command.
        settings: of this process, which the backend has as well.
        log: told lines for people.
    """

    def __init__(
        self, options: argparse.Namespace, settings: Settings, log: Callable[[str], None]
    ) -> None:
        self._options = options
        self._settings = settings
        self._log = log
        self._prompter = terminal.TerminalPrompter()
        self._backend = DEFAULT_BACKEND_URL
        self._connected_urls: list[str] = []

    def locate_backend(self, client: LabelStudioClient, existing: FolderProject | None) -> None:
        """Find out where the backend is or shall be, before anything is made.

        Args:
            client: of Label Studio.
            existing: the project, where it is there already.

        Raises:
            UsageError: the address that was given cannot be one.
            PrelabelError: something else is at that address, or another Prelabel.
        """
        from backend.onboarding.backend_connection import (
            connected_urls,
            is_own_backend,
            validate_backend_url,
        )

        requested = self._options.backend
        self._backend = validate_backend_url(requested or DEFAULT_BACKEND_URL, self._settings)
        self._connected_urls = (
            connected_urls(client, existing.number, self._settings) if existing else []
        )
        if self._connected_urls and not requested:
            first_url = self._connected_urls[0]
            if not is_own_backend(self._settings, first_url) and is_own_backend(
                self._settings, DEFAULT_BACKEND_URL
            ):
                self._connected_urls.append(
                    DEFAULT_BACKEND_URL
                )  # the same, by the name that it has here
            else:
                self._backend = first_url
        self._find_running()

    def connect_or_start(
        self, client: LabelStudioClient, project: FolderProject, url: str, result: SetupResult
    ) -> SetupResult:
        """Connect now, or leave it to the backend that is started next.

        Args:
            client: of Label Studio.
            project: the project.
            url: of its page.
            result: so far, for those who wait for them.
        """
        from backend.onboarding import backend_connection

        backend, number = self._backend, project.number
        if self._find_running():
            if backend in self._connected_urls or not backend_connection.connect_project(
                client, number, self._settings, backend
            ):
                self._log(f"It is connected to the backend at {backend}.")
            else:
                self._log(f"Connected to the backend at {backend}; it looks at the images.")
            self._open_project(url)
            return {"backend": backend, "connected": True} | self._wait_for_first_round(number)
        if backend not in self._connected_urls:
            pending = backend_connection.PendingConnections(self._settings.home)
            pending.add(client.server, number, backend if self._options.backend else "")
        connection = {"backend": backend, "connected": backend in self._connected_urls}
        should_serve = self._should_serve()
        self._open_project(url)
        if not should_serve:
            self._log(self._serve_instructions())
            return connection
        return self._serve(number, result | connection)

    def _find_running(self) -> RunningBackend | None:
        """The backend, where it runs; what answers without being meant is an error.

        Raises:
            PrelabelError: it is none of ours, or one with another home folder.
        """
        from backend.onboarding.backend_connection import find_running_backend, port_of

        running = find_running_backend(self._settings, self._backend)
        is_requested = self._options.backend or self._connected_urls
        if running and not is_requested and running.has_other_home(self._settings):
            next_port = port_of(self._backend) + 101
            raise PrelabelError(
                OTHER_BACKEND_MESSAGE.format(
                    home=running.home_id, url=self._backend, port=next_port
                )
            )
        return running

    def _serve_instructions(self) -> str:
        command = f"prelabel serve{self._port_option()}"
        if self._backend in self._connected_urls:
            return f"It is connected to {self._backend}, where nothing answers: start {command}"
        return f"Now start the backend, which connects the project: {command}"

    def _port_option(self) -> str:
        port = self._port()
        return f" --port {port}" if port != 9090 else ""

    def _port(self) -> int:
        from urllib.parse import urlsplit

        return urlsplit(self._backend).port or 9090

    def _should_serve(self) -> bool:
        if self._options.serve is not None:
            return bool(self._options.serve)
        question = f"No backend runs at {self._backend}. Start it here, until you press Ctrl-C?"
        return self._prompter.is_interactive and self._prompter.confirm(question, "serve")

    def _serve(self, number: int, result: SetupResult) -> SetupResult:
        """Be the backend from now on; the figures come before that, for those who wait for them."""
        from backend.cli import serve

        if self._options.json:
            print(json.dumps(result, ensure_ascii=False), flush=True)
        threading.Thread(target=self._wait_for_first_round, args=(number,), daemon=True).start()
        serve.run(
            argparse.Namespace(
                host=self._options.host,
                port=self._port(),
                json=self._options.json,
                debug=self._options.debug,
            )
        )
        return result

    def _wait_for_first_round(self, number: int) -> SetupResult:
        """Wait for the backend's first look and tell what came of it."""
        from backend.onboarding.first_round import (
            describe_first_round,
            format_progress,
            has_preannotations,
            wait_for_first_round,
        )

        state = wait_for_first_round(
            self._settings,
            self._backend,
            number,
            lambda now: terminal.show_progress(format_progress(now)),
        )
        terminal.clear_progress()
        if state is None:
            self._log(f"`prelabel status {number}` tells how far it is.")
            return {"version": None, "preannotated": False}
        for line in describe_first_round(state, self._settings):
            self._log(line)
        return {"version": state["version"], "preannotated": has_preannotations(state)}

    def _open_project(self, url: str) -> None:
        self._log(f"Label here: {url}")
        if not self._options.no_browser and sys.stdin.isatty() and not self._options.json:
            terminal.open_in_browser(url)


def resume_command(options: argparse.Namespace, folder: str) -> str:
    """The command that goes on with a folder."""
    from backend.onboarding.backend_connection import redact_secret

    backend_option = (
        f" --backend {shlex.quote(redact_secret(options.backend))}" if options.backend else ""
    )
    return f"prelabel init {shlex.quote(folder)}{backend_option}"
