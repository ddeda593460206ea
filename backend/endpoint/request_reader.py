"""A request's body → the bytes of its images: multipart, raw, base64, data URI or URL.

Nothing larger than the limit is ever in memory, and nobody may send for ever.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from backend.endpoint.problems import Problem, unreadable
from backend.errors import ImageError
from backend.label_studio.image_fetcher import inline
from backend.web_fetcher import Web, shown

BATCH = 64
"""Images in one request at most."""
BATCH_SIZE = f"Send 1 to {BATCH} images"
FETCHERS = 8
"""Addresses that are fetched at the same time; threads of their own, so that slow ones hold up
nobody who sends an image."""
FORM_FIELD = "data"
MOST_VALUES = 200_000
"""In the JSON of a request. The largest that is meant is a correction of 10,000 objects, each with
a box and a centre: 10 commas and brackets each. Each value may take 100 bytes of memory."""
WINDOW = 1 << 20
"""Bytes that are counted at once: of a body that is refused, no more than needed."""
NO_IMAGE = (
    "The request has no image: send its bytes as the body, as a file in multipart/form-data, or "
    'as JSON {"data": "<base64, data URI or https address>"}.'
)


@dataclass(frozen=True)
class Reader:
    """Reads requests.

    Attributes:
        most: bytes of a request.
        image_bytes: bytes of one image.
        seconds: that a body may take to arrive.
        web: fetches addresses; None where that is off.
        fetchers: the threads that do.
    """

    most: int
    image_bytes: int
    seconds: float
    web: Web | None
    fetchers: Executor = field(default_factory=lambda: ThreadPoolExecutor(FETCHERS, "fetching"))

    async def one(self, request: Request) -> bytes:
        """The one image of a request.

        Raises:
            Problem: there is none, or too much.
        """
        found = await self._all(request, listed=False)
        if len(found) != 1:
            raise Problem(422, "one-image", "Send one image, or several to …/invoke-batch.")
        return await self._bytes(found[0])

    async def several(self, request: Request) -> list[str | bytes]:
        """The images of a request in their order, not fetched yet; see :meth:`contents`.

        Raises:
            Problem: there is none, or too much.
        """
        found = await self._all(request, listed=True)
        if not 1 <= len(found) <= BATCH:
            raise Problem(422, "batch-size", f"{BATCH_SIZE}, not {len(found)}.")
        return found

    async def contents(self, found: Sequence[str | bytes]) -> list[bytes | Problem]:
        """The bytes of images in their order; why, where one cannot be had."""
        return list(await asyncio.gather(*(self._or_problem(one) for one in found)))

    def stop(self) -> None:
        """Let the threads end."""
        self.fetchers.shutdown(wait=False, cancel_futures=True)

    async def json(self, request: Request) -> Any:
        """A body of JSON.

        Raises:
            Problem: it is none.
        """
        return _parsed(await self._whole(request))

    async def text(self, text: str) -> bytes:
        """The image that a text is, or leads to.

        Raises:
            Problem: it is none.
        """
        return await self._bytes(text)

    async def _or_problem(self, one: str | bytes) -> bytes | Problem:
        try:
            return await self._bytes(one)
        except Problem as problem:
            return problem

    async def _all(self, request: Request, *, listed: bool) -> list[str | bytes]:
        """The images; of JSON, ``listed`` in an array, or one or several."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            return await self._form(request)
        body = await self._whole(request)
        if not body:
            raise Problem(422, "no-image", NO_IMAGE)
        if kind != "application/json" and not kind.endswith("+json"):
            return [body]
        payload = _parsed(body)
        data = payload.get("data") if isinstance(payload, dict) else None
        texts = data if isinstance(data, list) or listed else [data]
        if not isinstance(texts, list):
            raise Problem(422, "no-list", 'Send several images as {"data": [...]}.')
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise Problem(422, "no-image", NO_IMAGE)
        return list(texts)

    async def _form(self, request: Request) -> list[str | bytes]:
        parser = MultiPartParser(
            request.headers,
            self._stream(request),
            max_files=BATCH + 1,
            max_fields=BATCH + 1,
            max_part_size=self.image_bytes,
        )
        try:
            form = await parser.parse()
        except MultiPartException as error:
            if error.message.startswith("Too many"):
                raise Problem(422, "batch-size", f"{BATCH_SIZE}.") from error
            raise Problem(400, "damaged-form", "The multipart body is damaged.") from error
        except (KeyError, ValueError, AttributeError) as error:
            raise Problem(400, "damaged-form", "The multipart body is damaged.") from error
        try:
            values = [value for _, value in form.multi_items()]
            files = [v for v in values if isinstance(v, UploadFile)]
            found: list[str | bytes] = [await file.read() for file in files]
            if not found:
                found = [v for v in form.getlist(FORM_FIELD) if isinstance(v, str) and v]
        finally:
            await form.close()
        if not found:
            raise Problem(422, "no-image", NO_IMAGE)
        return found

    async def _whole(self, request: Request) -> bytes:
        body = bytearray()
        async for chunk in self._stream(request):
            body += chunk
        return bytes(body)

    async def _stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        """The body as it comes in, up to the limits."""
        said = request.headers.get("content-length", "")
        if said.isdigit() and int(said) > self.most:
            raise self._too_large()
        size, chunks = 0, request.stream()
        try:
            async with asyncio.timeout(self.seconds):
                async for chunk in chunks:
                    size += len(chunk)
                    if size > self.most:
                        raise self._too_large()
                    yield chunk
        except TimeoutError as error:
            raise Problem(
                408,
                "slow-request",
                f"The request did not arrive within {self.seconds:g} seconds: send it again.",
                {"connection": "close"},
            ) from error
        except ClientDisconnect as error:
            raise Problem(400, "gone", "The request was cut off: send it again.") from error

    async def _bytes(self, one: str | bytes) -> bytes:
        try:
            content = one if isinstance(one, bytes) else await self._resolved(one.strip())
        except ImageError as error:
            raise unreadable(error) from error
        if len(content) > self.image_bytes:
            limit = f"over {self.image_bytes:,} bytes"
            raise unreadable(ImageError("image file is too large", limit))
        return content

    async def _resolved(self, text: str) -> bytes:
        if not text.isascii() and _halved(text):
            raise Problem(422, "no-image", NO_IMAGE)
        scheme = text[:8].lower()
        if scheme.startswith("data:"):
            return inline(text, self.image_bytes)
        if scheme.startswith(("http://", "https://")):
            if self.web is None:
                raise Problem(
                    422,
                    "addresses-off",
                    "Addresses are not fetched here: send the image itself, or let the operator "
                    "set PRELABEL_FETCH_URLS=1.",
                )
            return await self._fetched(self.web, text)
        try:
            return base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise Problem(422, "no-image", NO_IMAGE) from error

    async def _fetched(self, web: Web, address: str) -> bytes:
        """The image at an address; waits no longer than allowed, also for a look-up or a thread."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.seconds):
                return await loop.run_in_executor(self.fetchers, web.fetch, address)
        except TimeoutError as error:
            raise ImageError("image did not arrive in time", shown(address)) from error

    def _too_large(self) -> Problem:
        return Problem(
            413,
            "too-large",
            f"A request may have {self.most:,} bytes: send fewer or smaller images.",
            {"connection": "close"},
        )


def _halved(text: str) -> bool:
    """Whether half a character is in it, which JSON can write and nothing else can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _parsed(body: bytes) -> Any:
    _check_values(body)
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Problem(400, "no-json", "The body is no JSON.") from error


def _check_values(body: bytes) -> None:
    """Count values without parsing them: each comes after a comma or a bracket that opens.

    Raises:
        Problem: there are more than any request needs.
    """
    count = 0
    for start in range(0, len(body), WINDOW):
        count += sum(body.count(mark, start, start + WINDOW) for mark in (b",", b"[", b"{"))
        if count > MOST_VALUES:
            raise Problem(
                413,
                "too-many-values",
                f"The JSON of a request may have {MOST_VALUES:,} values: send images as base64 "
                "text, not as lists of numbers.",
            )
