"""An ASGI layer around everything: a request's id, its seconds, its status."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from serverless.endpoint.metrics import UNKNOWN, Metrics

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Watching:
    """Gives each request an id and counts it.

    Args:
        app: what is behind it.
        metrics: counters.
        known: whether there is a function of an id.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, known: Callable[[str], bool]) -> None:
        self._app = app
        self._metrics = metrics
        self._known = known
        self._names = random.Random()  # noqa: S311 - asking the system each time costs more

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, id = time.perf_counter(), f"{self._names.getrandbits(64):016x}"
        scope.setdefault("state", {}).update(request=id, began=began)

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", id.encode())]
                self._count(scope, message["status"], time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, told)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        function = (scope.get("path_params") or {}).get("function")
        if function is not None:
            self._metrics.request(function if self._known(function) else UNKNOWN, status, seconds)
