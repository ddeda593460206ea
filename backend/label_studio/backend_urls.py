"""Check addresses of ML backends, and remove secrets from them."""

from __future__ import annotations

from urllib.parse import urlsplit

DOTLESS_HOST_RULE = (
    "Label Studio sends no webhooks to a host name without a dot: use the backend's IP address, or "
    "a name with a dot, such as {host}.internal"
)


def accepts_webhooks(backend: str) -> bool:
    """Return whether Label Studio sends webhooks to an address; it silently skips others.

    Example:
        >>> accepts_webhooks("http://prelabel:9090"), accepts_webhooks("http://prelabel.internal:9090")
        (False, True)
        >>> accepts_webhooks("http://localhost:9090"), accepts_webhooks("http://[::1]:9090")
        (True, True)
    """
    host = urlsplit(backend).hostname or ""
    return "." in host or ":" in host or host == "localhost"


def url_port(url: str) -> int:
    """Return the port of an address, 80 or 443 by default.

    Example:
        >>> url_port("http://127.0.0.1:9090"), url_port("https://prelabel.example.com")
        (9090, 443)
    """
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def strip_url_secrets(url: str) -> str:
    """Return an address without user, password, path and query, which may be secret.

    Example:
        >>> strip_url_secrets("http://team:pw@127.0.0.1:9090/eWlXqv2R")
        'http://127.0.0.1:9090/…'
    """
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}" + ("/…" if parts.path.strip("/") else "")
