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
from backend.errors import LabelStudioError, PrelabelError, PrivateAddressError, UsageError
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.ml_protocol import MODEL_CLASS, accepts_webhooks
from backend.settings import Settings
from backend.store.files import read_json, write_json
from backend.store.webhook_secret import home_fingerprint, load_webhook_secret

log = logging.getLogger("prelabel")
NOT_RUNNING_MESSAGE = (
    "Nothing answers at {url}: start `prelabel serve --port {port}`, then connect again."
)
UNREACHABLE_MESSAGE = (
    "{error} Here the backend answers at {url}; Label Studio must be able to reach it too: give "
    "--backend the address by which Label Studio's machine reaches it."
)
DOTLESS_HOST_MESSAGE = (
    "Label Studio takes no webhooks for a name without a dot, such as {host}, and the backend "
    "would not hear of labels: call it by its IP address, or by a name with a dot, such as "
    "{host}.internal."
)
SECRET_SUFFIX = re.compile(r"/[\w-]{32}/?$")
"""The end of an address that looks like what ``webhook_secret`` makes."""
START_TIMEOUT_SECONDS = 30.0
"""How long a backend that just starts may take until it answers."""
POLL_INTERVAL_SECONDS = 0.2
BasicAuth = tuple[str, str] | None


def address_with_auth(settings: Settings, backend: str) -> tuple[str, BasicAuth]:
    """The backend's address with the webhooks' secret, and the auth, where auth is on."""
    backend = strip_secret(settings, backend)
    if not settings.user:
        return backend, None
    return f"{backend}/{load_webhook_secret(settings.home)}", (settings.user, settings.password)


def strip_secret(settings: Settings, backend: str) -> str:
    """A backend's address without the secret, which `prelabel serve` prints at its end."""
    backend = backend.rstrip("/")
    if not settings.user:
        return backend
    return backend.removesuffix(f"/{load_webhook_secret(settings.home)}")


def redact_secret(backend: str) -> str:
    """A backend's address as it may be told: without a secret, also that of another home folder.

    Example:
        >>> redact_secret("http://127.0.0.1:9090/eWlXqv2R-0cJx1q8tZ_kP3mN5bV7sD9f")
        'http://127.0.0.1:9090'
    """
    return SECRET_SUFFIX.sub("", backend)


def connect_project(
    client: LabelStudioClient, number: int, settings: Settings, backend: str
) -> bool:
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
    backend = validate_backend_url(backend, settings)
    url, auth = address_with_auth(settings, backend)
    if any(row["url"].rstrip("/") == url for row in client.list_backends(number)):
        return False
    try:
        client.add_backend(number, url, auth)
    except PrivateAddressError:  # which says what to do
        raise
    except LabelStudioError as error:
        if not find_running_backend(settings, backend):
            not_running = NOT_RUNNING_MESSAGE.format(
                url=redact_secret(backend), port=port_of(backend)
            )
            raise LabelStudioError(not_running) from error
        message = str(error).replace(url, redact_secret(backend))
        raise LabelStudioError(
            UNREACHABLE_MESSAGE.format(error=message, url=redact_secret(backend))
        ) from error
    return True


def validate_backend_url(backend: str, settings: Settings | None = None) -> str:
    """The address of a backend, as it is written everywhere.

    Args:
        backend: as somebody typed it.
        settings: whose secret is taken off, where it was typed along.

    Raises:
        UsageError: it cannot be one, or Label Studio would send no webhooks to it.

    Example:
        >>> validate_backend_url("http://127.0.0.1:9090/")
        'http://127.0.0.1:9090'
    """
    try:
        parts = urlsplit(backend)
        has_host = parts.hostname and (parts.port or True)
    except ValueError as error:  # brackets that do not close, or a port above 65535
        redacted = redact_secret(backend)
        raise UsageError(f"{redacted} is no address of a backend: {error}.") from error
    if parts.scheme not in ("http", "https") or not has_host:
        redacted = redact_secret(backend)
        suggestion = "" if "//" in backend else f"http://{redacted}, or "
        raise UsageError(
            f"{redacted} is no address of a backend: it needs http:// or https://, such as {suggestion}"
            "http://127.0.0.1:9090."
        )
    if not accepts_webhooks(backend):
        raise UsageError(DOTLESS_HOST_MESSAGE.format(host=parts.hostname))
    return strip_secret(settings, backend) if settings else backend.rstrip("/")


def port_of(backend: str) -> int:
    """The port of a backend's address."""
    parts = urlsplit(backend)
    return parts.port or (443 if parts.scheme == "https" else 80)


def connected_urls(client: LabelStudioClient, number: int, settings: Settings) -> list[str]:
    """The addresses of the backends that a project is connected to, without the secret."""
    secret_suffix = f"/{load_webhook_secret(settings.home)}" if settings.user else ""
    return [
        str(row["url"]).rstrip("/").removesuffix(secret_suffix)
        for row in client.list_backends(number)
    ]


@dataclass(frozen=True)
class RunningBackend:
    """A backend of ours that answers.

    Attributes:
        home_id: the sign of its home folder; empty where it does not say.
    """

    home_id: str

    def has_other_home(self, settings: Settings) -> bool:
        """Whether it keeps another home folder than the one of these settings."""
        return self.home_id not in ("", home_fingerprint(settings.home))


def find_running_backend(settings: Settings, backend: str) -> RunningBackend | None:
    """The backend that answers at an address; None where nothing does.

    Raises:
        PrelabelError: something else does.
    """
    import httpx

    url, auth = address_with_auth(settings, backend)
    try:
        response = httpx.get(f"{url}/health", auth=auth, timeout=5, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL):
        return None
    try:
        health = response.json()
    except ValueError:
        health = None
    if not isinstance(health, dict) or health.get("model_class") != MODEL_CLASS:
        raise PrelabelError(_other_service_message(backend, response.status_code))
    return RunningBackend(str(health.get("home") or ""))


def is_own_backend(settings: Settings, backend: str) -> bool:
    """Whether the backend of this home folder answers at an address."""
    try:
        running_backend = find_running_backend(settings, backend)
    except PrelabelError:  # something else is there
        return False
    return running_backend is not None and not running_backend.has_other_home(settings)


def _other_service_message(backend: str, status: int) -> str:
    backend = redact_secret(backend)
    if status == 401:
        return (
            f"The backend at {backend} wants a password: set PRELABEL_USER, PRELABEL_PASSWORD and "
            "PRELABEL_HOME as they are where it runs."
        )
    return (
        f"Something else than Prelabel answers at {backend}: give another --backend, such as "
        "http://127.0.0.1:9191."
    )


class PendingConnections:
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
        pending = {"server": server, "project": number, "backend": backend}
        write_json(self._folder / f"{number}.json", pending)

    def has_pending(self, server: str) -> bool:
        """Whether a project of a Label Studio waits."""
        return bool(self._load_pending(server))

    def connect_all(self, settings: Settings, listen_url: str, log: LogCallback) -> list[int]:
        """Connect the projects that wait, as soon as the backend answers.

        What cannot be connected waits for the next start.

        Args:
            settings: of the backend.
            listen_url: where it listens, without a secret.
            log: told a line for each project.

        Returns:
            the numbers of those that are connected.
        """
        pending = self._load_pending(settings.label_studio_url)
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while (
            pending
            and not find_running_backend(settings, listen_url)
            and time.monotonic() < deadline
        ):
            time.sleep(POLL_INTERVAL_SECONDS)
        connected_projects = []
        for file, pending_project in pending.items():
            try:
                self._connect_project(settings, pending_project, listen_url)
            except PrelabelError as error:
                log(f"Project {pending_project['project']} is not connected: {error}")
                continue
            file.unlink(missing_ok=True)
            log(f"Project {pending_project['project']} is connected.")
            connected_projects.append(int(pending_project["project"]))
        return connected_projects

    def _load_pending(self, server: str) -> dict[Path, dict[str, Any]]:
        pending = {file: read_json(file) for file in sorted(self._folder.glob("*.json"))}
        return {
            file: pending_project
            for file, pending_project in pending.items()
            if pending_project and pending_project["server"] == server
        }

    def _connect_project(
        self, settings: Settings, pending_project: dict[str, Any], listen_url: str
    ) -> None:
        client = LabelStudioClient(settings.label_studio_url, settings.api_key)
        connect_project(
            client,
            int(pending_project["project"]),
            settings,
            pending_project["backend"] or listen_url,
        )
