"""Sign a browser in to a Label Studio on this machine, without typing the password."""

from __future__ import annotations

import hmac
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import httpx

LOGIN_PATH = "/user/login/"
SESSION_COOKIE = "sessionid"
SIGN_IN_TIMEOUT_SECONDS = 20.0


def create_session(server: str, email: str, password: str) -> str:
    """Log in to Label Studio and return the session cookie; "" if it refuses the password."""
    form = {"email": email, "password": password, "persist_session": "on"}
    try:
        with httpx.Client(
            base_url=server, timeout=SIGN_IN_TIMEOUT_SECONDS, trust_env=False
        ) as http:
            http.get(LOGIN_PATH)
            form["csrfmiddlewaretoken"] = http.cookies.get("csrftoken") or ""
            response = http.post(LOGIN_PATH, data=form, headers={"Referer": server})
            session = http.cookies.get(SESSION_COOKIE) if response.is_redirect else None
            return session or ""
    except httpx.HTTPError:
        return ""


class SignInServer:
    """Serves links that sign a browser in and lead to a page of Label Studio.

    Cookies belong to a host, not to a port. So a page at another port of the loopback address can
    set the session cookie of Label Studio. The links contain a random key and end
    with the process.

    Args:
        server: address of Label Studio on the loopback address.
        email: email of its user.
        password: password of its user.
    """

    def __init__(self, server: str, email: str, password: str) -> None:
        self._server = server
        self._credentials = (email, password)
        self._key = secrets.token_urlsafe(24)
        self._requested = threading.Event()
        sign_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                sign_in.answer(self)

            def log_message(self, format: str, *arguments: object) -> None:
                """Log nothing: the path contains the key."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def link_to(self, page: str) -> str:
        """Return the link that signs in and leads to a page of Label Studio."""
        parts = urlsplit(page)  # the page may name this machine otherwise
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return f"http://127.0.0.1:{self._http.server_port}/{self._key}{path}"

    def wait_for_request(self, seconds: float) -> None:
        """Wait until a link was requested, at most so long."""
        self._requested.wait(seconds)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a request: redirect to Label Studio with a session, if the key is right."""
        key, slash, path = request.path.removeprefix("/").partition("/")
        if not hmac.compare_digest(key.encode(), self._key.encode()):
            request.send_error(404)
            return
        session = create_session(self._server, *self._credentials)
        request.send_response(302)
        if session:
            cookie = f"{SESSION_COOKIE}={session}; Path=/; HttpOnly; SameSite=Lax"
            request.send_header("Set-Cookie", cookie)
        request.send_header("Location", f"{self._server}{slash}{path}")
        request.send_header("Referrer-Policy", "no-referrer")
        request.end_headers()
        self._requested.set()

    def close(self) -> None:
        """Stop serving."""
        self._http.shutdown()
        self._http.server_close()
