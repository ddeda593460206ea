"""Questions to a Label Studio about itself, for the doctor; none of them changes anything."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from backend.errors import AddressRefused, LabelStudioError
from backend.label_studio.client import Client, Json

SECONDS = 5.0
"""That an address may take to answer."""
TokenKind = Literal["none", "legacy token", "personal access token", "access token", "no token"]


@dataclass(frozen=True)
class Token:
    """What a token says of itself, unproven.

    Attributes:
        kind: ``no token``: it has no form that Label Studio gives out.
        until: when it ends, seconds since 1970; 0 when it does not say.
    """

    kind: TokenKind
    until: float = 0.0

    def ended(self, now: float | None = None) -> bool:
        """Whether its time is over."""
        return 0 < self.until <= (time.time() if now is None else now)


@dataclass(frozen=True)
class Standing:
    """What answers at an address.

    Attributes:
        answers: it is what was looked for.
        version: of it, as it says.
        what: something else that answers, in words; empty when nothing does.
        error: why nothing answers.
    """

    answers: bool = False
    version: str = ""
    what: str = ""
    error: str = ""


def read_token(text: str) -> Token:
    """Which kind a token is.

    Example:
        >>> read_token("0" * 40).kind
        'legacy token'
        >>> read_token("").kind
        'none'
    """
    if not text:
        return Token("none")
    if len(text) == 40 and set(text) <= set("0123456789abcdef"):
        return Token("legacy token")
    claims = _claims(text)
    if claims is None:
        return Token("no token")
    kind: TokenKind = "personal access token"
    if claims.get("token_type") == "access":
        kind = "access token"
    return Token(kind, float(claims.get("exp") or 0))


def standing(server: str) -> Standing:
    """Ask an address what it is; no token is sent."""
    import httpx

    try:
        with httpx.Client(timeout=SECONDS, follow_redirects=True) as http:
            answer = http.get(f"{server}/api/version/")
            known = _json(answer)
            if "release" in known or "label-studio-os-package" in known:
                return Standing(True, str(known.get("release") or ""))
            health = _json(http.get(f"{server}/health"))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return Standing(error=_reason(error))
    if health.get("model_class"):
        return Standing(what=f"an ML backend ({health['model_class']})")
    return Standing(what=f"something else ({answer.status_code} for /api/version/)")


def health(url: str, auth: tuple[str, str] | None) -> Standing:
    """Ask a backend's address what it is."""
    import httpx

    try:
        answer = httpx.get(f"{url}/health", auth=auth, timeout=SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return Standing(error=_reason(error))
    known = _json(answer)
    if known.get("model_class"):
        return Standing(True, what=str(known["model_class"]))
    if answer.status_code == 401:
        return Standing(what="a backend that wants basic auth")
    return Standing(what=f"something else ({answer.status_code} for /health)")


def knock(url: str, number: int) -> int:
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
        return httpx.post(url, json=event, timeout=SECONDS).status_code
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return 0


def listens(url: str) -> bool:
    """Whether anything listens at an address; nothing is sent."""
    try:
        parts = urlsplit(url)
        place = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        with socket.create_connection(place, SECONDS):
            return True
    except (OSError, ValueError):
        return False


class Probe:
    """Questions that need a token.

    Args:
        client: with one that works.
    """

    def __init__(self, client: Client) -> None:
        self.client = client

    def person(self) -> str:
        """Whose token it is.

        Raises:
            NotAllowed: it is refused.
        """
        me = self.client.ask("GET", "api/current-user/whoami")
        return str(me.get("email") or me.get("username") or "somebody")

    def calls(self, url: str) -> bool:
        """Whether ML backends may be at this address (``ML_BLOCK_LOCAL_IP``).

        A connection to no project is asked for: Label Studio checks the address first.
        """
        return self._takes("api/ml/", {"url": url, "project": 0, "title": "Prelabel"})

    def hooks(self, url: str) -> bool:
        """Whether webhooks may go to this address (``SSRF_PROTECTION_ENABLED``)."""
        return self._takes("api/webhooks/", {"url": url, "project": 0})

    def webhooks(self, number: int) -> list[Json]:
        """The webhooks of a project."""
        found: list[Json] = self.client.ask("GET", "api/webhooks/", {"project": number})
        return found

    def prediction(self, id: int) -> Json:
        """A prediction as Label Studio keeps it."""
        found: Json = self.client.ask("GET", f"api/predictions/{id}/")
        return found

    def _takes(self, path: str, body: Json) -> bool:
        try:
            self.client.ask("POST", path, json=body)
        except AddressRefused:
            return False
        except LabelStudioError as error:
            if "project" in str(error):  # "Invalid pk": the address was fine
                return True
            raise
        return True


def _claims(text: str) -> Json | None:
    """What a JSON web token says, unproven; None when it is none."""
    import base64
    import json

    parts = text.split(".")
    if len(parts) != 3:
        return None
    try:
        middle = parts[1] + "=" * (-len(parts[1]) % 4)
        claims = json.loads(base64.urlsafe_b64decode(middle))
    except ValueError:
        return None
    return claims if isinstance(claims, dict) else None


def _json(answer: Any) -> Json:
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _reason(error: Exception) -> str:
    import httpx

    kinds: list[tuple[type[Exception], Callable[[], str]]] = [
        (httpx.ConnectTimeout, lambda: f"no answer within {SECONDS:.0f} s"),
        (httpx.TimeoutException, lambda: f"connected, but no answer within {SECONDS:.0f} s"),
        (httpx.ConnectError, lambda: str(error).partition("] ")[2] or str(error)),
    ]
    return next((told() for kind, told in kinds if isinstance(error, kind)), str(error))
