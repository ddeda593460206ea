"""Questions to a Label Studio about itself, for the doctor; none of them changes anything."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from backend.errors import LabelStudioError, PrivateAddressError
from backend.label_studio.client import Json, LabelStudioClient

PROBE_TIMEOUT_SECONDS = 5.0
"""That an address may take to answer."""
TokenKind = Literal["none", "legacy token", "personal access token", "access token", "no token"]


@dataclass(frozen=True)
class TokenInfo:
    """What a token says of itself, unproven.

    Attributes:
        kind: ``no token``: it has no form that Label Studio gives out.
        expires_at: when it ends, seconds since 1970; 0 when it does not say.
    """

    kind: TokenKind
    expires_at: float = 0.0

    def is_expired(self, now: float | None = None) -> bool:
        """Whether its time is over."""
        return 0 < self.expires_at <= (time.time() if now is None else now)


@dataclass(frozen=True)
class ServiceInfo:
    """What answers at an address.

    Attributes:
        is_expected: it is what was looked for.
        version: of it, as it says.
        description: something else that answers, in words; empty when nothing does.
        error: why nothing answers.
    """

    is_expected: bool = False
    version: str = ""
    description: str = ""
    error: str = ""


def parse_token(text: str) -> TokenInfo:
    """Which kind a token is.

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
    kind: TokenKind = "personal access token"
    if claims.get("token_type") == "access":
        kind = "access token"
    return TokenInfo(kind, float(claims.get("exp") or 0))


def identify_label_studio(server: str) -> ServiceInfo:
    """Ask an address what it is; no token is sent."""
    import httpx

    try:
        with httpx.Client(timeout=PROBE_TIMEOUT_SECONDS, follow_redirects=True) as http:
            response = http.get(f"{server}/api/version/")
            version_info = _response_json(response)
            if "release" in version_info or "label-studio-os-package" in version_info:
                return ServiceInfo(True, str(version_info.get("release") or ""))
            health_info = _response_json(http.get(f"{server}/health"))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return ServiceInfo(error=_connection_error(error))
    if health_info.get("model_class"):
        return ServiceInfo(description=f"an ML backend ({health_info['model_class']})")
    return ServiceInfo(description=f"something else ({response.status_code} for /api/version/)")


def identify_backend(url: str, auth: tuple[str, str] | None) -> ServiceInfo:
    """Ask a backend's address what it is."""
    import httpx

    try:
        response = httpx.get(f"{url}/health", auth=auth, timeout=PROBE_TIMEOUT_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return ServiceInfo(error=_connection_error(error))
    health_info = _response_json(response)
    if health_info.get("model_class"):
        return ServiceInfo(True, description=str(health_info["model_class"]))
    if response.status_code == 401:
        return ServiceInfo(description="a backend that wants basic auth")
    return ServiceInfo(description=f"something else ({response.status_code} for /health)")


def send_test_event(url: str, number: int) -> int:
    """Send a backend the event of a webhook, as Label Studio does: without auth.

    Args:
        url: the webhook's.
        number: of the project that is woken, which then finds nothing new.

    Returns:
        the HTTP status; 0 when nothing answers.
    """
    import httpx

    event = {"action": "PRELABEL_DOCTOR", "project": {"id": number}}
    try:
        return httpx.post(url, json=event, timeout=PROBE_TIMEOUT_SECONDS).status_code
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return 0


def is_listening(url: str) -> bool:
    """Whether anything listens at an address; nothing is sent."""
    try:
        parts = urlsplit(url)
        host_and_port = (
            parts.hostname or "",
            parts.port or (443 if parts.scheme == "https" else 80),
        )
        with socket.create_connection(host_and_port, PROBE_TIMEOUT_SECONDS):
            return True
    except (OSError, ValueError):
        return False


class Diagnostics:
    """Questions that need a token.

    Args:
        client: with one that works.
    """

    def __init__(self, client: LabelStudioClient) -> None:
        self.client = client

    def token_owner(self) -> str:
        """Whose token it is.

        Raises:
            NotAllowed: it is refused.
        """
        user = self.client.request_json("GET", "api/current-user/whoami")
        return str(user.get("email") or user.get("username") or "somebody")

    def allows_backend_url(self, url: str) -> bool:
        """Whether ML backends may be at this address (``ML_BLOCK_LOCAL_IP``).

        A connection to no project is asked for: Label Studio checks the address first.
        """
        return self._accepts("api/ml/", {"url": url, "project": 0, "title": "Prelabel"})

    def allows_webhook_url(self, url: str) -> bool:
        """Whether webhooks may go to this address (``SSRF_PROTECTION_ENABLED``)."""
        return self._accepts("api/webhooks/", {"url": url, "project": 0})

    def list_webhooks(self, number: int) -> list[Json]:
        """The webhooks of a project."""
        rows: list[Json] = self.client.request_json("GET", "api/webhooks/", {"project": number})
        return rows

    def get_prediction(self, id: int) -> Json:
        """A prediction as Label Studio keeps it."""
        row: Json = self.client.request_json("GET", f"api/predictions/{id}/")
        return row

    def _accepts(self, path: str, body: Json) -> bool:
        try:
            self.client.request_json("POST", path, json=body)
        except PrivateAddressError:
            return False
        except LabelStudioError as error:
            if "project" in str(error):  # "Invalid pk": the address was fine
                return True
            raise
        return True


def _decode_jwt(text: str) -> Json | None:
    """What a JSON web token says, unproven; None when it is none."""
    import base64
    import json

    parts = text.split(".")
    if len(parts) != 3:
        return None
    try:
        payload = parts[1] + "=" * (-len(parts[1]) % 4)
        claims = json.loads(base64.urlsafe_b64decode(payload))
    except ValueError:
        return None
    return claims if isinstance(claims, dict) else None


def _response_json(response: Any) -> Json:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _connection_error(error: Exception) -> str:
    import httpx

    messages: list[tuple[type[Exception], Callable[[], str]]] = [
        (httpx.ConnectTimeout, lambda: f"no answer within {PROBE_TIMEOUT_SECONDS:.0f} s"),
        (
            httpx.TimeoutException,
            lambda: f"connected, but no answer within {PROBE_TIMEOUT_SECONDS:.0f} s",
        ),
        (httpx.ConnectError, lambda: str(error).partition("] ")[2] or str(error)),
    ]
    return next(
        (
            format_message()
            for error_type, format_message in messages
            if isinstance(error, error_type)
        ),
        str(error),
    )
