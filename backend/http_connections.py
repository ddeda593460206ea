"""HTTP connections with a total deadline and checked IP addresses, for the web fetcher."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpcore

MAX_CONNECTIONS = 16
"""Maximum number of open connections, including idle ones kept for reuse."""
DEFAULT_HEADERS = {"user-agent": "prelabel", "accept": "*/*", "accept-encoding": "identity"}
AddressLookup = Callable[[str, int], list[str]]


class ConnectionPool:
    """Sends GET requests to the addresses that a lookup permits.

    Args:
        lookup: host and port → the IP addresses that connections are allowed to.
        network: opens TCP connections; uses sockets by default.
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
        """Open a streaming response; the caller reads the body.

        Args:
            url: absolute URL.
            headers: request headers besides ``DEFAULT_HEADERS``.
            deadline: time on the monotonic clock by which the body must be complete.

        Raises:
            httpcore.TimeoutException: the deadline passed.
            httpx.InvalidURL: the URL is invalid.
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
    """The deadline of this thread's request, on the monotonic clock."""

    time = 0.0

    def remaining(self, timeout: float | None) -> float:
        """Return the seconds left for the next operation, at most ``timeout``."""
        remaining_seconds = self.time - time.monotonic()
        if remaining_seconds <= 0:
            raise httpcore.ReadTimeout("the deadline has passed")
        return remaining_seconds if timeout is None else min(remaining_seconds, timeout)


class _CheckedNetwork(httpcore.NetworkBackend):
    """Connects only to the IP addresses that the lookup returns."""

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
        """Connect to the first address that accepts the connection."""
        last_error: Exception = httpcore.ConnectError("the host has no address")
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
    """A stream whose operations share one deadline, so that a slow server cannot prolong it."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read up to ``max_bytes`` before the deadline."""
        return self._stream.read(max_bytes, self._deadline.remaining(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write the buffer before the deadline."""
        self._stream.write(buffer, self._deadline.remaining(timeout))

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """Return the stream upgraded to TLS, with the same deadline."""
        remaining = self._deadline.remaining(timeout)
        return _DeadlineStream(
            self._stream.start_tls(ssl_context, server_hostname, remaining), self._deadline
        )

    def get_extra_info(self, info: str) -> Any:
        """Return a property of the underlying stream."""
        return self._stream.get_extra_info(info)
