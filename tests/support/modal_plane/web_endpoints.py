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

from tests.support.modal_plane.function_calls import FunctionCallServicer
from tests.support.modal_plane.state import Call, PlaneState

CHUNK_BYTES = 1024 * 1024
LOOPBACK_HOST = "127.0.0.1"
RequestHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def serve_app(app: web.Application) -> tuple[web.AppRunner, str]:
    """Serve an app on a free port; the runner and the address."""
    runner = web.AppRunner(app, auto_decompress=False, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, LOOPBACK_HOST, 0).start()
    return runner, f"http://{LOOPBACK_HOST}:{runner.addresses[0][1]}"


class BlobServer:
    """Puts and gets of blobs, blocks of volumes, and pieces of files."""

    def __init__(self, state: PlaneState) -> None:
        self._state = state
        self.app = web.Application(client_max_size=2**32)
        self.app.router.add_put("/blob/{name}", self._put_blob)
        self.app.router.add_get("/blob/{name}", self._get_blob)
        self.app.router.add_get("/volume/{volume}/{path:.*}", self._get_file_range)

    async def _put_blob(self, request: web.Request) -> web.StreamResponse:
        content = await request.read()
        name = request.match_info["name"]
        self._state.blob_path(name).write_bytes(content)
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        return web.Response(body=name.encode(), headers={"ETag": f'"{digest}"'})

    async def _get_blob(self, request: web.Request) -> web.StreamResponse:
        path = self._state.blob_path(request.match_info["name"])
        if not path.exists():
            raise web.HTTPNotFound
        return web.Response(body=path.read_bytes())

    async def _get_file_range(self, request: web.Request) -> web.StreamResponse:
        volume = self._state.find_volume(request.match_info["volume"])
        start, stop = int(request.query["start"]), int(request.query["stop"])
        with volume.path(request.match_info["path"]).open("rb") as file:
            file.seek(start)
            return web.Response(body=file.read(stop - start))


class WebEndpoints:
    """The addresses of web functions."""

    def __init__(self, state: PlaneState, call_servicer: FunctionCallServicer) -> None:
        self._state = state
        self._call_servicer = call_servicer
        self._runners: list[web.AppRunner] = []
        self.urls: dict[str, str] = {}

    async def open_endpoint(self, function: str) -> str:
        """Return the address of a web function, which stays the same across deployments."""
        if function not in self.urls:

            async def handle_request(request: web.Request) -> web.StreamResponse:
                return await self._handle_request(function, request)

            app = web.Application()
            app.router.add_route("*", "/{path:.*}", handle_request)
            runner, url = await serve_app(app)
            self._runners.append(runner)
            self.urls[function] = url
        return self.urls[function]

    async def close(self) -> None:
        await asyncio.gather(*(runner.cleanup() for runner in self._runners))

    async def _handle_request(self, function: str, request: web.Request) -> web.StreamResponse:
        unary, sync = api_pb2.FUNCTION_CALL_TYPE_UNARY, api_pb2.FUNCTION_CALL_INVOCATION_TYPE_SYNC
        call = self._call_servicer.open_call(function, unary, sync)
        self._call_servicer.put_input(
            call,
            api_pb2.FunctionInput(
                args=pickle.dumps(((_asgi_scope(request),), {})),
                data_format=api_pb2.DATA_FORMAT_PICKLE,
            ),
        )
        body_task = asyncio.create_task(self._stream_request_body(call, request))
        try:
            return await self._stream_response(call, request)
        finally:
            body_task.cancel()
            self._send_asgi_message(
                call, api_pb2.Asgi(http_disconnect=api_pb2.Asgi.HttpDisconnect())
            )

    def _send_asgi_message(self, call: Call, message: api_pb2.Asgi) -> None:
        self._call_servicer.feed_asgi_message(call, message.SerializeToString())

    async def _stream_request_body(self, call: Call, request: web.Request) -> None:
        """Pass the request's body on, piece by piece."""
        async for chunk in request.content.iter_chunked(CHUNK_BYTES):
            body = api_pb2.Asgi.HttpRequest(body=chunk, more_body=True)
            self._send_asgi_message(call, api_pb2.Asgi(http_request=body))
        self._send_asgi_message(
            call, api_pb2.Asgi(http_request=api_pb2.Asgi.HttpRequest(more_body=False))
        )

    async def _stream_response(self, call: Call, request: web.Request) -> web.StreamResponse:
        """Pass what the app sends back to the client."""
        response: web.StreamResponse | None = None
        async for message in self._asgi_messages(call):
            kind = message.WhichOneof("type")
            if kind == "http_response_start":
                response = _start_response(message.http_response_start)
                await response.prepare(request)
            elif kind == "http_response_body" and response is not None:
                with contextlib.suppress(ConnectionResetError):
                    await response.write(message.http_response_body.body)
                if not message.http_response_body.more_body:
                    await response.write_eof()
                    return response
        if response is not None:
            return response
        reason = call.outputs[-1].result.exception if call.outputs else "no answer"
        return web.Response(status=500, text=f"modal-http: internal error: {reason}\n")

    async def _asgi_messages(self, call: Call) -> AsyncIterator[api_pb2.Asgi]:
        async for chunk in self._call_servicer.stream_chunks(call, call.outgoing, 0):
            data = chunk.data
            if chunk.data_blob_id:
                data = self._state.blob_path(chunk.data_blob_id).read_bytes()
            yield api_pb2.Asgi.FromString(data)


def _asgi_scope(request: web.Request) -> dict[str, Any]:
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


def _start_response(start: api_pb2.Asgi.HttpResponseStart) -> web.StreamResponse:
    response = web.StreamResponse(status=start.status)
    names, values = start.headers[::2], start.headers[1::2]
    for name, value in zip(names, values, strict=True):
        if name.lower() not in (b"transfer-encoding", b"connection"):
            response.headers.add(name.decode("latin-1"), value.decode("latin-1"))
    return response
