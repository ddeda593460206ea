"""Which address and which token lead to a project: tried once, then remembered."""

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
"""That a server may take to say that it is there; Label Studio waits 3 s for /setup."""


@dataclass(frozen=True)
class Connection:
    """A project within reach.

    Attributes:
        record: the project.
        client: Label Studio's API with a token that works.
        images: fetches the images of its tasks.
    """

    record: ProjectRecord
    client: LabelStudioClient
    images: TaskImageFetcher

    @property
    def project_number(self) -> int:
        """Label Studio's project number."""
        return self.record.number


def connect(record: ProjectRecord, token: str, settings: Settings) -> Connection:
    """Reach a project, by the ways that may lead there.

    The token of the settings is only ever sent to the address of the settings. Where that is
    another address than the one Label Studio called itself (inside and outside of a container),
    the project's time of creation proves that it is the same Label Studio.

    Args:
        record: the project.
        token: what /setup brought along; may be empty.
        settings: the address and the token of the settings.

    Raises:
        LabelStudioError: no way leads there; the first way's failure.
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
    """Whether anything answers at an address, whatever it says."""
    import httpx

    try:
        httpx.get(f"{server}/version", timeout=PING_TIMEOUT_SECONDS, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return True


def parse_created_at(text: str) -> int:
    """Return the creation time in whole seconds since 1970, as /setup has it; 0 if none."""
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except ValueError:
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
            f"Project {record.number} of {client.server} is another one than the one that was "
            "connected: connect it again in Label Studio."
        )
