"""gRPC without its ceremony: a desk's methods named like the calls answer them.

A unary call is ``async def Name(self, request) -> reply``; a streamed one is an async generator of
replies. Calls that no desk answers are refused as unimplemented and remembered.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, TypeVar

from grpclib.const import Handler, Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from h2.exceptions import ProtocolError
from modal_proto.api_grpc import ModalClientBase

CONTAINER_HEADER = "x-plane-container"
calling_container: ContextVar[str] = ContextVar("caller", default="")
"""The container whose call is being answered; empty for a client."""

T = TypeVar("T")
log = logging.getLogger(__name__)


def make_grpc_error(status: Status, message: str) -> GRPCError:
    """What a desk raises; the client turns it into an exception of its own."""
    return GRPCError(status, message)


def make_not_found_error(what: str, name: str) -> GRPCError:
    return GRPCError(Status.NOT_FOUND, f"{what} '{name}' not found")


class ChangeNotifier:
    """Whoever changes the state rings; whoever waits for a state looks again."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait_until(self, check: Callable[[], T], seconds: float) -> T:
        """What ``check`` returned when it was true, or when the time was over."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            result = check()
            remaining_seconds = deadline - asyncio.get_running_loop().time()
            if result or remaining_seconds <= 0:
                return result
            event = self._event
            try:
                await asyncio.wait_for(event.wait(), remaining_seconds)
            except TimeoutError:
                return check()


class _MethodNames:
    """Stands in for a service whose methods are their own names."""

    def __getattr__(self, name: str) -> str:
        return name


class GrpcService:
    """The service: which desk answers which call, and what went wrong."""

    def __init__(self, servicers: Iterable[object]) -> None:
        self._servicers = list(servicers)
        self.calls: list[str] = []
        self.unimplemented_calls: list[str] = []
        self.servicer_errors: list[str] = []

    def __mapping__(self) -> dict[str, Handler]:
        protocol: dict[str, Handler] = ModalClientBase.__mapping__(_MethodNames())  # type: ignore[arg-type]
        return {path: self._handler(handler) for path, handler in protocol.items()}

    def _handler(self, original_handler: Handler) -> Handler:
        name = str(original_handler.func)
        method = next((getattr(d, name) for d in self._servicers if hasattr(d, name)), None)

        async def handle_call(stream: Any) -> None:
            request = await stream.recv_message()
            calling_container.set((stream.metadata or {}).get(CONTAINER_HEADER, ""))
            self.calls.append(name)
            if method is None:
                self.unimplemented_calls.append(name)
                raise GRPCError(Status.UNIMPLEMENTED, f"the local plane does not answer {name}")
            try:
                await self._send_replies(stream, method(request))
            except GRPCError:
                raise
            except Exception as error:
                log.exception("%s failed", name)
                self.servicer_errors.append(f"{name}: {error!r}")
                raise GRPCError(Status.FAILED_PRECONDITION, f"{name}: {error!r}") from error

        return Handler(
            handle_call,
            original_handler.cardinality,
            original_handler.request_type,
            original_handler.reply_type,
        )

    async def _send_replies(self, stream: Any, replies: Any) -> None:
        if not inspect.isasyncgen(replies):
            await self._send_message(stream, await replies)
            return
        async for reply in replies:
            if not await self._send_message(stream, reply):
                return

    @staticmethod
    async def _send_message(stream: Any, reply: Any) -> bool:
        """Whether somebody still listened."""
        try:
            await stream.send_message(reply)
        except (StreamTerminatedError, ProtocolError, ConnectionError):
            return False
        return True
