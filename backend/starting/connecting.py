"""A project ↔ the backend: connected now, or by the backend as soon as it starts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from backend.errors import AddressRefused, LabelStudioError, PrelabelError, UsageError
from backend.label_studio.client import Client
from backend.label_studio.protocol import MODEL_CLASS, hears
from backend.settings import Settings
from backend.store.files import read_json, write_json
from backend.store.secret import webhook_secret

log = logging.getLogger("prelabel")
REFUSED = (
    "{error} Label Studio must be able to reach {url}: is `prelabel serve` running? For a private "
    "address start Label Studio with ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false."
)
NAMELESS = (
    "Label Studio takes no webhooks for a name without a dot, such as {host}, and the backend "
    "would not hear of labels: call it by its IP address, or by a name with a dot, such as "
    "{host}.internal."
)
START_SECONDS = 30.0
"""How long a backend that just starts may take until it answers."""
POLL = 0.2
Auth = tuple[str, str] | None
Say = Callable[[str], None]


def address(settings: Settings, backend: str) -> tuple[str, Auth]:
    """The backend's address with the webhooks' secret, and the auth, where auth is on."""
    backend = backend.rstrip("/")
    if not settings.user:
        return backend, None
    return f"{backend}/{webhook_secret(settings.home)}", (settings.user, settings.password)


def connect(client: Client, number: int, settings: Settings, backend: str) -> bool:
    """Connect a project to the running backend.

    Args:
        client: Label Studio.
        number: the project's.
        settings: tell whether auth is on.
        backend: its address, as Label Studio reaches it.

    Returns:
        whether it is new; false where it was connected already.

    Raises:
        UsageError: Label Studio would connect it, but send it no webhooks.
        LabelStudioError: Label Studio cannot reach the backend.
    """
    if not hears(backend):
        raise UsageError(NAMELESS.format(host=urlsplit(backend).hostname))
    url, auth = address(settings, backend)
    if any(row["url"].rstrip("/") == url for row in client.backends(number)):
        return False
    try:
        client.add_backend(number, url, auth)
    except AddressRefused:  # which says what to do
        raise
    except LabelStudioError as error:
        raise LabelStudioError(REFUSED.format(error=error, url=backend)) from error
    return True


def answers(settings: Settings, backend: str) -> bool:
    """Whether a backend of ours answers at an address.

    Raises:
        PrelabelError: something else does.
    """
    import httpx

    url, auth = address(settings, backend)
    try:
        answer = httpx.get(f"{url}/health", auth=auth, timeout=5, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    if MODEL_CLASS not in answer.text:
        raise PrelabelError(
            f"Something else than Prelabel answers at {backend}: give another --backend, such as "
            "http://127.0.0.1:9191."
        )
    return True


class Waiting:
    """Projects that the next ``prelabel serve`` shall connect.

    Args:
        home: the folder for everything that lasts.
    """

    def __init__(self, home: Path) -> None:
        self._folder = home / "waiting"

    def add(self, server: str, number: int, backend: str = "") -> None:
        """Remember a project.

        Args:
            server: its Label Studio.
            number: the project's.
            backend: the address to connect it to; empty: the one that the backend listens at.
        """
        note = {"server": server, "project": number, "backend": backend}
        write_json(self._folder / f"{number}.json", note)

    def any_of(self, server: str) -> bool:
        """Whether a project of a Label Studio waits."""
        return bool(self._notes(server))

    def connect(self, settings: Settings, listening: str, say: Say) -> list[int]:
        """Connect the projects that wait, as soon as the backend answers.

        What cannot be connected waits for the next start.

        Args:
            settings: of the backend.
            listening: where it listens, without a secret.
            say: told a line for each project.

        Returns:
            the numbers of those that are connected.
        """
        notes = self._notes(settings.label_studio_url)
        deadline = time.monotonic() + START_SECONDS
        while notes and not answers(settings, listening) and time.monotonic() < deadline:
            time.sleep(POLL)
        done = []
        for file, note in notes.items():
            try:
                self._connect(settings, note, listening)
            except PrelabelError as error:
                say(f"Project {note['project']} is not connected: {error}")
                continue
            file.unlink(missing_ok=True)
            say(f"Project {note['project']} is connected.")
            done.append(int(note["project"]))
        return done

    def _notes(self, server: str) -> dict[Path, dict[str, Any]]:
        notes = {file: read_json(file) for file in sorted(self._folder.glob("*.json"))}
        return {file: note for file, note in notes.items() if note and note["server"] == server}

    def _connect(self, settings: Settings, note: dict[str, Any], listening: str) -> None:
        client = Client(settings.label_studio_url, settings.api_key)
        connect(client, int(note["project"]), settings, note["backend"] or listening)
