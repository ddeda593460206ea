"""Connect to a project: find the address and token that reach it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from backend.errors import LabelStudioError, LabelStudioNotFoundError
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.image_fetcher import TaskImageFetcher
from backend.settings import Settings
from backend.store.projects import ProjectRecord
from backend.store.servers import is_same_server
from backend.web_fetcher import FetchLimits

PING_TIMEOUT_SECONDS = 1.0
"""Timeout of a reachability check; Label Studio itself waits 3 s for ``/setup``."""


@dataclass(frozen=True)
class Connection:
    """A working connection to a project.

    Attributes:
        record: the project.
        client: of Label Studio's API, with a valid token.
        images: downloads the images of its tasks.
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

    The token of the settings is only sent to the address of the settings. Label Studio may call
    itself by another address, for example inside a container. Then the project's creation time
    must match.

    Args:
        record: the project.
        token: from ``/setup``; may be empty.
        settings: with the configured address and token.

    Raises:
        LabelStudioError: every attempt failed; the error of the first one.
    """
    failures: list[LabelStudioError] = []
    for server, candidate_token in _connection_candidates(record, token, settings):
        try:
            client = LabelStudioClient(server, candidate_token)
            _check_same_project(client, record)
            limits = FetchLimits(settings.max_image_bytes, settings.allowed_hosts)
            return Connection(record, client, TaskImageFetcher(server, client.auth_headers, limits))
        except LabelStudioError as error:
            failures.append(error)
    raise failures[0]


def is_server_reachable(server: str) -> bool:
    """Whether an HTTP server answers at an address, with any status."""
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
    """Return Label Studio's ``created_at`` as whole seconds since 1970; 0 if it is missing."""
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError):
        return 0


def _connection_candidates(
    record: ProjectRecord, token: str, settings: Settings
) -> list[tuple[str, str]]:
    configured = (settings.label_studio_url, settings.api_key or token)
    if not record.server or is_same_server(record.server, settings.label_studio_url):
        return [configured, (configured[0], token)] if token and settings.api_key else [configured]
    announced = (record.server, token)
    return [announced, configured] if settings.api_key else [announced]


def _check_same_project(client: LabelStudioClient, record: ProjectRecord) -> None:
    created = parse_created_at(str(client.get_project(record.number).get("created_at", "")))
    if record.created and created and record.created != created:
        raise LabelStudioNotFoundError(
            f"Project {record.number} of {client.server} is not the project that was connected: "
            "connect it again in Label Studio."
        )
