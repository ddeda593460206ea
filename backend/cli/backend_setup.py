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
from backend.cli.addresses import BACKEND
from backend.errors import PrelabelError
from backend.settings import Settings

if TYPE_CHECKING:
    from backend.label_studio.client import Client
    from backend.onboarding.backend_connection import Answering
    from backend.onboarding.folder_project import Started

ANOTHER = (
    "Another Prelabel (home {home}) answers at {url}, such as a demo that is still running: stop "
    "it, or choose another port, such as --backend http://127.0.0.1:{port}."
)
Figures = dict[str, Any]


class Joining:
    """Brings a project and a backend together.

    Args:
        options: of the command.
        settings: of this process, which the backend has as well.
        say: told lines for people.
    """

    def __init__(
        self, options: argparse.Namespace, settings: Settings, say: Callable[[str], None]
    ) -> None:
        self._options = options
        self._settings = settings
        self._say = say
        self._ask = terminal.Asker()
        self._backend = BACKEND
        self._joined: list[str] = []

    def look_around(self, client: Client, before: Started | None) -> None:
        """Find out where the backend is or shall be, before anything is made.

        Args:
            client: of Label Studio.
            before: the project, where it is there already.

        Raises:
            UsageError: the address that was given cannot be one.
            PrelabelError: something else is at that address, or another Prelabel.
        """
        from backend.onboarding.backend_connection import checked, joined, ours

        given = self._options.backend
        self._backend = checked(given or BACKEND, self._settings)
        self._joined = joined(client, before.number, self._settings) if before else []
        if self._joined and not given:
            first = self._joined[0]
            if not ours(self._settings, first) and ours(self._settings, BACKEND):
                self._joined.append(BACKEND)  # the same, by the name that it has here
            else:
                self._backend = first
        self._answering()

    def join(self, client: Client, started: Started, url: str, figures: Figures) -> Figures:
        """Connect now, or leave it to the backend that is started next.

        Args:
            client: of Label Studio.
            started: the project.
            url: of its page.
            figures: so far, for those who wait for them.
        """
        from backend.onboarding import backend_connection

        backend, number = self._backend, started.number
        if self._answering():
            if backend in self._joined or not backend_connection.connect(
                client, number, self._settings, backend
            ):
                self._say(f"It is connected to the backend at {backend}.")
            else:
                self._say(f"Connected to the backend at {backend}; it looks at the images.")
            self._open(url)
            return {"backend": backend, "connected": True} | self._look(number)
        if backend not in self._joined:
            waiting = backend_connection.Waiting(self._settings.home)
            waiting.add(client.server, number, backend if self._options.backend else "")
        later = {"backend": backend, "connected": backend in self._joined}
        serves = self._serves()
        self._open(url)
        if not serves:
            self._say(self._how_to_serve())
            return later
        return self._serve(number, figures | later)

    def _answering(self) -> Answering | None:
        """The backend, where it runs; what answers without being meant is an error.

        Raises:
            PrelabelError: it is none of ours, or one with another home folder.
        """
        from backend.onboarding.backend_connection import answering, port_of

        found = answering(self._settings, self._backend)
        meant = self._options.backend or self._joined
        if found and not meant and found.other(self._settings):
            next_port = port_of(self._backend) + 101
            raise PrelabelError(ANOTHER.format(home=found.home, url=self._backend, port=next_port))
        return found

    def _how_to_serve(self) -> str:
        command = f"prelabel serve{self._port_option()}"
        if self._backend in self._joined:
            return f"It is connected to {self._backend}, where nothing answers: start {command}"
        return f"Now start the backend, which connects the project: {command}"

    def _port_option(self) -> str:
        port = self._port()
        return f" --port {port}" if port != 9090 else ""

    def _port(self) -> int:
        from urllib.parse import urlsplit

        return urlsplit(self._backend).port or 9090

    def _serves(self) -> bool:
        if self._options.serve is not None:
            return bool(self._options.serve)
        asked = f"No backend runs at {self._backend}. Start it here, until you press Ctrl-C?"
        return self._ask.somebody and self._ask.yes(asked, "serve")

    def _serve(self, number: int, figures: Figures) -> Figures:
        """Be the backend from now on; the figures come before that, for those who wait for them."""
        from backend.cli import serve

        if self._options.json:
            print(json.dumps(figures, ensure_ascii=False), flush=True)
        threading.Thread(target=self._look, args=(number,), daemon=True).start()
        serve.run(
            argparse.Namespace(
                host=self._options.host,
                port=self._port(),
                json=self._options.json,
                debug=self._options.debug,
            )
        )
        return figures

    def _look(self, number: int) -> Figures:
        """Wait for the backend's first look and tell what came of it."""
        from backend.onboarding.first_round import doing, first_look, known_before, outcome

        state = first_look(
            self._settings, self._backend, number, lambda now: terminal.show(doing(now))
        )
        terminal.clear()
        if state is None:
            self._say(f"`prelabel status {number}` tells how far it is.")
            return {"version": None, "preannotated": False}
        for line in outcome(state, self._settings):
            self._say(line)
        return {"version": state["version"], "preannotated": known_before(state)}

    def _open(self, url: str) -> None:
        self._say(f"Label here: {url}")
        if not self._options.no_browser and sys.stdin.isatty() and not self._options.json:
            terminal.open_page(url)


def again(options: argparse.Namespace, folder: str) -> str:
    """The command that goes on with a folder."""
    from backend.onboarding.backend_connection import shown

    more = f" --backend {shlex.quote(shown(options.backend))}" if options.backend else ""
    return f"prelabel init {shlex.quote(folder)}{more}"
