"""Connect to a Label Studio project, trying the known addresses and tokens."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from backend.errors import LabelStudioError, ProjectMissingError, StoreError
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.image_fetcher import TaskImageFetcher, make_task_fetcher
from backend.settings import Settings
from backend.store.login import NO_LOGIN, load_login
from backend.store.projects import ProjectRecord
from backend.store.servers import is_same_server

PING_TIMEOUT_SECONDS = 1.0
"""Timeout of a reachability check; Label Studio itself waits 3 s for ``/setup``."""


@dataclass(frozen=True)
class Connection:
    """A working connection to a project.

    Attributes:
        record: the project.
        client: Label Studio API client with a valid token.
        images: downloads task images.
    """

    record: ProjectRecord
    client: LabelStudioClient
    images: TaskImageFetcher

    @property
    def project_number(self) -> int:
        """Label Studio's project number."""
        return self.record.number


def connect(record: ProjectRecord, token: str, settings: Settings) -> Connection:
    """Connect to a project, trying all known addresses and tokens.

    ``settings.api_key`` is only sent to ``settings.label_studio_url``. Label Studio may announce a
    different address, for example from inside a container, so the creation time of the project
    must match too.

    Args:
        record: the project.
        token: token received with ``/setup``; may be empty.
        settings: settings with the configured address and API key.

    Raises:
        ProjectMissingError: every server that may have the project answered that it does not.
        LabelStudioError: every attempt failed; the first other error is raised.
    """
    failures: list[LabelStudioError] = []
    for server, candidate_token in _connection_candidates(record, token, settings):
        try:
            client = LabelStudioClient(server, candidate_token)
            _check_same_project(client, record)
            fetcher = make_task_fetcher(client, settings, announced=record.server)
            return Connection(record, client, fetcher)
        except LabelStudioError as error:
            is_missing = isinstance(error, ProjectMissingError)
            if is_missing and not record.created:  # another server's project may have its number
                raise
            failures.append(error)
    # the project is only missing if no address may have it
    others = [error for error in failures if not isinstance(error, ProjectMissingError)]
    raise (others or failures)[0]


def is_server_reachable(server: str) -> bool:
    """Return whether an HTTP server responds at an address, with any status code."""
    import httpx

    try:
        httpx.get(f"{server}/version", timeout=PING_TIMEOUT_SECONDS, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return False
    return True


def is_token_valid(server: str, number: int, token: str) -> bool:
    """Return whether a Label Studio lets a legacy token read a project."""
    import httpx

    url, headers = f"{server}/api/projects/{number}/", {"Authorization": f"Token {token}"}
    try:
        response = httpx.get(url, headers=headers, timeout=PING_TIMEOUT_SECONDS, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return False
    return response.status_code == 200


def parse_created_at(text: str) -> int:
    """Parse Label Studio's ``created_at`` to a Unix timestamp in seconds; 0 if invalid."""
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError):
        return 0


def _connection_candidates(
    record: ProjectRecord, token: str, settings: Settings
) -> list[tuple[str, str]]:
    url, own_tokens = settings.label_studio_url, _own_tokens(settings)
    configured = [(url, candidate) for candidate in own_tokens]
    if not record.server or is_same_server(record.server, url):
        return [*configured, (url, token)] if token or not configured else configured
    return [(record.server, token), *configured]


def _own_tokens(settings: Settings) -> list[str]:
    """Return the configured token, and the one of `prelabel login` if it is newer."""
    try:
        login = load_login(settings.home)
    except StoreError:  # an unreadable home folder is reported elsewhere
        login = NO_LOGIN
    is_own = is_same_server(login.server, settings.label_studio_url)
    tokens = (settings.api_key, login.token if is_own else "")
    return list(dict.fromkeys(filter(None, tokens)))


def _check_same_project(client: LabelStudioClient, record: ProjectRecord) -> None:
    created = parse_created_at(str(client.get_project(record.number).get("created_at", "")))
    if record.created and created and record.created != created:
        raise ProjectMissingError(
            f"Project {record.number} of {client.server} is not the project that was connected: "
            "connect it again in Label Studio."
        )
