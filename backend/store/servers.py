"""When two addresses are one Label Studio."""

from __future__ import annotations

from urllib.parse import urlsplit

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def same_server(one: str, other: str) -> bool:
    """Whether two addresses name one server: loopback has several names.

    Example:
        >>> same_server("http://localhost:8080", "http://127.0.0.1:8080/")
        True
    """
    return _place(one) == _place(other)


def _place(address: str) -> tuple[str, int, str]:
    parts = urlsplit(address)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return ("localhost" if host in LOOPBACK else host, port, parts.path.rstrip("/"))
