"""Connections that end in time and lead where they may: below :mod:`backend.web_fetcher`."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpcore

MAX_CONNECTIONS = 16
"""Connections at the same time, and kept for the next request to the same host."""
DEFAULT_HEADERS = {"user-agent": "prelabel", "accept": "*/*", "accept-encoding": "identity"}
AddressLookup = Callable[[str, int], list[str]]


class ConnectionPool:
    """Makes requests.

    Args:
        lookup: host and port → the IP addresses that may be connected to.
        network: makes connections to IP addresses; the system's when not given.
    """

    def __init__(
        self, lookup: AddressLookup, network: httpcore.NetworkBackend | None = None
    ) -> None:
        import httpx

        self._deadline = _Deadline()
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(trust_env=False),
            max_connections=MAX_CONNECTIONS,
            network_backend=_CheckedNetwork(
                lookup, network or httpcore.SyncBackend(), self._deadline
            ),
        )

    @contextmanager
    def get(
        self, url: str, headers: Mapping[str, str], deadline: float
    ) -> Iterator[httpcore.Response]:
        """A response, whose body is still to come.

        Args:
            url: absolute.
            headers: of the request.
            deadline: on the monotonic clock; nothing is waited for any longer.

        Raises:
            httpcore.TimeoutException: it was not there in time.
            httpx.InvalidURL: the address is none.
        """
        import httpx

        self._deadline.time = deadline
        request = httpx.Request("GET", url, headers={**DEFAULT_HEADERS, **headers})
        target = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        extensions = {"timeout": {"pool": self._deadline.remaining(None)}}
        with self._pool.stream(
            "GET", target, headers=request.headers.raw, extensions=extensions
        ) as response:
            yield response

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


class _Deadline(threading.local):
    """When the request of this thread has to be done, on the monotonic clock."""

    time = 0.0

    def remaining(self, timeout: float | None) -> float:
        """Seconds that one step may take."""
        remaining_seconds = self.time - time.monotonic()
        if remaining_seconds <= 0:
            raise httpcore.ReadTimeout("there is no time left")
        return remaining_seconds if timeout is None else min(remaining_seconds, timeout)


class _CheckedNetwork(httpcore.NetworkBackend):
    """Connects to addresses that may be connected to."""

    def __init__(
        self, lookup: AddressLookup, network: httpcore.NetworkBackend, deadline: _Deadline
    ) -> None:
        self._lookup = lookup
        self._network = network
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection to the first address that takes it."""
        last_error: Exception = httpcore.ConnectError("it has no address")
        for address in self._lookup(host.strip("[]"), port):
            try:
                remaining = self._deadline.remaining(timeout)
                stream = self._network.connect_tcp(
                    address, port, remaining, local_address, socket_options
                )
                return _DeadlineStream(stream, self._deadline)
            except httpcore.ConnectError as error:
                last_error = error
        raise last_error


class _DeadlineStream(httpcore.NetworkStream):
    """Ends in time, however little comes at a time."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Some bytes."""
        return self._stream.read(max_bytes, self._deadline.remaining(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send some bytes."""
        self._stream.write(buffer, self._deadline.remaining(timeout))

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
        remaining = self._deadline.remaining(timeout)
        return _DeadlineStream(
            self._stream.start_tls(ssl_context, server_hostname, remaining), self._deadline
        )

    def get_extra_info(self, info: str) -> Any:
        """What is known of the connection."""
        return self._stream.get_extra_info(info)
