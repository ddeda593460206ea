"""Label Studio itself: its address, its version, the token, and what it lets through."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import urlsplit

from backend.doctor.check_result import Line, bad, good, unknown
from backend.errors import LabelStudioError, NotAllowed
from backend.label_studio.api_errors import TOKEN_PAGE
from backend.label_studio.client import Client
from backend.label_studio.diagnostics import Probe, Standing, read_token

KNOWN = (1, 23)
"""The version of Label Studio that the tests run against."""
COPY = f"copy one from Label Studio's page “{TOKEN_PAGE}” and set LABEL_STUDIO_API_KEY"
RESTART = "start Label Studio with {switch}=false in its environment"
LEGACY_OFF = "legacy token authentication has been disabled"
SOON = 14 * 86_400.0
"""Seconds before its end from which a token's end is told."""


def address(server: str, found: Standing) -> Line:
    """Whether Label Studio answers at its address."""
    check = "Label Studio"
    if found.answers:
        return good(check, f"answers at {server}")
    if found.what:
        cure = "set LABEL_STUDIO_URL to Label Studio's own address, such as http://localhost:8080"
        return bad(check, f"at {server} there is {found.what}", cure)
    cure = "start Label Studio (`label-studio start`), or set LABEL_STUDIO_URL to its address"
    return bad(check, f"nothing answers at {server} ({found.error})", cure)


def version(found: Standing) -> Line:
    """Whether it is a version that is known to work."""
    check, wanted = "Label Studio's version", ".".join(map(str, KNOWN))
    numbers = re.match(r"(\d+)\.(\d+)", found.version)
    if not numbers:
        cure = f"install a release: `pip install -U 'label-studio>={wanted}'`"
        return bad(check, f"{found.version!r} is no version that is known", cure)
    here = (int(numbers[1]), int(numbers[2]))
    if here < KNOWN:
        cure = f"`pip install -U 'label-studio>={wanted}'`, then start it again"
        return bad(check, f"{found.version} is older than {wanted}", cure)
    if here > KNOWN:
        return unknown(check, f"{found.version} is newer than {wanted}, which is what was tried")
    return good(check, found.version)


def token(client: Client | NotAllowed, text: str, handed: bool) -> Line:
    """Whether the token is one, and lets us in.

    Args:
        client: with it; or why there is none.
        text: the token.
        handed: Label Studio gave it at /setup; nobody set one.
    """
    check, told = "token", read_token(text)
    if told.kind == "none":
        return bad(check, "LABEL_STUDIO_API_KEY is not set", COPY)
    if told.kind == "access token":
        return bad(check, "an access token, which ends after minutes", COPY)
    until = datetime.fromtimestamp(told.until, UTC).strftime("%Y-%m-%d") if told.until else ""
    if told.ended():
        return bad(check, f"the {told.kind} ended on {until}", f"it has expired: {COPY}")
    try:
        if isinstance(client, NotAllowed):
            raise client
        person = Probe(client).person()
    except NotAllowed as error:
        return _refused(told.kind, error)
    except LabelStudioError as error:
        return bad(check, str(error), COPY)
    whence = "handed over by Label Studio, " if handed else ""
    ends = f", valid until {until}" if until else ""
    return good(check, f"{whence}{told.kind} of {person}{ends}")


def _refused(kind: str, error: NotAllowed) -> Line:
    if LEGACY_OFF in str(error):
        cure = (
            "set LABEL_STUDIO_API_KEY to a personal access token of “Account & Settings”, or turn "
            "legacy tokens on under Organization → Access Token Settings"
        )
        return bad("token", "legacy tokens are turned off in this Label Studio", cure)
    what = "what is set has not the form of a token and" if kind == "no token" else f"the {kind}"
    return bad("token", f"{what} is refused", COPY)


def protection(client: Client, url: str) -> list[Line]:
    """Both switches that keep Label Studio from calling private addresses.

    Args:
        client: of Label Studio.
        url: the backend's, as Label Studio shall call it.
    """
    probe, host = Probe(client), urlsplit(url).hostname or ""
    place = "a private address" if private(host) else "a public address, which is always allowed"
    rows = (
        ("ML_BLOCK_LOCAL_IP", probe.calls, "call an ML backend at"),
        ("SSRF_PROTECTION_ENABLED", probe.hooks, "send webhooks to"),
    )
    return [_protected(switch, allowed, what, url, place) for switch, allowed, what in rows]


def _protected(
    switch: str, allowed: Callable[[str], bool], what: str, url: str, place: str
) -> Line:
    try:
        free = allowed(url)
    except LabelStudioError as error:
        cure = "give `--backend` an address whose name Label Studio's machine knows"
        return bad(switch, f"Label Studio cannot check {plain(url)} ({error})", cure)
    if free:
        return good(switch, f"Label Studio may {what} {plain(url)}, {place}")
    cure = RESTART.format(switch=switch)
    return bad(switch, f"Label Studio may not {what} {plain(url)}, {place}", cure)


def private(host: str) -> bool:
    """Whether a name leads to an address that is not public, as seen from here."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
        return any(not ipaddress.ip_address(one.partition("%")[0]).is_global for one in found)
    except (OSError, ValueError, UnicodeError):
        return False


def plain(url: str) -> str:
    """An address without what may be secret: user, path, query."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}" + ("/…" if parts.path.strip("/") else "")
