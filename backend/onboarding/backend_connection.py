"""Connect a project to the backend: now, or when the backend starts."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from backend.callbacks import LogCallback
from backend.errors import (
    ConfigError,
    LabelStudioError,
    PrelabelError,
    PrivateAddressError,
    UsageError,
)
from backend.label_studio.backend_urls import DOTLESS_HOST_RULE, accepts_webhooks, url_port
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.diagnostics import identify_backend
from backend.label_studio.labeling_config import read_config
from backend.label_studio.ml_protocol import MODEL_CLASS
from backend.label_studio.webhooks import ensure_webhook
from backend.settings import Settings
from backend.store.record_files import read_cache, write_record
from backend.store.webhook_secret import home_fingerprint, load_webhook_secret

NOT_RUNNING_MESSAGE = (
    "Nothing answers at {url}: start `prelabel serve --port {port}`, then connect again."
)
UNREACHABLE_MESSAGE = (
    "{error} The backend answers at {url} on this machine, and Label Studio must reach it too: set "
    "--backend to the address at which the machine of Label Studio reaches it."
)
CREDENTIALS_MESSAGE = (
    "The backend at {url} requires a password: set PRELABEL_USER, PRELABEL_PASSWORD and "
    "PRELABEL_HOME to the values that it was started with."
)
OTHER_SERVICE_MESSAGE = (
    "Another service than Prelabel answers at {url}: choose another --backend, such as "
    "http://127.0.0.1:9191."
)
SECRET_SUFFIX = re.compile(r"/[\w-]{32}/?$")
"""A webhook secret at the end of an address."""
START_TIMEOUT_SECONDS = 30.0
"""Time that a starting backend may take to answer."""
POLL_INTERVAL_SECONDS = 0.2
BasicAuth = tuple[str, str] | None


def address_with_auth(settings: Settings, backend: str) -> tuple[str, BasicAuth]:
    """Return the backend's address with the webhook secret, and its basic auth, if enabled."""
    backend = strip_secret(settings, backend)
    if not settings.user:
        return backend, None
    return f"{backend}/{load_webhook_secret(settings.home)}", (settings.user, settings.password)


def strip_secret(settings: Settings, backend: str) -> str:
    """Return a backend's address without the secret that `prelabel serve` prints at its end."""
    backend = backend.rstrip("/")
    if not settings.user:
        return backend
    return backend.removesuffix(f"/{load_webhook_secret(settings.home)}")


def redact_secret(backend: str) -> str:
    """Return a backend's address for messages, without the secret of any home folder.

    Example:
        >>> redact_secret("http://127.0.0.1:9090/eWlXqv2R-0cJx1q8tZ_kP3mN5bV7sD9f")
        'http://127.0.0.1:9090'
    """
    return SECRET_SUFFIX.sub("", backend)


@dataclass(frozen=True)
class ConnectionChanges:
    """What :func:`connect_project` changed.

    Attributes:
        is_new: the project was not connected before.
        has_restored_webhook: the webhook was missing or turned off.
        is_interactive: smart tools call the backend.
    """

    is_new: bool
    has_restored_webhook: bool
    is_interactive: bool


def connect_project(
    client: LabelStudioClient,
    number: int,
    settings: Settings,
    backend: str,
    *,
    interactive: bool | None = None,
) -> ConnectionChanges:
    """Connect a project to the running backend, or repair the connection.

    Args:
        client: client of Label Studio.
        number: project number.
        settings: settings with the basic auth of the backend.
        backend: address at which Label Studio reaches the backend.
        interactive: whether smart tools call the backend. None: a new connection is interactive if
            the labeling config has a smart tool, and an existing one stays as it is.

    Raises:
        UsageError: the address is invalid, or Label Studio would not send webhooks to it.
        LabelStudioError: Label Studio cannot reach the backend.
    """
    backend = validate_backend_url(backend, settings)
    url, auth = address_with_auth(settings, backend)
    connections = [row for row in client.list_backends(number) if row.url == url]
    if connections:
        connection = connections[0]
        if interactive is None or interactive == connection.is_interactive:
            interactive = connection.is_interactive
        else:
            client.set_interactive(connection, number, auth, is_interactive=interactive)
        return ConnectionChanges(False, ensure_webhook(client, number, url), interactive)
    if interactive is None:
        interactive = _has_smart_tools(client, number)
    try:
        client.add_backend(number, url, auth, is_interactive=interactive)
    except PrivateAddressError:  # its message has the fix
        raise
    except LabelStudioError as error:
        redacted = redact_secret(backend)
        message = UNREACHABLE_MESSAGE.format(error=str(error).replace(url, redacted), url=redacted)
        if not find_running_backend(settings, backend):
            message = NOT_RUNNING_MESSAGE.format(url=redacted, port=url_port(backend))
        raise LabelStudioError(message) from error
    return ConnectionChanges(True, ensure_webhook(client, number, url), interactive)


def _has_smart_tools(client: LabelStudioClient, number: int) -> bool:
    try:
        controls = read_config(str(client.get_project(number)["label_config"])).controls
    except ConfigError:  # the first round reports it
        return False
    return any(control.smart for control in controls)


def validate_backend_url(backend: str, settings: Settings | None = None) -> str:
    """Return the normalized address of a backend.

    Args:
        backend: address that the user typed.
        settings: if given, their webhook secret is removed from the end of the address.

    Raises:
        UsageError: it is invalid, or Label Studio would not send webhooks to it.

    Example:
        >>> validate_backend_url("http://127.0.0.1:9090/")
        'http://127.0.0.1:9090'
    """
    redacted = redact_secret(backend)
    try:
        parts = urlsplit(backend)
        has_host = parts.hostname and (parts.port or True)
    except ValueError as error:  # an unclosed bracket, or a port above 65535
        raise UsageError(f"{redacted} is not a valid backend address: {error}.") from error
    if parts.scheme not in ("http", "https") or not has_host:
        suggestion = "" if "//" in backend else f"http://{redacted}, or "
        raise UsageError(
            f"{redacted} is not a valid backend address: it needs http:// or https://, such as "
            f"{suggestion}http://127.0.0.1:9090."
        )
    if not accepts_webhooks(backend):
        raise UsageError(f"{DOTLESS_HOST_RULE.format(host=parts.hostname)}.")
    return strip_secret(settings, backend) if settings else backend.rstrip("/")


def connected_urls(client: LabelStudioClient, number: int, settings: Settings) -> list[str]:
    """Return the addresses of a project's ML backends, without the secret."""
    return [strip_secret(settings, c.url) for c in client.list_backends(number)]


@dataclass(frozen=True)
class RunningBackend:
    """A running Prelabel backend.

    Attributes:
        home_id: fingerprint of its home folder; empty if it does not report one.
    """

    home_id: str

    def has_other_home(self, settings: Settings) -> bool:
        """Return whether its home folder is not the one of the settings."""
        return self.home_id not in ("", home_fingerprint(settings.home))


def find_running_backend(settings: Settings, backend: str) -> RunningBackend | None:
    """Return the backend that answers at an address; None if nothing does.

    Raises:
        PrelabelError: another service answers, or the backend requires a password.
    """
    url, auth = address_with_auth(settings, backend)
    service = identify_backend(url, auth)
    if not service.description:
        return None
    if service.description == MODEL_CLASS:
        return RunningBackend(service.home_id)
    message = CREDENTIALS_MESSAGE if service.needs_auth else OTHER_SERVICE_MESSAGE
    raise PrelabelError(message.format(url=redact_secret(backend)))


def is_own_backend(settings: Settings, backend: str) -> bool:
    """Return whether the backend of this home folder answers at an address."""
    try:
        running_backend = find_running_backend(settings, backend)
    except PrelabelError:  # another service answers
        return False
    return running_backend is not None and not running_backend.has_other_home(settings)


@dataclass(frozen=True)
class PendingConnection:
    """A project to connect when the backend starts.

    Attributes:
        server: address of its Label Studio.
        project: project number.
        backend: address to connect it to; "" for the address that the backend listens at.
    """

    server: str
    project: int
    backend: str


NOTHING_PENDING = PendingConnection("", 0, "")


class PendingConnections:
    """The projects that the next ``prelabel serve`` connects, stored in the home folder."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "waiting"

    def add(self, server: str, number: int, backend: str = "") -> None:
        """Add a project. See :class:`PendingConnection`."""
        pending = PendingConnection(server, number, backend)
        write_record(self._folder / f"{number}.json", pending)

    def has_pending(self, server: str) -> bool:
        """Return whether any project of a Label Studio is pending."""
        return bool(self._load_pending(server))

    def port(self, server: str) -> int:
        """Return the port in the address that a pending project is to call; 0 if any will do.

        An address without a port is that of a proxy, which calls the backend at its usual port.
        """
        urls = [one.backend for one in self._load_pending(server).values() if one.backend]
        return (urlsplit(urls[-1]).port or 0) if urls else 0

    def connect_all(self, settings: Settings, listen_url: str, log: LogCallback) -> list[int]:
        """Connect the pending projects as soon as the backend answers.

        Projects that cannot be connected stay pending.

        Args:
            settings: settings of the backend.
            listen_url: address that it listens at, without the webhook secret.
            log: called with a line for each project.

        Returns:
            the numbers of the connected projects.
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
        for file, connection in pending.items():
            try:
                client = LabelStudioClient(settings.label_studio_url, settings.api_key)
                backend = connection.backend or listen_url
                connect_project(client, connection.project, settings, backend)
            except PrelabelError as error:
                log(f"Project {connection.project} is not connected: {error}")
                continue
            file.unlink(missing_ok=True)
            log(f"Project {connection.project} is connected.")
            connected_projects.append(connection.project)
        return connected_projects

    def _load_pending(self, server: str) -> dict[Path, PendingConnection]:
        files = sorted(self._folder.glob("*.json"))
        pending = {file: read_cache(file, PendingConnection, NOTHING_PENDING) for file in files}
        return {file: one for file, one in pending.items() if one.server == server}
