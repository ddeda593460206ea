"""Connect the project of `prelabel init` to a running backend, or start one."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import threading
from urllib.parse import urlsplit

from backend.callbacks import LogCallback
from backend.cli import terminal
from backend.cli.command import CommandResult
from backend.cli.label_studio_starter import LabelStudioStarter
from backend.cli.serve import serve_backend
from backend.errors import PortInUseError, PrelabelError
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.tabs import LabelingLink
from backend.onboarding.backend_connection import (
    PendingConnections,
    RunningBackend,
    connect_project,
    connected_urls,
    find_running_backend,
    is_own_backend,
    redact_secret,
    validate_backend_url,
)
from backend.onboarding.backend_port import (
    DEFAULT_PORT,
    default_backend_url,
)
from backend.onboarding.first_round import (
    describe_first_round,
    format_progress,
    has_preannotations,
    wait_for_first_round,
)
from backend.onboarding.folder_project import FolderProject
from backend.server.sockets import open_listening_socket
from backend.settings import Settings

OTHER_BACKEND_MESSAGE = (
    "Another Prelabel (home {home}) answers at {url}; it may be a demo that is still running. Stop "
    "it, or choose another port, such as --backend http://127.0.0.1:{port}."
)
STOPPING_MESSAGE = (
    "Label Studio stops now. To start it and the backend, run `prelabel serve`, which prints a "
    "link to label."
)
PORT_IN_USE_MESSAGE = (
    "Another program uses port {port}: stop it, or choose another port, such as --backend "
    "http://127.0.0.1:{other}."
)


class BackendSetup:
    """Connects a project to a backend.

    Args:
        options: parsed command-line arguments.
        settings: settings of this process, which the backend shares.
        label_studio: the Label Studio, if this command started it.
        log: called with each line for the user.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        settings: Settings,
        label_studio: LabelStudioStarter,
        log: LogCallback,
    ) -> None:
        self._options = options
        self._settings = settings
        self._label_studio = label_studio
        self._log = log
        self._prompter = terminal.TerminalPrompter()
        self._backend = default_backend_url(settings)
        self._connected_urls: list[str] = []

    def check_address(self) -> None:
        """Check that a backend runs or can be started, before Label Studio is started.

        Raises:
            UsageError: the given address is invalid.
            PrelabelError: something else uses the port.
        """
        if self._options.backend:
            self._backend = validate_backend_url(self._options.backend, self._settings)
        if not self._find_running() and self._options.serve is not False:
            self._check_port()

    def locate_backend(self, client: LabelStudioClient, existing: FolderProject | None) -> None:
        """Determine the address of the backend, before anything is created.

        Args:
            client: client of Label Studio.
            existing: project, if it already exists.

        Raises:
            UsageError: the given address is invalid.
            PrelabelError: another service or another Prelabel answers at the address.
        """
        requested = self._options.backend
        default_url = default_backend_url(self._settings)
        self._backend = validate_backend_url(requested or default_url, self._settings)
        if existing:
            self._connected_urls = connected_urls(client, existing.number, self._settings)
        if self._connected_urls and not requested:
            first_url = self._connected_urls[0]
            if not is_own_backend(self._settings, first_url) and is_own_backend(
                self._settings, default_url
            ):  # the same backend, with another address on this machine
                self._connected_urls.append(default_url)
            else:
                self._backend = first_url
        if not self._find_running() and self._options.serve:
            self._check_port()

    def connect_or_start(
        self,
        client: LabelStudioClient,
        project: FolderProject,
        link: LabelingLink,
        result: CommandResult,
    ) -> CommandResult:
        """Connect the project to the running backend, or register it and start a backend.

        Args:
            client: client of Label Studio.
            project: project to connect.
            link: where people label the project.
            result: result of the command so far, printed before the backend starts.

        Returns:
            further entries of the result.
        """
        backend, number = self._backend, project.number
        if self._find_running():
            if backend not in self._connected_urls:
                connect_project(client, number, self._settings, backend)
            self._log(f"Connected to the backend at {backend}.")
            self._log(f"To see the accuracy, open the dashboard: {backend}")
            continues = self._label_studio.is_started and self._options.serve is not False
            self._open_project(link, continues=continues)
            first_round = self._wait_for_first_round(number)
            connection = {"backend": backend, "connected": True, **first_round}
            if continues:
                self._print_json({**result, **connection})
                self._label_studio.wait()
            return connection
        if backend not in self._connected_urls:
            pending = PendingConnections(self._settings.home)
            pending.add(client.server, number, backend if self._options.backend else "")
        connection = {"backend": backend, "connected": backend in self._connected_urls}
        should_serve = self._should_serve()
        self._open_project(link, continues=should_serve)
        if should_serve:
            self._serve(number, {**result, **connection})
        elif self._label_studio.is_started:
            self._log(STOPPING_MESSAGE)
        else:
            self._log(self._serve_instructions())
        return connection

    def _find_running(self) -> RunningBackend | None:
        """Return the backend if it is running.

        Raises:
            PrelabelError: another service answers, or a Prelabel with another home folder.
        """
        running = find_running_backend(self._settings, self._backend)
        is_requested = self._options.backend or self._connected_urls
        if running and not is_requested and running.has_other_home(self._settings):
            raise PrelabelError(
                OTHER_BACKEND_MESSAGE.format(
                    home=running.home_id, url=self._backend, port=self._port + 101
                )
            )
        return running

    def _check_port(self) -> None:
        """Check that a backend can be started.

        Raises:
            PortInUseError: another program uses its port.
            PrelabelError: ``--host`` is not an address of this machine.
        """
        try:
            open_listening_socket(self._options.host, self._port).close()
        except PortInUseError as error:
            message = PORT_IN_USE_MESSAGE.format(port=self._port, other=self._port + 101)
            raise PortInUseError(message) from error

    @property
    def _port(self) -> int:
        return urlsplit(self._backend).port or DEFAULT_PORT

    def _serve_instructions(self) -> str:
        port_option = f" --port {self._port}" if self._port != DEFAULT_PORT else ""
        command = f"prelabel serve{port_option}"
        if self._backend in self._connected_urls:
            return f"It is connected to {self._backend}, where no backend runs: start {command}"
        return f"Start the backend, which then connects the project: {command}"

    def _should_serve(self) -> bool:
        if self._options.serve is not None:
            return bool(self._options.serve)
        if self._label_studio.is_started:  # whoever starts one wants to label
            return True
        question = f"No backend runs at {self._backend}. Start it here, until you press Ctrl-C?"
        return self._prompter.is_interactive and self._prompter.confirm(question, "serve")

    def _serve(self, number: int, result: CommandResult) -> None:
        """Print the result, then serve until the process is stopped."""
        self._print_json(result)
        threading.Thread(target=self._wait_for_first_round, args=(number,), daemon=True).start()
        serve_backend(argparse.Namespace(**{**vars(self._options), "port": self._port}))

    def _print_json(self, result: CommandResult) -> None:
        """Print the result before the command goes on until it is stopped."""
        if self._options.json:
            print(json.dumps(result, ensure_ascii=False), flush=True)

    def _wait_for_first_round(self, number: int) -> CommandResult:
        """Wait for the first round of the project and print its result."""
        state = wait_for_first_round(
            self._settings,
            self._backend,
            number,
            lambda round_state: terminal.show_progress(format_progress(round_state)),
        )
        terminal.clear_progress()
        if state is None:
            self._log(f"To see the progress, run: prelabel status {number}")
            return {"version": None, "preannotated": False}
        for line in describe_first_round(state, self._settings):
            self._log(line)
        return {"version": state["version"], "preannotated": has_preannotations(state)}

    def _open_project(self, link: LabelingLink, *, continues: bool) -> None:
        """Print the address of the labeling page, and open it.

        Args:
            link: the labeling page.
            continues: this command continues; a link that signs in stops working when it ends.
        """
        signed_in = self._label_studio.sign_in_link(link.url)
        self._log(link.line)
        if signed_in != link.url and continues:
            self._log(f"This link signs you in until this command ends: {signed_in}")
        if not self._options.no_browser and sys.stdin.isatty() and not self._options.json:
            self._label_studio.open_in_browser(signed_in)


def resume_command(options: argparse.Namespace, folder: str) -> str:
    """Return the command line that continues an interrupted import."""
    backend_option = (
        f" --backend {shlex.quote(redact_secret(options.backend))}" if options.backend else ""
    )
    return f"prelabel init {shlex.quote(folder)}{backend_option}"
