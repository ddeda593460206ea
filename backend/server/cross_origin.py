"""Who sent a form: a page of this very server, or somebody else's.

A browser sends the credentials of basic auth along with any request to this server, also from a
page of another site; a form of ours must come from a page of ours. No token is needed for that,
browsers say where a form comes from (Go's ``net/http.CrossOriginProtection`` does the same):

- ``Sec-Fetch-Site``, which no page can forge: ``same-origin``, or ``none`` (a person's own doing);
- where a browser does not send it (plain http to another machine), ``Origin``, which must be the
  address that the request came to. It is ``null`` in a sandbox, and then it is refused.

What sends neither is no browser, or one from before 2020: refused as well, programs have the API.
A cookie would prove less: cookies of one host are shared by all its ports, and Label Studio's
pages are often on another port of the same host.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}
PRIVATE_NAME_SUFFIXES = (
    "localhost",
    "local",
    "lan",
    "home",
    "internal",
    "intranet",
    "home.arpa",
    "test",
)
"""Last parts of names that nobody can register, so that no stranger's page is there."""


def explain_form_refusal(headers: Mapping[str, str], *, has_auth: bool) -> str:
    """Why a form is not accepted, in one sentence; empty where it is.

    Args:
        headers: of the request, by lower-case name.
        has_auth: basic auth was asked for and given.
    """
    site, origin, host = (headers.get(n, "") for n in ("sec-fetch-site", "origin", "host"))
    if site:
        if site not in ("same-origin", "none"):
            return "This form was sent by a page of another site: use the dashboard's own buttons."
    elif not _is_same_origin(origin, host):
        return (
            "This form does not come from the dashboard's own page: open the dashboard and use its "
            "buttons. Behind a proxy, let it pass the Host header on unchanged."
        )
    if not has_auth and not origin.startswith("https:") and not _is_private_host(host):
        return (
            "Under a public name buttons work with a password only, because any site could be "
            "behind that name: set PRELABEL_USER and PRELABEL_PASSWORD, or use the IP address."
        )
    return ""


def is_cross_site(headers: Mapping[str, str]) -> bool:
    """Whether a page of another site sent a request; programs send neither of the two headers."""
    site, origin, host = (headers.get(n, "") for n in ("sec-fetch-site", "origin", "host"))
    if site:
        return site not in ("same-origin", "none")
    return bool(origin) and not _is_same_origin(origin, host)


def _is_same_origin(origin: str, host: str) -> bool:
    """Whether an origin names the server that was asked."""
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
    """Whether a host's name cannot be a stranger's, whose name server may say any address."""
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        ipaddress.ip_address(name)
    except ValueError:
        return "." not in name or name.endswith(
            tuple(f".{suffix}" for suffix in PRIVATE_NAME_SUFFIXES)
        )
    return True
