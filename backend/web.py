"""Bytes from untrusted addresses: the one owner of requests to the public web.

An address is resolved once, every IP address it leads to must be public, and the connection is
made to the very one that was checked: a name may resolve differently a moment later. Redirects are
followed by hand and checked like the first address. Safe with several threads.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urljoin, urlsplit

from backend.errors import ImageError

if TYPE_CHECKING:
    import httpx

REDIRECTS = 5
Addresses = Callable[[str, int], Iterable[str]]
Own = Callable[[SplitResult], Mapping[str, str] | None]
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
COMPATIBLE = ipaddress.IPv6Network("::/96")


@dataclass(frozen=True)
class Limits:
    """What may be fetched.

    Attributes:
        max_bytes: larger files are refused, while they come in.
        allowed_hosts: hosts that may have private addresses.
        schemes: what addresses begin with.
        seconds: that a file may take, from the first request to its last byte.
    """

    max_bytes: int
    allowed_hosts: frozenset[str] = frozenset()
    schemes: frozenset[str] = frozenset({"http", "https"})
    seconds: float = 60.0


class Web:
    """Fetches files.

    Args:
        limits: sizes, hosts, time.
        resolve: host and port → IP addresses; the system's resolver when not given.
    """

    def __init__(self, limits: Limits, resolve: Addresses | None = None) -> None:
        import httpx

        self._limits = limits
        self._resolve = resolve or _addresses
        pool = httpx.Limits(max_connections=16, max_keepalive_connections=16)
        patience = min(30.0, limits.seconds)
        self._http = httpx.Client(timeout=patience, limits=pool, trust_env=False)

    def fetch(self, url: str, own: Own = lambda parts: None) -> bytes:
        """The bytes at an address.

        Args:
            url: untrusted.
            own: gives the headers for a server that is trusted whatever its address is; None for
                all others, which get no headers.

        Raises:
            ImageError: it cannot be had, with the reason.
        """
        import httpx

        until = time.monotonic() + self._limits.seconds
        try:
            return self._get(url, own, until)
        except httpx.TimeoutException as error:
            raise ImageError("image did not arrive in time", shown(url)) from error
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise ImageError("image cannot be fetched", f"{shown(url)}: {error}") from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _get(self, url: str, own: Own, until: float) -> bytes:
        for _ in range(REDIRECTS + 1):
            response = self._http.send(self._request(url, own), stream=True)
            try:
                if not response.is_redirect:
                    return self._body(response, url, until)
                url = urljoin(url, response.headers["location"])
            finally:
                response.close()
        raise ImageError("image address redirects too often", shown(url))

    def _request(self, url: str, own: Own) -> httpx.Request:
        parts = urlsplit(url)
        if parts.scheme not in self._limits.schemes or not parts.hostname:
            raise ImageError("image address is not served", shown(url))
        headers = own(parts)
        if headers is not None:
            return self._http.build_request("GET", url, headers=dict(headers))
        return self._to_checked_address(url, parts)

    def _to_checked_address(self, url: str, parts: SplitResult) -> httpx.Request:
        host = parts.hostname or ""
        request = self._http.build_request("GET", url)
        if host in self._limits.allowed_hosts:
            return request
        addresses = list(self._resolve(host, _port(parts)))
        if not addresses or not all(public(address) for address in addresses):
            raise ImageError(
                "image address is private",
                f"{host}; add it to PRELABEL_ALLOWED_HOSTS if that is meant",
            )
        request.url = request.url.copy_with(host=addresses[0])
        request.extensions = {**request.extensions, "sni_hostname": host}
        return request

    def _body(self, response: httpx.Response, url: str, until: float) -> bytes:
        if response.status_code in (401, 403):
            raise ImageError("image address refuses access", shown(url))
        if response.status_code != 200:
            raise ImageError("image is not there", f"{shown(url)}: {response.status_code}")
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > self._limits.max_bytes:
                limit = f"over {self._limits.max_bytes:,} bytes"
                raise ImageError("image file is too large", limit)
            if time.monotonic() > until:
                raise ImageError("image did not arrive in time", shown(url))
        return bytes(body)


def origin(parts: SplitResult) -> str:
    """Scheme, host and port."""
    return f"{parts.scheme}://{parts.netloc}"


def shown(address: str) -> str:
    """An address for the log: without query and user, which may carry secrets, and short."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "an address that cannot be read"
    return f"{parts.scheme}:{(parts.hostname or '')}{parts.path}"[:120]


def public(address: str) -> bool:
    """Whether an IP address belongs to the public network, also where it wraps an IPv4 one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = _wrapped(ip)
        if wrapped is not None:
            ip = wrapped
    return ip.is_global and not ip.is_multicast


def _wrapped(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to an IPv6 address may end at."""
    if ip in NAT64 or ip in COMPATIBLE:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    teredo = ip.teredo
    return ip.ipv4_mapped or ip.sixtofour or (teredo[1] if teredo else None)


def _port(parts: SplitResult) -> int:
    try:
        return parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise ImageError("image address is not served", "its port is no number") from error


def _addresses(host: str, port: int) -> Iterable[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ImageError("image host is not known", host) from error
    return [str(entry[4][0]) for entry in found]
