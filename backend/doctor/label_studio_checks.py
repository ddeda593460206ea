"""Label Studio itself: its address, its version, the token, and what it lets through."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import urlsplit

from backend.doctor.check_result import CheckResult, failed, passed, unchecked
from backend.errors import AccessDeniedError, LabelStudioError
from backend.label_studio.api_errors import TOKEN_PAGE
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.diagnostics import Diagnostics, ServiceInfo, parse_token

TESTED_VERSION = (1, 23)
"""The version of Label Studio that the tests run against."""
TOKEN_FIX = f"copy one from Label Studio's page “{TOKEN_PAGE}” and set LABEL_STUDIO_API_KEY"
RESTART_FIX_TEMPLATE = "start Label Studio with {switch}=false in its environment"
LEGACY_TOKENS_DISABLED = "legacy token authentication has been disabled"
SOON = 14 * 86_400.0
"""Seconds before its end from which a token's end is told."""


def check_address(server: str, service: ServiceInfo) -> CheckResult:
    """Whether Label Studio answers at its address."""
    check = "Label Studio"
    if service.is_expected:
        return passed(check, f"answers at {server}")
    if service.description:
        fix = "set LABEL_STUDIO_URL to Label Studio's own address, such as http://localhost:8080"
        return failed(check, f"at {server} there is {service.description}", fix)
    fix = "start Label Studio (`label-studio start`), or set LABEL_STUDIO_URL to its address"
    return failed(check, f"nothing answers at {server} ({service.error})", fix)


def check_version(service: ServiceInfo) -> CheckResult:
    """Whether it is a version that is known to work."""
    check, tested_version = "Label Studio's version", ".".join(map(str, TESTED_VERSION))
    match = re.match(r"(\d+)\.(\d+)", service.version)
    if not match:
        fix = f"install a release: `pip install -U 'label-studio>={tested_version}'`"
        return failed(check, f"{service.version!r} is no version that is known", fix)
    installed_version = (int(match[1]), int(match[2]))
    if installed_version < TESTED_VERSION:
        fix = f"`pip install -U 'label-studio>={tested_version}'`, then start it again"
        return failed(check, f"{service.version} is older than {tested_version}", fix)
    if installed_version > TESTED_VERSION:
        return unchecked(
            check, f"{service.version} is newer than {tested_version}, which is what was tried"
        )
    return passed(check, service.version)


def check_token(
    client: LabelStudioClient | AccessDeniedError, token_text: str, is_from_setup: bool
) -> CheckResult:
    """Whether the token is one, and lets us in.

    Args:
        client: with it; or why there is none.
        token_text: the token.
        is_from_setup: Label Studio gave it at /setup; nobody set one.
    """
    check, token_info = "token", parse_token(token_text)
    if token_info.kind == "none":
        return failed(check, "LABEL_STUDIO_API_KEY is not set", TOKEN_FIX)
    if token_info.kind == "access token":
        return failed(check, "an access token, which ends after minutes", TOKEN_FIX)
    expiry_date = (
        datetime.fromtimestamp(token_info.expires_at, UTC).strftime("%Y-%m-%d")
        if token_info.expires_at
        else ""
    )
    if token_info.is_expired():
        return failed(
            check, f"the {token_info.kind} ended on {expiry_date}", f"it has expired: {TOKEN_FIX}"
        )
    try:
        if isinstance(client, AccessDeniedError):
            raise client
        person = Diagnostics(client).token_owner()
    except AccessDeniedError as error:
        return _refused_token(token_info.kind, error)
    except LabelStudioError as error:
        return failed(check, str(error), TOKEN_FIX)
    source = "handed over by Label Studio, " if is_from_setup else ""
    expiry_text = f", valid until {expiry_date}" if expiry_date else ""
    return passed(check, f"{source}{token_info.kind} of {person}{expiry_text}")


def _refused_token(kind: str, error: AccessDeniedError) -> CheckResult:
    if LEGACY_TOKENS_DISABLED in str(error):
        fix = (
            "set LABEL_STUDIO_API_KEY to a personal access token of “Account & Settings”, or turn "
            "legacy tokens on under Organization → Access Token Settings"
        )
        return failed("token", "legacy tokens are turned off in this Label Studio", fix)
    token_kind = (
        "what is set has not the form of a token and" if kind == "no token" else f"the {kind}"
    )
    return failed("token", f"{token_kind} is refused", TOKEN_FIX)


def check_ssrf(client: LabelStudioClient, url: str) -> list[CheckResult]:
    """Both switches that keep Label Studio from calling private addresses.

    Args:
        client: of Label Studio.
        url: the backend's, as Label Studio shall call it.
    """
    probe, host = Diagnostics(client), urlsplit(url).hostname or ""
    address_kind = (
        "a private address"
        if is_private_host(host)
        else "a public address, which is always allowed"
    )
    switches = (
        ("ML_BLOCK_LOCAL_IP", probe.allows_backend_url, "call an ML backend at"),
        ("SSRF_PROTECTION_ENABLED", probe.allows_webhook_url, "send webhooks to"),
    )
    return [
        _check_switch(switch, allowed, action, url, address_kind)
        for switch, allowed, action in switches
    ]


def _check_switch(
    switch: str, allowed: Callable[[str], bool], action: str, url: str, address_kind: str
) -> CheckResult:
    try:
        is_allowed = allowed(url)
    except LabelStudioError as error:
        fix = "give `--backend` an address whose name Label Studio's machine knows"
        return failed(switch, f"Label Studio cannot check {strip_url_secrets(url)} ({error})", fix)
    if is_allowed:
        return passed(switch, f"Label Studio may {action} {strip_url_secrets(url)}, {address_kind}")
    fix = RESTART_FIX_TEMPLATE.format(switch=switch)
    return failed(
        switch, f"Label Studio may not {action} {strip_url_secrets(url)}, {address_kind}", fix
    )


def is_private_host(host: str) -> bool:
    """Whether a name leads to an address that is not public, as seen from here."""
    try:
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
        return any(
            not ipaddress.ip_address(ip_address.partition("%")[0]).is_global
            for ip_address in addresses
        )
    except (OSError, ValueError, UnicodeError):
        return False


def strip_url_secrets(url: str) -> str:
    """An address without what may be secret: user, path, query."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}" + ("/…" if parts.path.strip("/") else "")
