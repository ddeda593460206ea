"""Which address and which token lead to a project: tried once, then remembered."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from backend.errors import LabelStudioError, NotInLabelStudio
from backend.label_studio.client import Client
from backend.label_studio.image_fetcher import Images
from backend.settings import Settings
from backend.store.projects import ProjectRecord
from backend.store.servers import same_server
from backend.web_fetcher import Limits

ALIVE_SECONDS = 1.0
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
    client: Client
    images: Images

    @property
    def number(self) -> int:
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
    for server, key in _ways(record, token, settings):
        try:
            client = Client(server, key)
            _same_project(client, record)
            limits = Limits(settings.max_image_bytes, settings.allowed_hosts)
            return Connection(record, client, Images(server, client.auth_headers, limits))
        except LabelStudioError as error:
            failures.append(error)
    raise failures[0]


def answers(server: str) -> bool:
    """Whether anything answers at an address, whatever it says."""
    import httpx

    try:
        httpx.get(f"{server}/version", timeout=ALIVE_SECONDS, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return True


def created_at(text: str) -> int:
    """Label Studio's ``created_at`` in whole seconds since 1970, as /setup has it; 0 if none."""
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except ValueError:
        return 0


def _ways(record: ProjectRecord, token: str, settings: Settings) -> list[tuple[str, str]]:
    ours = (settings.label_studio_url, settings.api_key or token)
    if not record.server or same_server(record.server, settings.label_studio_url):
        return [ours, (ours[0], token)] if token and settings.api_key else [ours]
    theirs = (record.server, token)
    return [theirs, ours] if settings.api_key else [theirs]


def _same_project(client: Client, record: ProjectRecord) -> None:
    created = created_at(str(client.project(record.number).get("created_at", "")))
    if record.created and created and record.created != created:
        raise NotInLabelStudio(
            f"Project {record.number} of {client.server} is another one than the one that was "
            "connected: connect it again in Label Studio."
        )
