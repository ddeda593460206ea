"""A project ↔ the backend: connected now, or by the backend as soon as it starts."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from backend.callbacks import LogCallback
from backend.errors import AddressRefused, LabelStudioError, PrelabelError, UsageError
from backend.label_studio.client import Client
from backend.label_studio.ml_protocol import MODEL_CLASS, hears
from backend.settings import Settings
from backend.store.files import read_json, write_json
from backend.store.webhook_secret import home_sign, webhook_secret

log = logging.getLogger("prelabel")
UNANSWERED = "Nothing answers at {url}: start `prelabel serve --port {port}`, then connect again."
UNREACHED = (
    "{error} Here the backend answers at {url}; Label Studio must be able to reach it too: give "
    "--backend the address by which Label Studio's machine reaches it."
)
NAMELESS = (
    "Label Studio takes no webhooks for a name without a dot, such as {host}, and the backend "
    "would not hear of labels: call it by its IP address, or by a name with a dot, such as "
    "{host}.internal."
)
SECRET = re.compile(r"/[\w-]{32}/?$")
"""The end of an address that looks like what ``webhook_secret`` makes."""
START_SECONDS = 30.0
"""How long a backend that just starts may take until it answers."""
POLL = 0.2
Auth = tuple[str, str] | None


def address(settings: Settings, backend: str) -> tuple[str, Auth]:
    """The backend's address with the webhooks' secret, and the auth, where auth is on."""
    backend = plain(settings, backend)
    if not settings.user:
        return backend, None
    return f"{backend}/{webhook_secret(settings.home)}", (settings.user, settings.password)


def plain(settings: Settings, backend: str) -> str:
    """A backend's address without the secret, which `prelabel serve` prints at its end."""
    backend = backend.rstrip("/")
    if not settings.user:
        return backend
    return backend.removesuffix(f"/{webhook_secret(settings.home)}")


def shown(backend: str) -> str:
    """A backend's address as it may be told: without a secret, also that of another home folder.

    Example:
        >>> shown("http://127.0.0.1:9090/eWlXqv2R-0cJx1q8tZ_kP3mN5bV7sD9f")
        'http://127.0.0.1:9090'
    """
    return SECRET.sub("", backend)


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
        UsageError: the address cannot be one, or Label Studio would send it no webhooks.
        LabelStudioError: Label Studio cannot reach the backend.
    """
    backend = checked(backend, settings)
    url, auth = address(settings, backend)
    if any(row["url"].rstrip("/") == url for row in client.backends(number)):
        return False
    try:
        client.add_backend(number, url, auth)
    except AddressRefused:  # which says what to do
        raise
    except LabelStudioError as error:
        if not answering(settings, backend):
            gone = UNANSWERED.format(url=shown(backend), port=port_of(backend))
            raise LabelStudioError(gone) from error
        told = str(error).replace(url, shown(backend))
        raise LabelStudioError(UNREACHED.format(error=told, url=shown(backend))) from error
    return True


def checked(backend: str, settings: Settings | None = None) -> str:
    """The address of a backend, as it is written everywhere.

    Args:
        backend: as somebody typed it.
        settings: whose secret is taken off, where it was typed along.

    Raises:
        UsageError: it cannot be one, or Label Studio would send no webhooks to it.

    Example:
        >>> checked("http://127.0.0.1:9090/")
        'http://127.0.0.1:9090'
    """
    try:
        parts = urlsplit(backend)
        named = parts.hostname and (parts.port or True)
    except ValueError as error:  # brackets that do not close, or a port above 65535
        told = shown(backend)
        raise UsageError(f"{told} is no address of a backend: {error}.") from error
    if parts.scheme not in ("http", "https") or not named:
        told = shown(backend)
        start = "" if "//" in backend else f"http://{told}, or "
        raise UsageError(
            f"{told} is no address of a backend: it needs http:// or https://, such as {start}"
            "http://127.0.0.1:9090."
        )
    if not hears(backend):
        raise UsageError(NAMELESS.format(host=parts.hostname))
    return plain(settings, backend) if settings else backend.rstrip("/")


def port_of(backend: str) -> int:
    """The port of a backend's address."""
    parts = urlsplit(backend)
    return parts.port or (443 if parts.scheme == "https" else 80)


def joined(client: Client, number: int, settings: Settings) -> list[str]:
    """The addresses of the backends that a project is connected to, without the secret."""
    end = f"/{webhook_secret(settings.home)}" if settings.user else ""
    return [str(row["url"]).rstrip("/").removesuffix(end) for row in client.backends(number)]


@dataclass(frozen=True)
class Answering:
    """A backend of ours that answers.

    Attributes:
        home: the sign of its home folder; empty where it does not say.
    """

    home: str

    def other(self, settings: Settings) -> bool:
        """Whether it keeps another home folder than the one of these settings."""
        return self.home not in ("", home_sign(settings.home))


def answering(settings: Settings, backend: str) -> Answering | None:
    """The backend that answers at an address; None where nothing does.

    Raises:
        PrelabelError: something else does.
    """
    import httpx

    url, auth = address(settings, backend)
    try:
        answer = httpx.get(f"{url}/health", auth=auth, timeout=5, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL):
        return None
    try:
        told = answer.json()
    except ValueError:
        told = None
    if not isinstance(told, dict) or told.get("model_class") != MODEL_CLASS:
        raise PrelabelError(_stranger(backend, answer.status_code))
    return Answering(str(told.get("home") or ""))


def ours(settings: Settings, backend: str) -> bool:
    """Whether the backend of this home folder answers at an address."""
    try:
        found = answering(settings, backend)
    except PrelabelError:  # something else is there
        return False
    return found is not None and not found.other(settings)


def _stranger(backend: str, status: int) -> str:
    backend = shown(backend)
    if status == 401:
        return (
            f"The backend at {backend} wants a password: set PRELABEL_USER, PRELABEL_PASSWORD and "
            "PRELABEL_HOME as they are where it runs."
        )
    return (
        f"Something else than Prelabel answers at {backend}: give another --backend, such as "
        "http://127.0.0.1:9191."
    )


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

    def connect(self, settings: Settings, listening: str, say: LogCallback) -> list[int]:
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
        while notes and not answering(settings, listening) and time.monotonic() < deadline:
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
