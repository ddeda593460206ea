"""ASGI middleware: give each request an id, measure its duration and count its status."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from starlette.requests import Request

from backend.endpoint.prometheus_metrics import UNKNOWN_FUNCTION, EndpointMetrics

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class RequestMiddleware:
    """Set ``request_id`` and ``started_at`` in ``request.state``; send its ``limit_headers``.

    Args:
        app: the application.
        metrics: counts the requests.
        is_known: returns whether a function exists.
        handle_error: returns the response to an unexpected exception.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: EndpointMetrics,
        is_known: Callable[[str], bool],
        handle_error: Callable[[Request, Exception], Awaitable[Response]],
    ) -> None:
        self._app = app
        self._handle_error = handle_error
        self._metrics = metrics
        self._is_known = is_known
        self._id_generator = random.Random()  # noqa: S311 - faster than the system's, not a secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; everything but HTTP is passed through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_at, id = time.perf_counter(), f"{self._id_generator.getrandbits(64):016x}"
        response_started = False
        scope.setdefault("state", {}).update(request_id=id, started_at=started_at)

        async def send_with_headers(message: Message) -> None:
            nonlocal response_started
            if message["type"] == "http.response.start":
                response_started = True
                limit_headers = scope["state"].get("limit_headers", {}).items()
                extra_headers = [(name.encode(), value.encode()) for name, value in limit_headers]
                id_header = (b"x-request-id", id.encode())
                message["headers"] = [*message["headers"], *extra_headers, id_header]
                self._count(scope, message["status"], time.perf_counter() - started_at)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:
            response = await self._handle_error(Request(scope), error)
            if response_started:  # too late for an error response: raising closes the connection
                raise
            await response(scope, receive, send_with_headers)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        function = (scope.get("path_params") or {}).get("function")
        if function is not None:
            counted_function = function if self._is_known(function) else UNKNOWN_FUNCTION
            self._metrics.count_request(counted_function, status, seconds)
