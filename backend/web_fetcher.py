"""Bytes from untrusted addresses: the one owner of requests to the public web.

A name is resolved where the connection is made: every IP address it leads to must be public, and
the connection goes to one that was checked, as a name may resolve differently a moment later.
Redirects are followed by hand and checked like the first address. A file has so many seconds from
the first look-up to its last byte, however slowly a server sends. Safe with several threads.
"""

from __future__ import annotations

import ipaddress
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
Resolver = Callable[[str, int], Iterable[str]]
TrustedHeaders = Callable[[SplitResult], Mapping[str, str] | None]
IPv6 = ipaddress.IPv6Network
PUBLIC_IPV6 = IPv6("2000::/3")
"""All of IPv6 that is given to anybody's machines."""
SPECIAL_IPV6_NETWORKS = (
    IPv6("2001::/23"),  # protocols, Teredo's tunnels among them
    IPv6("2001:db8::/32"),  # for examples
    IPv6("2002::/16"),  # 6to4: leads to any IPv4 address
    IPv6("3fff::/20"),  # for examples
)
NAT64_PREFIX = IPv6("64:ff9b::/96")
"""How machines without IPv4 reach an IPv4 address: it counts as that address."""
CLOUD_HOST_ADDRESSES = frozenset({ipaddress.IPv4Address("168.63.129.16")})
"""Addresses that look public and belong to the machine: Azure's."""
RELAY_NETWORK_6TO4 = ipaddress.IPv4Network("192.88.99.0/24")


@dataclass(frozen=True)
class FetchLimits:
    """What may be fetched.

    Attributes:
        max_bytes: larger files are refused, while they come in.
        allowed_hosts: hosts that may have private addresses; None: no host may, whoever asks.
        schemes: what addresses begin with.
        timeout_seconds: that a file may take, from the first look-up to its last byte.
    """

    max_bytes: int
    allowed_hosts: frozenset[str] | None = frozenset()
    schemes: frozenset[str] = frozenset({"http", "https"})
    timeout_seconds: float = 60.0


class WebFetcher:
    """Fetches files.

    Args:
        limits: sizes, hosts, time.
        resolve: host and port → IP addresses; the system's resolver when not given.
        network: makes connections to IP addresses; the system's when not given.
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
        """The bytes at an address.

        Args:
            url: untrusted.
            trusted_headers: returns headers for a server that is trusted at any address; None for
                all others, which get no headers.

        Raises:
            ImageError: it cannot be had, with the reason.
        """
        import httpcore
        import httpx

        deadline = time.monotonic() + self._limits.timeout_seconds
        try:
            return self._follow_redirects(url, trusted_headers, deadline)
        except httpcore.TimeoutException as error:
            raise ImageError("image did not arrive in time", redact_url(url)) from error
        except (
            *(httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol),
            *(httpx.InvalidURL, ValueError),
        ) as error:
            raise ImageError("image cannot be fetched", f"{redact_url(url)}: {error}") from error

    def close(self) -> None:
        """Close the connections."""
        for pool in self._pools.values():
            pool.close()

    def _follow_redirects(
        self, url: str, trusted_headers: TrustedHeaders, deadline: float
    ) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            parts = urlsplit(url)
            if parts.scheme not in self._limits.schemes or not parts.hostname:
                raise ImageError("image address is not served", redact_url(url))
            headers = trusted_headers(parts)
            pool = self._pool_for(trusted=headers is not None)
            with pool.get(url, headers or {}, deadline) as response:
                if response.status not in REDIRECT_STATUSES:
                    return self._read_body(response, url)
                location = _header_value(response, b"location")
                if location is None:
                    raise ImageError("image is not there", f"{redact_url(url)}: {response.status}")
                url = urljoin(url, location)
        raise ImageError("image address redirects too often", redact_url(url))

    def _pool_for(self, *, trusted: bool) -> ConnectionPool:
        """Connections to trusted servers, or to all others: they never share one."""
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
            hint = "; add it to PRELABEL_ALLOWED_HOSTS if that is meant"
            raise ImageError("image address is private", host + ("" if allowed is None else hint))
        return addresses

    def _read_body(self, response: httpcore.Response, url: str) -> bytes:
        if response.status in (401, 403):
            raise ImageError("image address refuses access", redact_url(url))
        if response.status != 200:
            raise ImageError("image is not there", f"{redact_url(url)}: {response.status}")
        coding = (_header_value(response, b"content-encoding") or "").lower()
        if coding not in ("", "identity"):  # a few bytes may become any number
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


def url_origin(parts: SplitResult) -> str:
    """Scheme, host and port."""
    return f"{parts.scheme}://{parts.netloc}"


def redact_url(address: str) -> str:
    """An address for the log: without query and user, which may carry secrets, and short."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "an address that cannot be read"
    redacted = f"{parts.scheme}:{(parts.hostname or '')}{parts.path}"[:120]
    return "".join(c if c.isprintable() else "�" for c in redacted)


def is_public_address(address: str) -> bool:
    """Whether an IP address belongs to the public network."""
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
        raise ImageError("image host is not known", host) from error
    return [str(entry[4][0]) for entry in entries]
