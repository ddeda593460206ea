"""Check Label Studio's address, version, token, and protection against SSRF."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

from backend.doctor.check import CheckResult, failed, passed, unchecked
from backend.doctor.contexts import LabelStudioSetup
from backend.errors import AccessDeniedError, LabelStudioError
from backend.label_studio.api_errors import SSRF_SWITCHES_OFF, TOKEN_PAGE
from backend.label_studio.backend_urls import strip_url_secrets
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.diagnostics import (
    SSRF_SWITCHES,
    ServiceInfo,
    accepts_url,
    parse_token,
    token_owner,
)
from backend.web_fetcher import is_public_address

TESTED_VERSION = (1, 23)
"""The version of Label Studio that the tests run against."""
TOKEN_FIX = f"copy one from Label Studio's page “{TOKEN_PAGE}” and run `prelabel login`"
ADDRESS_FIX = (
    "start Label Studio, run `prelabel login URL` with its address, or set LABEL_STUDIO_URL"
)
LEGACY_TOKENS_DISABLED = "legacy token authentication has been disabled"
"""Part of Label Studio's response to a legacy token that the organization does not accept."""


def check_address(server: str, service: ServiceInfo) -> CheckResult:
    """Check that Label Studio answers at its address."""
    check = "Label Studio"
    if service.is_expected:
        return passed(check, f"answers at {server}")
    if service.description:
        fix = (
            "run `prelabel login` with Label Studio's own address, such as http://localhost:8080, "
            "or set LABEL_STUDIO_URL"
        )
        return failed(check, f"{service.description} answers at {server}", fix)
    fix = ADDRESS_FIX
    return failed(check, f"nothing answers at {server} ({service.error})", fix)


def check_version(service: ServiceInfo) -> CheckResult:
    """Compare the version of Label Studio with the tested one."""
    check, tested_version = "Label Studio's version", ".".join(map(str, TESTED_VERSION))
    match = re.match(r"(\d+)\.(\d+)", service.version)
    if not match:
        fix = f"install a release: `pip install -U 'label-studio>={tested_version}'`"
        return failed(check, f"{service.version!r} is not a released version", fix)
    installed_version = (int(match[1]), int(match[2]))
    if installed_version < TESTED_VERSION:
        fix = f"run `pip install -U 'label-studio>={tested_version}'` and restart it"
        return failed(check, f"{service.version} is older than {tested_version}", fix)
    if installed_version > TESTED_VERSION:
        message = f"{service.version} is newer than {tested_version}, the tested version"
        return unchecked(check, message)
    return passed(check, service.version)


def check_token(
    client: LabelStudioClient | AccessDeniedError, *, token_text: str, is_from_setup: bool
) -> CheckResult:
    """Check that Label Studio accepts the token.

    Args:
        client: client with the token, or the error that its constructor raised.
        token_text: token.
        is_from_setup: whether Label Studio sent it to ``/setup``, instead of a setting.
    """
    check, token = "token", parse_token(token_text)
    if token.kind == "none":
        return failed(check, "there is no token", TOKEN_FIX)
    if token.kind == "access token":
        return failed(check, "it is an access token, which expires after minutes", TOKEN_FIX)
    expiry_date = (
        datetime.fromtimestamp(token.expires_at, UTC).strftime("%Y-%m-%d")
        if token.expires_at
        else ""
    )
    if token.is_expired():
        return failed(check, f"the {token.kind} has expired on {expiry_date}", TOKEN_FIX)
    try:
        if isinstance(client, AccessDeniedError):
            raise client
        owner = token_owner(client)
    except AccessDeniedError as error:
        return _refused_token(token.kind, error)
    except LabelStudioError as error:
        return failed(check, str(error), TOKEN_FIX)
    source = " (sent by Label Studio)" if is_from_setup else ""
    expiry_text = f", valid until {expiry_date}" if expiry_date else ""
    return passed(check, f"{token.kind} of {owner}{source}{expiry_text}")


def _refused_token(kind: str, error: AccessDeniedError) -> CheckResult:
    if LEGACY_TOKENS_DISABLED in str(error):
        fix = (
            "run `prelabel login` with a personal access token of “Account & Settings”, or turn "
            "legacy tokens on under Organization → Access Token Settings"
        )
        return failed("token", "legacy tokens are turned off in this Label Studio", fix)
    message = "it is not a Label Studio token" if kind == "no token" else f"the {kind} is refused"
    return failed("token", message, TOKEN_FIX)


def check_ssrf(target: LabelStudioSetup) -> Iterator[CheckResult]:
    """Check the two settings with which Label Studio refuses to call private addresses."""
    url = target.backend_url
    backend = strip_url_secrets(url)
    address_kind = (
        "a private address"
        if _is_private_host(urlsplit(url).hostname or "")
        else "a public address, which is always allowed"
    )
    for switch, (path, action) in SSRF_SWITCHES.items():
        try:
            is_allowed = accepts_url(target.client, path, url)
        except LabelStudioError as error:
            fix = "set `--backend` to an address that the machine of Label Studio can resolve"
            yield failed(switch, f"Label Studio cannot check {backend} ({error})", fix)
            continue
        message = f"{action} {backend}, {address_kind}"
        if is_allowed:
            yield passed(switch, f"Label Studio may {message}")
        else:
            fix = f"start Label Studio with {SSRF_SWITCHES_OFF} in its environment"
            yield failed(switch, f"Label Studio may not {message}", fix)


def _is_private_host(host: str) -> bool:
    """Return whether a host resolves to a private address on this machine."""
    try:
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    return not all(map(is_public_address, addresses))
