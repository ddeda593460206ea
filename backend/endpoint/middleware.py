"""An ASGI layer around everything: a request's id, its seconds, its status."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from starlette.requests import Request

from backend.endpoint.metrics import UNKNOWN, Metrics

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Watching:
    """Gives each request an id and counts it.

    Args:
        app: what is behind it.
        metrics: counters.
        known: whether there is a function of an id.
        failed: the answer where something failed that should not.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        known: Callable[[str], bool],
        failed: Callable[[Request, Exception], Awaitable[Response]],
    ) -> None:
        self._app = app
        self._failed = failed
        self._metrics = metrics
        self._known = known
        self._names = random.Random()  # noqa: S311 - asking the system each time costs more

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, id = time.perf_counter(), f"{self._names.getrandbits(64):016x}"
        answering = False
        scope.setdefault("state", {}).update(request=id, began=began)

        async def told(message: Message) -> None:
            nonlocal answering
            if message["type"] == "http.response.start":
                answering = True
                left = scope["state"].get("left", {}).items()
                more = [(name.encode(), value.encode()) for name, value in left]
                message["headers"] = [*message["headers"], *more, (b"x-request-id", id.encode())]
                self._count(scope, message["status"], time.perf_counter() - began)
            await send(message)

        try:
            await self._app(scope, receive, told)
        except Exception as error:
            response = await self._failed(Request(scope), error)
            if answering:  # half an answer: only a cut connection tells of it
                raise
            await response(scope, receive, told)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        function = (scope.get("path_params") or {}).get("function")
        if function is not None:
            self._metrics.request(function if self._known(function) else UNKNOWN, status, seconds)
