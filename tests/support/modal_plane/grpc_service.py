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
caller: ContextVar[str] = ContextVar("caller", default="")
"""The container whose call is being answered; empty for a client."""

T = TypeVar("T")
log = logging.getLogger(__name__)


def refuse(status: Status, why: str) -> GRPCError:
    """What a desk raises; the client turns it into an exception of its own."""
    return GRPCError(status, why)


def not_found(what: str, name: str) -> GRPCError:
    return GRPCError(Status.NOT_FOUND, f"{what} '{name}' not found")


class Bell:
    """Whoever changes the state rings; whoever waits for a state looks again."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def until(self, look: Callable[[], T], seconds: float) -> T:
        """What ``look`` returned when it was true, or when the time was over."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            found = look()
            left = deadline - asyncio.get_running_loop().time()
            if found or left <= 0:
                return found
            event = self._event
            try:
                await asyncio.wait_for(event.wait(), left)
            except TimeoutError:
                return look()


class _Names:
    """Stands in for a service whose methods are their own names."""

    def __getattr__(self, name: str) -> str:
        return name


class Wire:
    """The service: which desk answers which call, and what went wrong."""

    def __init__(self, desks: Iterable[object]) -> None:
        self._desks = list(desks)
        self.calls: list[str] = []
        self.unanswered: list[str] = []
        self.faults: list[str] = []

    def __mapping__(self) -> dict[str, Handler]:
        protocol: dict[str, Handler] = ModalClientBase.__mapping__(_Names())  # type: ignore[arg-type]
        return {path: self._handler(handler) for path, handler in protocol.items()}

    def _handler(self, given: Handler) -> Handler:
        name = str(given.func)
        method = next((getattr(d, name) for d in self._desks if hasattr(d, name)), None)

        async def answer(stream: Any) -> None:
            request = await stream.recv_message()
            caller.set((stream.metadata or {}).get(CONTAINER_HEADER, ""))
            self.calls.append(name)
            if method is None:
                self.unanswered.append(name)
                raise GRPCError(Status.UNIMPLEMENTED, f"the local plane does not answer {name}")
            try:
                await self._send(stream, method(request))
            except GRPCError:
                raise
            except Exception as error:
                log.exception("%s failed", name)
                self.faults.append(f"{name}: {error!r}")
                raise GRPCError(Status.FAILED_PRECONDITION, f"{name}: {error!r}") from error

        return Handler(answer, given.cardinality, given.request_type, given.reply_type)

    async def _send(self, stream: Any, replies: Any) -> None:
        if not inspect.isasyncgen(replies):
            await self._say(stream, await replies)
            return
        async for reply in replies:
            if not await self._say(stream, reply):
                return

    @staticmethod
    async def _say(stream: Any, reply: Any) -> bool:
        """Whether somebody still listened."""
        try:
            await stream.send_message(reply)
        except (StreamTerminatedError, ProtocolError, ConnectionError):
            return False
        return True
