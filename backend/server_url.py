"""Addresses of servers, as people and Label Studio give them: the one place that checks them."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit, urlunsplit

EMPTY_URL = SplitResult("", "", "", "", "")


def split_url(url: str) -> SplitResult:
    """Split an untrusted URL; return empty parts if it is invalid, also for its port.

    Example:
        >>> split_url("http://[::1").hostname, split_url("http://x:99999").hostname
        (None, None)
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return EMPTY_URL
    return parts


def normalize_server_url(url: str) -> str:
    """Return a server's URL without trailing slash, user name and password; empty stays empty.

    Requests carry an API token, so credentials in the URL could never be used, only leak.

    Raises:
        ValueError: it is not a valid http or https URL. The message does not repeat credentials.

    Example:
        >>> normalize_server_url("http://admin:secret@localhost:8080/")
        'http://localhost:8080'
    """
    if not url.strip():
        return ""
    parts = split_url(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        name = url.rpartition("@")[2][:100]
        raise ValueError(
            f"{name!r} is not a valid server address, which starts with http:// or https://"
        )
    return strip_credentials(url.strip()).rstrip("/")


def strip_credentials(url: str) -> str:
    """Return a URL without user name and password; an invalid URL becomes empty.

    Example:
        >>> strip_credentials("https://admin:secret@example.com/a")
        'https://example.com/a'
    """
    parts = split_url(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
