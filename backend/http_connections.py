"""Connections that end in time and lead where they may: below :mod:`backend.web_fetcher`."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpcore

MOST = 16
"""Connections at the same time, and kept for the next request to the same host."""
HEADERS = {"user-agent": "prelabel", "accept": "*/*", "accept-encoding": "identity"}
Find = Callable[[str, int], list[str]]


class Connecting:
    """Makes requests.

    Args:
        find: host and port → the IP addresses that may be connected to.
        network: makes connections to IP addresses; the system's when not given.
    """

    def __init__(self, find: Find, network: httpcore.NetworkBackend | None = None) -> None:
        import httpx

        self._until = _Until()
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(trust_env=False),
            max_connections=MOST,
            network_backend=_Network(find, network or httpcore.SyncBackend(), self._until),
        )

    @contextmanager
    def get(
        self, url: str, headers: Mapping[str, str], until: float
    ) -> Iterator[httpcore.Response]:
        """A response, whose body is still to come.

        Args:
            url: absolute.
            headers: of the request.
            until: on the monotonic clock; nothing is waited for any longer.

        Raises:
            httpcore.TimeoutException: it was not there in time.
            httpx.InvalidURL: the address is none.
        """
        import httpx

        self._until.moment = until
        asked = httpx.Request("GET", url, headers={**HEADERS, **headers})
        target = httpcore.URL(
            scheme=asked.url.raw_scheme,
            host=asked.url.raw_host,
            port=asked.url.port,
            target=asked.url.raw_path,
        )
        waiting = {"timeout": {"pool": self._until.left(None)}}
        with self._pool.stream(
            "GET", target, headers=asked.headers.raw, extensions=waiting
        ) as response:
            yield response

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


class _Until(threading.local):
    """When the request of this thread has to be done, on the monotonic clock."""

    moment = 0.0

    def left(self, timeout: float | None) -> float:
        """Seconds that one step may take."""
        left = self.moment - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("there is no time left")
        return left if timeout is None else min(left, timeout)


class _Network(httpcore.NetworkBackend):
    """Connects to addresses that may be connected to."""

    def __init__(self, find: Find, network: httpcore.NetworkBackend, until: _Until) -> None:
        self._find = find
        self._network = network
        self._until = until

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection to the first address that takes it."""
        failed: Exception = httpcore.ConnectError("it has no address")
        for address in self._find(host.strip("[]"), port):
            try:
                left = self._until.left(timeout)
                stream = self._network.connect_tcp(
                    address, port, left, local_address, socket_options
                )
                return _Stream(stream, self._until)
            except httpcore.ConnectError as error:
                failed = error
        raise failed


class _Stream(httpcore.NetworkStream):
    """Ends in time, however little comes at a time."""

    def __init__(self, stream: httpcore.NetworkStream, until: _Until) -> None:
        self._stream = stream
        self._until = until

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Some bytes."""
        return self._stream.read(max_bytes, self._until.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send some bytes."""
        self._stream.write(buffer, self._until.left(timeout))

    def close(self) -> None:
        """Hang up."""
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """The same, encrypted."""
        left = self._until.left(timeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left), self._until)

    def get_extra_info(self, info: str) -> Any:
        """What is known of the connection."""
        return self._stream.get_extra_info(info)
