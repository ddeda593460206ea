"""Call the endpoint's application in this process, without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx

from backend.endpoint.assembly import create_endpoint
from backend.settings import Settings


class EndpointClient:
    """Call the application in this process, one request at a time."""

    def __init__(self, app: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.app = app
        self.loop = loop
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://endpoint")

    def __call__(self, method: str, path: str, **more: Any) -> httpx.Response:
        return self.loop.run_until_complete(self.http.request(method, path, **more))

    def invoke(self, function: str, content: bytes, **params: Any) -> httpx.Response:
        return self("POST", f"/v1/functions/{function}/invoke", content=content, params=params)

    def wait(self, check: Callable[[], Any], seconds: float = 10.0) -> Any:
        """Run the endpoint's event loop until a check is true."""

        async def until() -> Any:
            for _ in range(int(seconds / 0.02)):
                found = check()
                if found:
                    return found
                await asyncio.sleep(0.02)
            raise AssertionError("it never became so")

        return self.loop.run_until_complete(until())

    def wait_for_post_response(self) -> None:
        """Let the endpoint finish the work that follows its responses."""
        self.wait(lambda: self.app.state.parts.post_response._pending_count == 0)


@contextmanager
def open_endpoint(
    home: Path, *, open: bool = True, open_at_first: bool = False, **settings: Any
) -> Iterator[EndpointClient]:
    """Open the endpoint on a home folder."""
    loop = asyncio.new_event_loop()
    try:
        given = Settings(home=home, **settings)
        app = create_endpoint(given, allow_anonymous=open, open_until_key=open_at_first)

        @asynccontextmanager
        async def running() -> Any:
            async with app.router.lifespan_context(app):
                yield

        life = running()
        loop.run_until_complete(life.__aenter__())
        try:
            yield EndpointClient(app, loop)
        finally:
            loop.run_until_complete(life.__aexit__(None, None, None))
    finally:
        loop.close()
