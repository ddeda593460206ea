"""Protection against cross-site request forgery (CSRF).

A browser adds basic auth credentials to every request to this server, even from pages of other
sites. Forms are accepted from this server's own pages only. Two headers are checked, as in Go's
``net/http.CrossOriginProtection``:

- ``Sec-Fetch-Site``, which pages cannot forge, must be ``same-origin``, or ``none`` for the user's
  own navigation.
- ``Origin`` is checked if the browser does not send the first one (plain HTTP to another machine).
  It must equal the address of the request. In a sandbox it is ``null``, and the form is refused.

A form with neither header is refused too; programs use the API. A CSRF cookie would protect less:
all ports of a host share cookies, and Label Studio often runs on another port of the same host.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException, Request

DEFAULT_PORTS = {"http": 80, "https": 443}
PRIVATE_HOST_SUFFIXES = (
    *(".localhost", ".local", ".lan", ".home", ".internal", ".intranet", ".home.arpa", ".test"),
)
"""Suffixes of host names that cannot be registered, so no other site can use them."""


def explain_form_refusal(headers: Mapping[str, str], *, has_auth: bool) -> str:
    """Return a sentence that explains why a form is refused; empty if it is accepted.

    Args:
        headers: the request's headers by lower-case name.
        has_auth: whether the request was authenticated.
    """
    site, origin, host = (headers.get(n, "") for n in ("sec-fetch-site", "origin", "host"))
    if site:
        if site not in ("same-origin", "none"):
            return "This form was sent by a page of another site: use the buttons of the dashboard."
    elif not _is_same_origin(origin, host):
        return (
            "This form was not sent by the dashboard: open the dashboard and use its buttons. A "
            "reverse proxy must forward the Host header unchanged."
        )
    if not has_auth and not origin.startswith("https:") and not _is_private_host(host):
        return (
            "With a public host name the buttons need a password, because another site could use "
            "that name: set PRELABEL_USER and PRELABEL_PASSWORD, or open the IP address."
        )
    return ""


def is_cross_site(headers: Mapping[str, str]) -> bool:
    """Return whether a page of another site sent a request; False if both headers are missing."""
    site, origin, host = (headers.get(n, "") for n in ("sec-fetch-site", "origin", "host"))
    if site:
        return site not in ("same-origin", "none")
    return bool(origin) and not _is_same_origin(origin, host)


def _is_same_origin(origin: str, host: str) -> bool:
    """Return whether an origin is the address of the request."""
    try:
        parts, requested = urlsplit(origin), urlsplit(f"//{host}")
        default_port = DEFAULT_PORTS.get(parts.scheme)
        return bool(default_port and parts.hostname) and (
            (parts.hostname, parts.port or default_port)
            == (requested.hostname, requested.port or default_port)
        )
    except ValueError:
        return False


def _is_private_host(host: str) -> bool:
    """Return whether a host is an IP address or a name that cannot be registered publicly."""
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        ipaddress.ip_address(name)
    except ValueError:
        return "." not in name or name.endswith(PRIVATE_HOST_SUFFIXES)
    return True


def reject_cross_site(request: Request) -> None:
    """Reject a request that a page of another site sent through the user's browser.

    Raises:
        HTTPException: the request is cross-site.
    """
    if is_cross_site(request.headers):
        raise HTTPException(403, "Cross-site requests are not allowed.")


SAME_SITE_ONLY = (Depends(reject_cross_site),)
