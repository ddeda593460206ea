"""Fetch files from untrusted URLs, with protection against SSRF and slow servers.

All IP addresses of a host must be public. The connection is made to a checked address, because a
host name may resolve to another one a moment later (DNS rebinding). Redirects are followed here and
checked like the first URL. One timeout covers everything from DNS lookup to the last byte.
Thread-safe.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urljoin, urlsplit

from backend.errors import ImageError

if TYPE_CHECKING:
    import httpcore

    from backend.http_connections import ConnectionPool

MAX_REDIRECTS = 5
REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
RETRY_DELAYS_SECONDS = (0.5, 2.0)
"""Delay before each further attempt; a longer ``Retry-After`` is respected."""
SERVER_BUSY_REASON = "image server is busy or fails"
Resolver = Callable[[str, int], Iterable[str]]
TrustedHeaders = Callable[[SplitResult], Mapping[str, str] | None]
IPv6 = ipaddress.IPv6Network
PUBLIC_IPV6 = IPv6("2000::/3")
"""The global unicast addresses."""
SPECIAL_IPV6_NETWORKS = (
    IPv6("2001::/23"),  # IETF protocols, including Teredo tunnels
    IPv6("2001:db8::/32"),  # documentation
    IPv6("2002::/16"),  # 6to4: embeds any IPv4 address, also private ones
    IPv6("3fff::/20"),  # documentation
)
NAT64_PREFIX = IPv6("64:ff9b::/96")
"""Addresses that embed an IPv4 address; the embedded address is checked."""
CLOUD_HOST_ADDRESSES = frozenset({ipaddress.IPv4Address("168.63.129.16")})
"""Public-looking addresses of cloud metadata services: Azure's WireServer."""
RELAY_NETWORK_6TO4 = ipaddress.IPv4Network("192.88.99.0/24")


@dataclass(frozen=True)
class FetchLimits:
    """Limits of a fetch.

    Attributes:
        max_bytes: maximum file size; a larger download is aborted.
        allowed_hosts: hosts that may have private addresses; None: none, and error messages do
            not suggest PRELABEL_ALLOWED_HOSTS.
        schemes: allowed URL schemes.
        timeout_seconds: total time from DNS lookup to the last byte.
    """

    max_bytes: int
    allowed_hosts: frozenset[str] | None = frozenset()
    schemes: frozenset[str] = frozenset({"http", "https"})
    timeout_seconds: float = 60.0


class WebFetcher:
    """Fetches files from untrusted URLs.

    Args:
        limits: size, hosts, schemes and time.
        resolve: host and port → IP addresses; uses the system's resolver by default.
        network: opens TCP connections; uses sockets by default.
    """

    def __init__(
        self,
        limits: FetchLimits,
        resolve: Resolver | None = None,
        network: httpcore.NetworkBackend | None = None,
    ) -> None:
        self._limits = limits
        self._resolve = resolve or _resolve_host
        self._network = network
        self._pool_lock = threading.Lock()
        self._pools: dict[bool, ConnectionPool] = {}

    def fetch(self, url: str, trusted_headers: TrustedHeaders = lambda parts: None) -> bytes:
        """Return the content of a URL.

        Args:
            url: untrusted URL.
            trusted_headers: returns the request headers for a trusted server, which may have a
                private address; None for any other server.

        Raises:
            ImageError: the file cannot be fetched; ``reason`` says why.
        """
        import httpcore
        import httpx

        deadline = time.monotonic() + self._limits.timeout_seconds
        try:
            return self._fetch_with_retries(url, trusted_headers, deadline)
        except httpcore.TimeoutException as error:
            raise ImageError("image download timed out", redact_url(url)) from error
        except (
            *(httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol),
            *(httpx.InvalidURL, ValueError),
        ) as error:
            raise ImageError("image cannot be fetched", f"{redact_url(url)}: {error}") from error

    def close(self) -> None:
        """Close the connections."""
        for pool in self._pools.values():
            pool.close()

    def _fetch_with_retries(
        self, url: str, trusted_headers: TrustedHeaders, deadline: float
    ) -> bytes:
        for delay_seconds in RETRY_DELAYS_SECONDS:
            try:
                return self._follow_redirects(url, trusted_headers, deadline)
            except ServerBusyError as error:
                delay_seconds = max(delay_seconds, error.retry_after_seconds)
                if time.monotonic() + delay_seconds >= deadline:
                    raise
            time.sleep(delay_seconds)
        return self._follow_redirects(url, trusted_headers, deadline)

    def _follow_redirects(
        self, url: str, trusted_headers: TrustedHeaders, deadline: float
    ) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            parts = urlsplit(url)
            if parts.scheme not in self._limits.schemes or not parts.hostname:
                raise ImageError("image URL is not supported", redact_url(url))
            headers = trusted_headers(parts)
            pool = self._pool_for(trusted=headers is not None)
            with pool.get(url, headers or {}, deadline) as response:
                if response.status not in REDIRECT_STATUSES:
                    return self._read_body(response, url)
                location = _header_value(response, b"location")
                if location is None:
                    raise ImageError("image not found", f"{redact_url(url)}: {response.status}")
                url = urljoin(url, location)
        raise ImageError("image URL redirects too often", redact_url(url))

    def _pool_for(self, *, trusted: bool) -> ConnectionPool:
        """Return the pool of trusted or of untrusted servers; they never share connections."""
        from backend.http_connections import ConnectionPool

        with self._pool_lock:
            if trusted not in self._pools:
                lookup = self._resolve_any if trusted else self._resolve_public
                self._pools[trusted] = ConnectionPool(lookup, self._network)
            return self._pools[trusted]

    def _resolve_any(self, host: str, port: int) -> list[str]:
        return list(self._resolve(host, port))

    def _resolve_public(self, host: str, port: int) -> list[str]:
        addresses = self._resolve_any(host, port)
        allowed = self._limits.allowed_hosts
        if allowed and host in allowed:
            return addresses
        if not addresses or not all(is_public_address(address) for address in addresses):
            hint = "; add it to PRELABEL_ALLOWED_HOSTS if you trust it"
            raise ImageError("image address is private", host + ("" if allowed is None else hint))
        return addresses

    def _read_body(self, response: httpcore.Response, url: str) -> bytes:
        if response.status in (401, 403):
            raise ImageError("image access denied", redact_url(url))
        if response.status in RETRIED_STATUSES:
            retry_after = _header_value(response, b"retry-after") or ""
            seconds = int(retry_after) if re.fullmatch("[0-9]{1,4}", retry_after) else 0
            raise ServerBusyError(redact_url(url), response.status, seconds)
        if response.status != 200:
            raise ImageError("image not found", f"{redact_url(url)}: {response.status}")
        coding = (_header_value(response, b"content-encoding") or "").lower()
        if coding not in ("", "identity"):  # protects against decompression bombs
            raise ImageError(
                "image cannot be fetched", f"{redact_url(url)}: compressed as {coding[:20]}"
            )
        body = bytearray()
        for chunk in response.iter_stream():
            body += chunk
            if len(body) > self._limits.max_bytes:
                limit = f"over {self._limits.max_bytes:,} bytes"
                raise ImageError("image file is too large", limit)
        return bytes(body)


class ServerBusyError(ImageError):
    """The server refuses or fails for the moment.

    Attributes:
        status: HTTP status.
        retry_after_seconds: seconds from its header ``Retry-After``; 0 without one.
    """

    def __init__(self, address: str, status: int, retry_after_seconds: int) -> None:
        super().__init__(SERVER_BUSY_REASON, f"{address}: {status}")
        self.status = status
        self.retry_after_seconds = retry_after_seconds


def url_origin(parts: SplitResult) -> str:
    """Return scheme, host and port as a URL."""
    return f"{parts.scheme}://{parts.netloc}"


def redact_url(address: str) -> str:
    """Return a short form of a URL for logs, without user and query, which may hold secrets."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "an invalid URL"
    redacted = f"{parts.scheme}:{(parts.hostname or '')}{parts.path}"[:120]
    return "".join(c if c.isprintable() else "�" for c in redacted)


def is_public_address(address: str) -> bool:
    """Return whether an IP address is publicly routable."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip in NAT64_PREFIX:
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if not ip.is_global or ip.is_multicast:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return ip not in CLOUD_HOST_ADDRESSES and ip not in RELAY_NETWORK_6TO4
    return ip in PUBLIC_IPV6 and not any(ip in special for special in SPECIAL_IPV6_NETWORKS)


def _header_value(response: httpcore.Response, name: bytes) -> str | None:
    values = [value for key, value in response.headers if key.lower() == name]
    return values[0].decode("utf-8", "replace").strip() if values else None


def _resolve_host(host: str, port: int) -> Iterable[str]:
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ImageError("image host not found", host) from error
    return [str(entry[4][0]) for entry in entries]
