"""Plain HTTP: the store of large values, and one address per web function.

A request to a web function becomes an input with an asgi scope, its body goes in through the call's
incoming stream, and what the app sends comes back through the outgoing one, as in the real service.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import web
from modal_proto import api_pb2

from tests.support.modal_plane.function_calls import CallDesk
from tests.support.modal_plane.state import Call, Ledger

PIECE = 1024 * 1024
HOST = "127.0.0.1"
PROXY_TOKEN = ("wk-local", "ws-local")
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def listen(app: web.Application) -> tuple[web.AppRunner, str]:
    """Serve an app on a free port; the runner and the address."""
    runner = web.AppRunner(app, auto_decompress=False, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    return runner, f"http://{HOST}:{runner.addresses[0][1]}"


class Store:
    """Puts and gets of blobs, blocks of volumes, and pieces of files."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.app = web.Application(client_max_size=2**32)
        self.app.router.add_put("/blob/{name}", self._put)
        self.app.router.add_get("/blob/{name}", self._get)
        self.app.router.add_get("/volume/{volume}/{path:.*}", self._piece)

    async def _put(self, request: web.Request) -> web.StreamResponse:
        content = await request.read()
        name = request.match_info["name"]
        self._ledger.blob(name).write_bytes(content)
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        return web.Response(body=name.encode(), headers={"ETag": f'"{digest}"'})

    async def _get(self, request: web.Request) -> web.StreamResponse:
        path = self._ledger.blob(request.match_info["name"])
        if not path.exists():
            raise web.HTTPNotFound
        return web.Response(body=path.read_bytes())

    async def _piece(self, request: web.Request) -> web.StreamResponse:
        volume = self._ledger.volume(request.match_info["volume"])
        start, stop = int(request.query["start"]), int(request.query["stop"])
        with volume.path(request.match_info["path"]).open("rb") as file:
            file.seek(start)
            return web.Response(body=file.read(stop - start))


class Sites:
    """The addresses of web functions."""

    def __init__(self, ledger: Ledger, calls: CallDesk) -> None:
        self._ledger = ledger
        self._calls = calls
        self._runners: list[web.AppRunner] = []
        self.urls: dict[tuple[str, str], str] = {}

    async def open(self, function: str, method: str) -> str:
        """The address of a web function; the same one after another deployment."""
        if (function, method) not in self.urls:

            async def answer(request: web.Request) -> web.StreamResponse:
                return await self._answer(function, method, request)

            app = web.Application()
            app.router.add_route("*", "/{path:.*}", answer)
            runner, url = await listen(app)
            self._runners.append(runner)
            self.urls[function, method] = url
        return self.urls[function, method]

    async def close(self) -> None:
        await asyncio.gather(*(runner.cleanup() for runner in self._runners))

    async def _answer(self, function: str, method: str, request: web.Request) -> web.StreamResponse:
        message = self._ledger.function(function).message
        config = message.method_definitions[method].webhook_config if method else None
        if (config or message.webhook_config).requires_proxy_auth:
            given = request.headers.get("Modal-Key"), request.headers.get("Modal-Secret")
            if given != PROXY_TOKEN:
                return web.Response(status=401, text="modal-http: missing credentials\n")
        unary, sync = api_pb2.FUNCTION_CALL_TYPE_UNARY, api_pb2.FUNCTION_CALL_INVOCATION_TYPE_SYNC
        call = self._calls.open(function, unary, sync)
        self._calls.put(
            call,
            api_pb2.FunctionInput(
                args=pickle.dumps(((_scope(request),), {})),
                data_format=api_pb2.DATA_FORMAT_PICKLE,
                method_name=method,
            ),
        )
        feeding = asyncio.create_task(self._feed(call, request))
        try:
            return await self._reply(call, request)
        finally:
            feeding.cancel()
            self._send(call, api_pb2.Asgi(http_disconnect=api_pb2.Asgi.HttpDisconnect()))

    def _send(self, call: Call, message: api_pb2.Asgi) -> None:
        self._calls.feed(call, message.SerializeToString())

    async def _feed(self, call: Call, request: web.Request) -> None:
        """Pass the request's body on, piece by piece."""
        async for piece in request.content.iter_chunked(PIECE):
            body = api_pb2.Asgi.HttpRequest(body=piece, more_body=True)
            self._send(call, api_pb2.Asgi(http_request=body))
        self._send(call, api_pb2.Asgi(http_request=api_pb2.Asgi.HttpRequest(more_body=False)))

    async def _reply(self, call: Call, request: web.Request) -> web.StreamResponse:
        """Pass what the app sends back to the client."""
        response: web.StreamResponse | None = None
        async for message in self._messages(call):
            kind = message.WhichOneof("type")
            if kind == "http_response_start":
                response = _response(message.http_response_start)
                await response.prepare(request)
            elif kind == "http_response_body" and response is not None:
                with contextlib.suppress(ConnectionResetError):
                    await response.write(message.http_response_body.body)
                if not message.http_response_body.more_body:
                    await response.write_eof()
                    return response
        if response is not None:
            return response
        why = call.outputs[-1].result.exception if call.outputs else "no answer"
        return web.Response(status=500, text=f"modal-http: internal error: {why}\n")

    async def _messages(self, call: Call) -> AsyncIterator[api_pb2.Asgi]:
        async for chunk in self._calls.chunks(call, call.outgoing, 0):
            data = chunk.data
            if chunk.data_blob_id:
                data = self._ledger.blob(chunk.data_blob_id).read_bytes()
            yield api_pb2.Asgi.FromString(data)


def _scope(request: web.Request) -> dict[str, Any]:
    peer = request.transport.get_extra_info("peername") if request.transport else None
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": request.path,
        "raw_path": request.raw_path.partition("?")[0].encode(),
        "query_string": request.raw_path.partition("?")[2].encode(),
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.raw_headers],
        "client": (peer[0], peer[1]) if peer else None,
    }


def _response(start: api_pb2.Asgi.HttpResponseStart) -> web.StreamResponse:
    response = web.StreamResponse(status=start.status)
    names, values = start.headers[::2], start.headers[1::2]
    for name, value in zip(names, values, strict=True):
        if name.lower() not in (b"transfer-encoding", b"connection"):
            response.headers.add(name.decode("latin-1"), value.decode("latin-1"))
    return response
