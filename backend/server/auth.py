"""Basic authentication, and a secret path for Label Studio's webhooks, which lack credentials."""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

UNAUTHORIZED_BODY = (
    b'{"detail":"This backend needs basic auth: PRELABEL_USER and PRELABEL_PASSWORD."}'
)


class BasicAuthMiddleware:
    """ASGI middleware for basic authentication.

    All routes are also available under ``/<secret>``. There, and only there, ``/webhook`` needs no
    authentication.

    Args:
        app: the application.
        user: user name; empty to disable authentication.
        password: the user's password.
        secret: first segment of the webhook's path.
    """

    def __init__(self, app: ASGIApp, user: str, password: str, secret: str) -> None:
        self._app = app
        self._credentials = f"{user}:{password}".encode() if user else b""
        self._prefix = f"/{secret}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Authenticate a request and pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, has_secret = self._strip_secret(scope["path"])
        is_webhook = has_secret and path == "/webhook" and scope["method"] == "POST"
        if self._credentials and not is_webhook and not self._has_credentials(scope):
            await _send_unauthorized(send)
            return
        await self._app({**scope, "path": path, "raw_path": path.encode()}, receive, send)

    def _strip_secret(self, path: str) -> tuple[str, bool]:
        """Return the path without the secret, and whether it started with the secret."""
        path_prefix = path[: len(self._prefix)].encode()
        inner_path = path[len(self._prefix) :]
        matches = secrets.compare_digest(path_prefix, self._prefix.encode())
        return (
            (inner_path or "/", True) if matches and inner_path[:1] in ("", "/") else (path, False)
        )

    def _has_credentials(self, scope: Scope) -> bool:
        for name, value in scope["headers"]:
            if name == b"authorization" and value[:6].lower() == b"basic ":
                return secrets.compare_digest(_decode_credentials(value[6:]), self._credentials)
        return False


def _decode_credentials(value: bytes) -> bytes:
    try:
        return base64.b64decode(value.strip(), validate=True)
    except binascii.Error:
        return b""


async def _send_unauthorized(send: Send) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(UNAUTHORIZED_BODY)).encode()),
        (b"www-authenticate", b'Basic realm="Prelabel"'),
    ]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": UNAUTHORIZED_BODY})
