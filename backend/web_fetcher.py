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

    from backend.http_connections import Connecting

REDIRECTS = 5
REDIRECTED = frozenset({301, 302, 303, 307, 308})
Addresses = Callable[[str, int], Iterable[str]]
Own = Callable[[SplitResult], Mapping[str, str] | None]
IPv6 = ipaddress.IPv6Network
PUBLIC = IPv6("2000::/3")
"""All of IPv6 that is given to anybody's machines."""
SPECIAL = (
    IPv6("2001::/23"),  # protocols, Teredo's tunnels among them
    IPv6("2001:db8::/32"),  # for examples
    IPv6("2002::/16"),  # 6to4: leads to any IPv4 address
    IPv6("3fff::/20"),  # for examples
)
NAT64 = IPv6("64:ff9b::/96")
"""How machines without IPv4 reach an IPv4 address: it counts as that address."""
CLOUD = frozenset({ipaddress.IPv4Address("168.63.129.16")})
"""Addresses that look public and belong to the machine: Azure's."""
RELAYS = ipaddress.IPv4Network("192.88.99.0/24")


@dataclass(frozen=True)
class Limits:
    """What may be fetched.

    Attributes:
        max_bytes: larger files are refused, while they come in.
        allowed_hosts: hosts that may have private addresses; None: no host may, whoever asks.
        schemes: what addresses begin with.
        seconds: that a file may take, from the first look-up to its last byte.
    """

    max_bytes: int
    allowed_hosts: frozenset[str] | None = frozenset()
    schemes: frozenset[str] = frozenset({"http", "https"})
    seconds: float = 60.0


class Web:
    """Fetches files.

    Args:
        limits: sizes, hosts, time.
        resolve: host and port → IP addresses; the system's resolver when not given.
        network: makes connections to IP addresses; the system's when not given.
    """

    def __init__(
        self,
        limits: Limits,
        resolve: Addresses | None = None,
        network: httpcore.NetworkBackend | None = None,
    ) -> None:
        self._limits = limits
        self._resolve = resolve or _addresses
        self._network = network
        self._making = threading.Lock()
        self._lines: dict[bool, Connecting] = {}

    def fetch(self, url: str, own: Own = lambda parts: None) -> bytes:
        """The bytes at an address.

        Args:
            url: untrusted.
            own: gives the headers for a server that is trusted whatever its address is; None for
                all others, which get no headers.

        Raises:
            ImageError: it cannot be had, with the reason.
        """
        import httpcore
        import httpx

        until = time.monotonic() + self._limits.seconds
        try:
            return self._get(url, own, until)
        except httpcore.TimeoutException as error:
            raise ImageError("image did not arrive in time", shown(url)) from error
        except (
            *(httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol),
            *(httpx.InvalidURL, ValueError),
        ) as error:
            raise ImageError("image cannot be fetched", f"{shown(url)}: {error}") from error

    def close(self) -> None:
        """Close the connections."""
        for line in self._lines.values():
            line.close()

    def _get(self, url: str, own: Own, until: float) -> bytes:
        for _ in range(REDIRECTS + 1):
            parts = urlsplit(url)
            if parts.scheme not in self._limits.schemes or not parts.hostname:
                raise ImageError("image address is not served", shown(url))
            headers = own(parts)
            line = self._line(trusted=headers is not None)
            with line.get(url, headers or {}, until) as response:
                if response.status not in REDIRECTED:
                    return self._body(response, url)
                to = _header(response, b"location")
                if to is None:
                    raise ImageError("image is not there", f"{shown(url)}: {response.status}")
                url = urljoin(url, to)
        raise ImageError("image address redirects too often", shown(url))

    def _line(self, *, trusted: bool) -> Connecting:
        """Connections to trusted servers, or to all others: they never share one."""
        from backend.http_connections import Connecting

        with self._making:
            if trusted not in self._lines:
                find = self._found if trusted else self._checked
                self._lines[trusted] = Connecting(find, self._network)
            return self._lines[trusted]

    def _found(self, host: str, port: int) -> list[str]:
        return list(self._resolve(host, port))

    def _checked(self, host: str, port: int) -> list[str]:
        addresses = self._found(host, port)
        allowed = self._limits.allowed_hosts
        if allowed and host in allowed:
            return addresses
        if not addresses or not all(public(address) for address in addresses):
            cure = "; add it to PRELABEL_ALLOWED_HOSTS if that is meant"
            raise ImageError("image address is private", host + ("" if allowed is None else cure))
        return addresses

    def _body(self, response: httpcore.Response, url: str) -> bytes:
        if response.status in (401, 403):
            raise ImageError("image address refuses access", shown(url))
        if response.status != 200:
            raise ImageError("image is not there", f"{shown(url)}: {response.status}")
        coding = (_header(response, b"content-encoding") or "").lower()
        if coding not in ("", "identity"):  # a few bytes may become any number
            raise ImageError(
                "image cannot be fetched", f"{shown(url)}: compressed as {coding[:20]}"
            )
        body = bytearray()
        for chunk in response.iter_stream():
            body += chunk
            if len(body) > self._limits.max_bytes:
                limit = f"over {self._limits.max_bytes:,} bytes"
                raise ImageError("image file is too large", limit)
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
    text = f"{parts.scheme}:{(parts.hostname or '')}{parts.path}"[:120]
    return "".join(c if c.isprintable() else "�" for c in text)


def public(address: str) -> bool:
    """Whether an IP address belongs to the public network."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip in NAT64:
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if not ip.is_global or ip.is_multicast:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return ip not in CLOUD and ip not in RELAYS
    return ip in PUBLIC and not any(ip in special for special in SPECIAL)


def _header(response: httpcore.Response, name: bytes) -> str | None:
    values = [value for key, value in response.headers if key.lower() == name]
    return values[0].decode("utf-8", "replace").strip() if values else None


def _addresses(host: str, port: int) -> Iterable[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ImageError("image host is not known", host) from error
    return [str(entry[4][0]) for entry in found]
