"""The bytes behind an image's address in a task; the address is untrusted.

Label Studio's own addresses (uploads, local files, cloud storage) are fetched through Label
Studio with its token. Everything else is fetched without it, from public addresses only.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, quote, unquote_to_bytes, urljoin, urlsplit

from backend.errors import ImageError, LabelStudioError

if TYPE_CHECKING:
    import httpx

CLOUD_SCHEMES = frozenset({"s3", "gs", "azure-blob", "azure-spi"})
REDIRECTS = 5
SECONDS = 30.0
Addresses = Callable[[str, int], Iterable[str]]


@dataclass(frozen=True)
class Limits:
    """What may be fetched.

    Attributes:
        max_bytes: larger files are refused, while they come in.
        allowed_hosts: hosts that may have private addresses.
    """

    max_bytes: int
    allowed_hosts: frozenset[str] = frozenset()


class Images:
    """Fetches the images of one Label Studio's tasks. Safe with several threads.

    Args:
        server: Label Studio's address, with its path prefix.
        auth: the header for it, asked for at each use (tokens are renewed).
        limits: sizes and hosts.
        resolve: host and port → IP addresses; the system's resolver when not given.
    """

    def __init__(
        self,
        server: str,
        auth: Callable[[], Mapping[str, str]],
        limits: Limits,
        resolve: Addresses | None = None,
    ) -> None:
        import httpx

        self._server = server.rstrip("/")
        self._origin = _origin(urlsplit(self._server))
        self._auth = auth
        self._limits = limits
        self._resolve = resolve or _addresses
        pool = httpx.Limits(max_connections=16, max_keepalive_connections=16)
        self._http = httpx.Client(timeout=SECONDS, limits=pool, trust_env=False)

    def fetch(self, address: str, task: int) -> bytes:
        """The bytes of an image.

        Args:
            address: as it stands in the task's data.
            task: the task's number; Label Studio resolves cloud addresses by it.

        Raises:
            ImageError: it cannot be had, with the reason.
        """
        import httpx

        address = address.strip()
        if address[:5].lower() == "data:":
            return self._inline(address)
        try:
            return self._get(self._url(address, task))
        except httpx.TimeoutException as error:
            raise ImageError("image did not arrive in time", _shown(address)) from error
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise ImageError("image cannot be fetched", f"{_shown(address)}: {error}") from error
        except LabelStudioError as error:
            raise ImageError("Label Studio refused the token", str(error)) from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _url(self, address: str, task: int) -> str:
        scheme = urlsplit(address).scheme.lower()
        if scheme in CLOUD_SCHEMES:
            encoded = base64.urlsafe_b64encode(address.encode()).decode()
            return f"{self._server}/tasks/{task}/resolve/?fileuri={quote(encoded)}"
        if scheme in ("http", "https"):
            return address
        if address.startswith("/") and not address.startswith("//"):
            prefix = urlsplit(self._server).path
            inside = not prefix or address.startswith(f"{prefix}/")
            return (self._origin if inside else self._server) + address
        raise ImageError("image address is not served", _shown(address))

    def _inline(self, address: str) -> bytes:
        head, comma, body = address.partition(",")
        if not comma:
            raise ImageError("damaged data URI")
        if len(body) > 2 * self._limits.max_bytes:
            raise ImageError("image file is too large", f"over {self._limits.max_bytes:,} bytes")
        raw = unquote_to_bytes(body)
        if not head.lower().endswith(";base64"):
            return raw
        try:
            return base64.b64decode(raw, validate=False)
        except binascii.Error as error:
            raise ImageError("damaged data URI", str(error)) from error

    def _get(self, url: str) -> bytes:
        """Follow redirects by hand: each address is checked, and the token stays at home."""
        for _ in range(REDIRECTS + 1):
            request = self._request(url)
            response = self._http.send(request, stream=True)
            try:
                if not response.is_redirect:
                    return self._body(response, url)
                url = urljoin(url, response.headers["location"])
            finally:
                response.close()
        raise ImageError("image address redirects too often", _shown(url))

    def _request(self, url: str) -> httpx.Request:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ImageError("image address is not served", _shown(url))
        if _origin(parts) == self._origin:
            return self._http.build_request("GET", url, headers=dict(self._auth()))
        return self._to_checked_address(url, parts)

    def _to_checked_address(self, url: str, parts: SplitResult) -> httpx.Request:
        """Connect to the very address that was checked: a name may resolve differently later."""
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if host in self._limits.allowed_hosts:
            return self._http.build_request("GET", url)
        addresses = list(self._resolve(host, port))
        if not addresses or not all(_public(address) for address in addresses):
            raise ImageError(
                "image address is private",
                f"{host}; add it to PRELABEL_ALLOWED_HOSTS if that is meant",
            )
        pinned = self._http.build_request("GET", url)
        pinned.url = pinned.url.copy_with(host=addresses[0])
        pinned.extensions = {**pinned.extensions, "sni_hostname": host}
        return pinned

    def _body(self, response: httpx.Response, url: str) -> bytes:
        if response.status_code in (401, 403):
            raise ImageError("image address refuses access", _shown(url))
        if response.status_code != 200:
            raise ImageError("image is not there", f"{_shown(url)}: {response.status_code}")
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > self._limits.max_bytes:
                limit = f"over {self._limits.max_bytes:,} bytes"
                raise ImageError("image file is too large", limit)
        return bytes(body)


def _origin(parts: SplitResult) -> str:
    return f"{parts.scheme}://{parts.netloc}"


def _shown(address: str) -> str:
    """An address for the log: without query and user, which may carry secrets, and short."""
    parts = urlsplit(address)
    return f"{parts.scheme}:{(parts.hostname or '')}{parts.path}"[:120]


def _addresses(host: str, port: int) -> Iterable[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ImageError("image host is not known", host) from error
    return [str(entry[4][0]) for entry in found]


def _public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    return ip.is_global and not ip.is_multicast
