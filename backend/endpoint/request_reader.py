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

from backend.endpoint.problems import ProblemError, unreadable_image
from backend.errors import ImageError
from backend.label_studio.image_fetcher import decode_data_uri
from backend.web_fetcher import WebFetcher, redact_url

MAX_BATCH_IMAGES = 64
"""Images in one request at most."""
BATCH_SIZE_MESSAGE = f"Send 1 to {MAX_BATCH_IMAGES} images"
FETCH_THREAD_COUNT = 8
"""Addresses that are fetched at the same time; threads of their own, so that slow ones hold up
nobody who sends an image."""
FORM_FIELD = "data"
MAX_JSON_VALUES = 200_000
"""In the JSON of a request. The largest that is meant is a correction of 10,000 objects, each with
a box and a centre: 10 commas and brackets each. Each value may take 100 bytes of memory."""
COUNT_CHUNK_BYTES = 1 << 20
"""Bytes that are counted at once: of a body that is refused, no more than needed."""
NO_IMAGE_MESSAGE = (
    "The request has no image: send its bytes as the body, as a file in multipart/form-data, or "
    'as JSON {"data": "<base64, data URI or https address>"}.'
)


@dataclass(frozen=True)
class RequestReader:
    """Reads requests.

    Attributes:
        max_request_bytes: bytes of a request.
        max_image_bytes: bytes of one image.
        timeout_seconds: that a body may take to arrive.
        web: fetches addresses; None where that is off.
        fetch_executor: the threads that do.
    """

    max_request_bytes: int
    max_image_bytes: int
    timeout_seconds: float
    web: WebFetcher | None
    fetch_executor: Executor = field(
        default_factory=lambda: ThreadPoolExecutor(FETCH_THREAD_COUNT, "fetching")
    )

    async def read_image(self, request: Request) -> bytes:
        """The one image of a request.

        Raises:
            ProblemError: there is none, or too much.
        """
        sources = await self._parse_sources(request, require_list=False)
        if len(sources) != 1:
            raise ProblemError(422, "one-image", "Send one image, or several to …/invoke-batch.")
        return await self._load_source(sources[0])

    async def read_sources(self, request: Request) -> list[str | bytes]:
        """The images of a request in their order, not fetched yet; see :meth:`load_images`.

        Raises:
            ProblemError: there is none, or too much.
        """
        sources = await self._parse_sources(request, require_list=True)
        if not 1 <= len(sources) <= MAX_BATCH_IMAGES:
            raise ProblemError(422, "batch-size", f"{BATCH_SIZE_MESSAGE}, not {len(sources)}.")
        return sources

    async def load_images(self, sources: Sequence[str | bytes]) -> list[bytes | ProblemError]:
        """The bytes of images in their order; why, where one cannot be had."""
        return list(await asyncio.gather(*(self._load_or_problem(source) for source in sources)))

    def stop(self) -> None:
        """Let the threads end."""
        self.fetch_executor.shutdown(wait=False, cancel_futures=True)

    async def read_json(self, request: Request) -> Any:
        """A body of JSON.

        Raises:
            ProblemError: it is none.
        """
        return _parse_json(await self._read_body(request))

    async def load_text(self, text: str) -> bytes:
        """The image that a text is, or leads to.

        Raises:
            ProblemError: it is none.
        """
        return await self._load_source(text)

    async def _load_or_problem(self, source: str | bytes) -> bytes | ProblemError:
        try:
            return await self._load_source(source)
        except ProblemError as problem:
            return problem

    async def _parse_sources(self, request: Request, *, require_list: bool) -> list[str | bytes]:
        """The images; of JSON, ``require_list`` in an array, or one or several."""
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type == "multipart/form-data":
            return await self._parse_form(request)
        body = await self._read_body(request)
        if not body:
            raise ProblemError(422, "no-image", NO_IMAGE_MESSAGE)
        if content_type != "application/json" and not content_type.endswith("+json"):
            return [body]
        payload = _parse_json(body)
        data = payload.get("data") if isinstance(payload, dict) else None
        texts = data if isinstance(data, list) or require_list else [data]
        if not isinstance(texts, list):
            raise ProblemError(422, "no-list", 'Send several images as {"data": [...]}.')
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise ProblemError(422, "no-image", NO_IMAGE_MESSAGE)
        return list(texts)

    async def _parse_form(self, request: Request) -> list[str | bytes]:
        parser = MultiPartParser(
            request.headers,
            self._stream(request),
            max_files=MAX_BATCH_IMAGES + 1,
            max_fields=MAX_BATCH_IMAGES + 1,
            max_part_size=self.max_image_bytes,
        )
        try:
            form = await parser.parse()
        except MultiPartException as error:
            if error.message.startswith("Too many"):
                raise ProblemError(422, "batch-size", f"{BATCH_SIZE_MESSAGE}.") from error
            raise ProblemError(400, "damaged-form", "The multipart body is damaged.") from error
        except (KeyError, ValueError, AttributeError) as error:
            raise ProblemError(400, "damaged-form", "The multipart body is damaged.") from error
        try:
            values = [value for _, value in form.multi_items()]
            files = [value_item for value_item in values if isinstance(value_item, UploadFile)]
            sources: list[str | bytes] = [await file.read() for file in files]
            if not sources:
                sources = [
                    value_item
                    for value_item in form.getlist(FORM_FIELD)
                    if isinstance(value_item, str) and value_item
                ]
        finally:
            await form.close()
        if not sources:
            raise ProblemError(422, "no-image", NO_IMAGE_MESSAGE)
        return sources

    async def _read_body(self, request: Request) -> bytes:
        body = bytearray()
        async for chunk in self._stream(request):
            body += chunk
        return bytes(body)

    async def _stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        """The body as it comes in, up to the limits."""
        content_length = request.headers.get("content-length", "")
        if content_length.isdigit() and int(content_length) > self.max_request_bytes:
            raise self._too_large()
        size, chunks = 0, request.stream()
        try:
            async with asyncio.timeout(self.timeout_seconds):
                async for chunk in chunks:
                    size += len(chunk)
                    if size > self.max_request_bytes:
                        raise self._too_large()
                    yield chunk
        except TimeoutError as error:
            raise ProblemError(
                408,
                "slow-request",
                f"The request did not arrive within {self.timeout_seconds:g} seconds: send it again.",
                {"connection": "close"},
            ) from error
        except ClientDisconnect as error:
            raise ProblemError(400, "gone", "The request was cut off: send it again.") from error

    async def _load_source(self, source: str | bytes) -> bytes:
        try:
            content = (
                source if isinstance(source, bytes) else await self._resolve_text(source.strip())
            )
        except ImageError as error:
            raise unreadable_image(error) from error
        if len(content) > self.max_image_bytes:
            limit = f"over {self.max_image_bytes:,} bytes"
            raise unreadable_image(ImageError("image file is too large", limit))
        return content

    async def _resolve_text(self, text: str) -> bytes:
        if not text.isascii() and _has_surrogate(text):
            raise ProblemError(422, "no-image", NO_IMAGE_MESSAGE)
        scheme = text[:8].lower()
        if scheme.startswith("data:"):
            return decode_data_uri(text, self.max_image_bytes)
        if scheme.startswith(("http://", "https://")):
            if self.web is None:
                raise ProblemError(
                    422,
                    "addresses-off",
                    "Addresses are not fetched here: send the image itself, or let the operator "
                    "set PRELABEL_FETCH_URLS=1.",
                )
            return await self._fetch_image(self.web, text)
        try:
            return base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ProblemError(422, "no-image", NO_IMAGE_MESSAGE) from error

    async def _fetch_image(self, web: WebFetcher, address: str) -> bytes:
        """The image at an address; waits no longer than allowed, also for a look-up or a thread."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.timeout_seconds):
                return await loop.run_in_executor(self.fetch_executor, web.fetch, address)
        except TimeoutError as error:
            raise ImageError("image did not arrive in time", redact_url(address)) from error

    def _too_large(self) -> ProblemError:
        return ProblemError(
            413,
            "too-large",
            f"A request may have {self.max_request_bytes:,} bytes: send fewer or smaller images.",
            {"connection": "close"},
        )


def _has_surrogate(text: str) -> bool:
    """Whether half a character is in it, which JSON can write and nothing else can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _parse_json(body: bytes) -> Any:
    _check_value_count(body)
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProblemError(400, "no-json", "The body is no JSON.") from error


def _check_value_count(body: bytes) -> None:
    """Count values without parsing them: each comes after a comma or a bracket that opens.

    Raises:
        ProblemError: there are more than any request needs.
    """
    count = 0
    for start in range(0, len(body), COUNT_CHUNK_BYTES):
        count += sum(
            body.count(delimiter, start, start + COUNT_CHUNK_BYTES)
            for delimiter in (b",", b"[", b"{")
        )
        if count > MAX_JSON_VALUES:
            raise ProblemError(
                413,
                "too-many-values",
                f"The JSON of a request may have {MAX_JSON_VALUES:,} values: send images as base64 "
                "text, not as lists of numbers.",
            )
