"""A home folder with functions of every kind, and calls of the endpoint without a network."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend.endpoint.assembly import create_endpoint
from backend.settings import Settings


@pytest.fixture
def home(published: Path, tmp_path: Path) -> Path:
    """A copy for one test."""
    return Path(shutil.copytree(published, tmp_path / "home"))


class Caller:
    """Calls the application in this process, one request at a time."""

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
        """Run the event loop until a check is true."""

        async def until() -> Any:
            for _ in range(int(seconds / 0.02)):
                result = check()
                if result:
                    return result
                await asyncio.sleep(0.02)
            raise AssertionError("the check never became true")

        return self.loop.run_until_complete(until())


@contextmanager
def calling(
    home: Path, *, open: bool = True, open_at_first: bool = False, **settings: Any
) -> Iterator[Caller]:
    """Run the endpoint over a home folder."""
    loop = asyncio.new_event_loop()
    try:
        app = create_endpoint(
            Settings(home=home, **settings), allow_anonymous=open, open_until_key=open_at_first
        )

        @asynccontextmanager
        async def running() -> Any:
            async with app.router.lifespan_context(app):
                yield

        life = running()
        loop.run_until_complete(life.__aenter__())
        try:
            yield Caller(app, loop)
        finally:
            loop.run_until_complete(life.__aexit__(None, None, None))
    finally:
        loop.close()


@pytest.fixture(scope="package")
def call(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    """An endpoint without keys, for tests that ignore what it captures."""
    home = Path(shutil.copytree(published, tmp_path_factory.mktemp("shared") / "home"))
    with calling(home) as caller:
        yield caller
