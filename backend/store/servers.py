"""Compare addresses of Label Studio servers."""

from __future__ import annotations

from backend.server_url import split_url

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


def is_same_server(first_address: str, second_address: str) -> bool:
    """Return whether two addresses are the same server; all loopback hosts are equal.

    Example:
        >>> is_same_server("http://localhost:8080", "http://127.0.0.1:8080/")
        True
    """
    return _normalized_address(first_address) == _normalized_address(second_address)


def _normalized_address(address: str) -> tuple[str, int, str]:
    parts = split_url(address)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return ("localhost" if host in LOOPBACK_HOSTS else host, port, parts.path.rstrip("/"))
