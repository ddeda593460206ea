"""Fetch the images of tasks, whose addresses are untrusted.

Addresses of Label Studio (uploads, local files, cloud storage) are fetched from it with its token.
All others are fetched without a token, and only from public hosts.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, quote, unquote_to_bytes, urlsplit

from backend.errors import ImageError, LabelStudioError
from backend.web_fetcher import (
    FetchLimits,
    Resolver,
    ServerBusyError,
    WebFetcher,
    redact_url,
    url_origin,
)

if TYPE_CHECKING:
    from backend.label_studio.api_session import ApiSession
    from backend.settings import Settings

FETCH_TIMEOUT_SECONDS = 60.0
MISSING_UPLOAD_STATUS = 500
"""What Label Studio 1.23 answers for an upload whose file is gone."""
CLOUD_SCHEMES = frozenset({"s3", "gs", "azure-blob", "azure-spi"})


class TaskImageFetcher:
    """Fetches the images of tasks of one Label Studio. Thread-safe.

    Args:
        server: address of Label Studio, with its path prefix.
        auth: returns its authorization header; called for each request, as tokens are renewed.
        limits: size limits and allowed hosts.
        resolve: host and port → IP addresses; the system's resolver by default.
        aliases: other addresses of the same server, by which it may call itself in tasks.
    """

    def __init__(
        self,
        server: str,
        auth: Callable[[], Mapping[str, str]],
        limits: FetchLimits,
        resolve: Resolver | None = None,
        aliases: Iterable[str] = (),
    ) -> None:
        self._server = server.rstrip("/")
        self._aliases = tuple(f"{alias}/" for alias in aliases if alias)
        self._origin = url_origin(urlsplit(self._server))
        self._auth = auth
        self._limits = limits
        self._web = WebFetcher(limits, resolve)

    def fetch(self, address: str, task: int) -> bytes:
        """Fetch the bytes of an image.

        Args:
            address: address in the data of the task.
            task: task id, with which Label Studio resolves addresses of cloud storage.

        Raises:
            ImageError: the image cannot be fetched, with the reason.
        """
        address = address.strip()
        if address[:5].lower() == "data:":
            return decode_data_uri(address, self._limits.max_bytes)
        try:
            return self._web.fetch(self._fetch_url(address, task), self._trusted_headers)
        except ServerBusyError as error:
            is_own = address.startswith("/")
            if is_own and error.status == MISSING_UPLOAD_STATUS:
                raise ImageError("image not found", redact_url(address)) from error
            raise
        except LabelStudioError as error:
            raise ImageError("Label Studio refused the token", str(error)) from error
        except ValueError as error:  # unmatched brackets, an impossible port, lone surrogates
            raise ImageError("image address is invalid", redact_url(address)) from error

    def close(self) -> None:
        """Close the connections."""
        self._web.close()

    def _trusted_headers(self, parts: SplitResult) -> Mapping[str, str] | None:
        """Return the token for Label Studio itself; None for any other host."""
        return self._auth() if url_origin(parts) == self._origin else None

    def _fetch_url(self, address: str, task: int) -> str:
        scheme = urlsplit(address).scheme.lower()
        if scheme in CLOUD_SCHEMES:
            encoded = base64.urlsafe_b64encode(address.encode()).decode()
            return f"{self._server}/tasks/{task}/resolve/?fileuri={quote(encoded)}"
        if scheme in ("http", "https"):
            alias = next((alias for alias in self._aliases if address.startswith(alias)), None)
            return address if alias is None else f"{self._server}/{address.removeprefix(alias)}"
        if address.startswith("/") and not address.startswith("//"):
            prefix = urlsplit(self._server).path
            has_prefix = not prefix or address.startswith(f"{prefix}/")
            return (self._origin if has_prefix else self._server) + address
        raise ImageError("image URL is not supported", redact_url(address))


def make_task_fetcher(
    session: ApiSession,
    settings: Settings,
    *,
    announced: str = "",
    timeout_seconds: float = FETCH_TIMEOUT_SECONDS,
) -> TaskImageFetcher:
    """Return the fetcher for the tasks of a Label Studio, which knows all its addresses.

    Args:
        session: session with the address and token that work.
        settings: limits of an image, and the configured addresses.
        announced: the address that Label Studio announced with ``/setup``; may be empty.
        timeout_seconds: timeout of one image.
    """
    limits = FetchLimits(
        settings.max_image_bytes, settings.allowed_hosts, timeout_seconds=timeout_seconds
    )
    aliases = (announced, settings.label_studio_url, settings.label_studio_host)
    return TaskImageFetcher(session.server, session.auth_headers, limits, aliases=aliases)


def decode_data_uri(address: str, max_bytes: int) -> bytes:
    """Decode a ``data:`` URI.

    Raises:
        ImageError: the URI is damaged or too large.
    """
    header, comma, body = address.partition(",")
    if not comma:
        raise ImageError("damaged data URI")
    if len(body) > 2 * max_bytes:
        raise ImageError("image file is too large", f"over {max_bytes:,} bytes")
    raw = unquote_to_bytes(body)
    if not header.lower().endswith(";base64"):
        return raw
    try:
        return base64.b64decode(raw, validate=False)
    except binascii.Error as error:
        raise ImageError("damaged data URI", str(error)) from error
