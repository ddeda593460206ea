"""Identify services, tokens, and webhooks for diagnosis, without changing anything."""

from __future__ import annotations

import base64
import json
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from backend.errors import LabelStudioError, PrivateAddressError
from backend.label_studio import Json
from backend.label_studio.api_session import ApiSession
from backend.label_studio.backend_urls import url_port

if TYPE_CHECKING:
    import httpx

PROBE_TIMEOUT_SECONDS = 5.0
TokenKind = Literal["none", "legacy token", "personal access token", "access token", "no token"]
SSRF_SWITCHES = {
    "ML_BLOCK_LOCAL_IP": ("api/ml/", "call an ML backend at"),
    "SSRF_PROTECTION_ENABLED": ("api/webhooks/", "send webhooks to"),
}
"""Environment variable of Label Studio → API path that applies it, and the action it controls."""


@dataclass(frozen=True)
class TokenInfo:
    """The unverified content of a token.

    Attributes:
        kind: ``none`` without a token; ``no token`` for a text that is not a Label Studio token.
        expires_at: seconds since 1970; 0 if it does not expire.
    """

    kind: TokenKind
    expires_at: float = 0.0

    def is_expired(self, now: float | None = None) -> bool:
        """Return whether the token has expired."""
        return 0 < self.expires_at <= (time.time() if now is None else now)


@dataclass(frozen=True)
class ServiceInfo:
    """The service that answers at an address.

    Attributes:
        is_expected: whether it is a service of the expected kind.
        version: version of Label Studio.
        description: kind of service; empty if nothing answers.
        error: error of the connection if nothing answers.
        needs_auth: whether it is a backend that requires basic auth.
        home_id: fingerprint of the home folder if it is a Prelabel backend.
    """

    is_expected: bool = False
    version: str = ""
    description: str = ""
    error: str = ""
    needs_auth: bool = False
    home_id: str = ""


def parse_token(text: str) -> TokenInfo:
    """Determine the kind and the expiry of a token.

    Example:
        >>> parse_token("0" * 40).kind
        'legacy token'
        >>> parse_token("").kind
        'none'
    """
    if not text:
        return TokenInfo("none")
    if len(text) == 40 and set(text) <= set("0123456789abcdef"):
        return TokenInfo("legacy token")
    claims = _decode_jwt(text)
    if claims is None:
        return TokenInfo("no token")
    is_access_token = claims.get("token_type") == "access"
    kind: TokenKind = "access token" if is_access_token else "personal access token"
    return TokenInfo(kind, float(claims.get("exp") or 0))


def identify_label_studio(server: str) -> ServiceInfo:
    """Identify the service at the address of Label Studio, without sending a token."""
    import httpx

    try:
        with httpx.Client(timeout=PROBE_TIMEOUT_SECONDS, follow_redirects=True) as http:
            response = http.get(f"{server}/api/version/")
            version_info = _response_json(response)
            if "release" in version_info or "label-studio-os-package" in version_info:
                return ServiceInfo(True, str(version_info.get("release") or ""))
            health = _response_json(http.get(f"{server}/health"))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return ServiceInfo(error=_connection_error(error))
    if health.get("model_class"):
        return ServiceInfo(description=f"an ML backend ({health['model_class']})")
    return ServiceInfo(description=f"another service ({response.status_code} for /api/version/)")


def identify_backend(url: str, auth: tuple[str, str] | None) -> ServiceInfo:
    """Identify the service at the address of a backend.

    Proxy variables of this process are ignored, because Label Studio's requests do not use them.
    """
    import httpx

    try:
        response = httpx.get(
            f"{url}/health", auth=auth, timeout=PROBE_TIMEOUT_SECONDS, trust_env=False
        )
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return ServiceInfo(error=_connection_error(error))
    health = _response_json(response)
    if health.get("model_class"):
        description, home_id = str(health["model_class"]), str(health.get("home") or "")
        return ServiceInfo(True, description=description, home_id=home_id)
    if response.status_code == 401:
        return ServiceInfo(description="a backend that requires basic auth", needs_auth=True)
    return ServiceInfo(description=f"another service ({response.status_code} for /health)")


def send_test_event(url: str, number: int) -> int:
    """Send a webhook event without basic auth, as Label Studio does.

    Args:
        url: address of the webhook.
        number: number of a project, which the backend then checks for changes.

    Returns:
        the HTTP status; 0 if nothing answers.
    """
    import httpx

    event = {"action": "PRELABEL_DOCTOR", "project": {"id": number}}
    try:
        return httpx.post(url, json=event, timeout=PROBE_TIMEOUT_SECONDS).status_code
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return 0


def is_listening(url: str) -> bool:
    """Return whether an address accepts TCP connections; nothing is sent."""
    try:
        address = (urlsplit(url).hostname or "", url_port(url))
        with socket.create_connection(address, PROBE_TIMEOUT_SECONDS):
            return True
    except (OSError, ValueError):
        return False


def token_owner(session: ApiSession) -> str:
    """Return the email or user name of the owner of a session's token.

    Raises:
        AccessDeniedError: the token is refused.
    """
    user = session.get_json("api/current-user/whoami")
    return str(user.get("email") or user.get("username") or "somebody")


def accepts_url(session: ApiSession, path: str, url: str) -> bool:
    """Return whether Label Studio may call an address.

    The request connects the address to a project that does not exist. Label Studio checks the
    address before the project, so nothing is created.

    Args:
        session: session of Label Studio.
        path: API path from :data:`SSRF_SWITCHES`.
        url: address to check.

    Raises:
        LabelStudioError: Label Studio could not check the address.
    """
    try:
        session.request_json("POST", path, json={"url": url, "project": 0, "title": "Prelabel"})
    except PrivateAddressError:
        return False
    except LabelStudioError as error:
        if "project" not in str(error):  # "Invalid pk" means that the address is accepted
            raise
    return True


def _decode_jwt(text: str) -> Json | None:
    """Return the unverified claims of a JSON Web Token; None if the text is not a token."""
    parts = text.split(".")
    if len(parts) != 3:
        return None
    try:
        payload = parts[1] + "=" * (-len(parts[1]) % 4)
        claims = json.loads(base64.urlsafe_b64decode(payload))
    except ValueError:
        return None
    return claims if isinstance(claims, dict) else None


def _response_json(response: httpx.Response) -> Json:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _connection_error(error: Exception) -> str:
    import httpx

    if isinstance(error, httpx.ConnectTimeout):
        return f"no answer within {PROBE_TIMEOUT_SECONDS:.0f} s"
    if isinstance(error, httpx.TimeoutException):
        return f"connected, but no answer within {PROBE_TIMEOUT_SECONDS:.0f} s"
    message = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectError):
        return message.partition("] ")[2] or message
    return message
