"""Read the images of a request: multipart form, raw bytes, base64, data URI or URL.

A request that exceeds the size limit or the time limit is aborted.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from backend.endpoint.problems import ProblemError, unreadable_image
from backend.errors import ImageError
from backend.label_studio.image_fetcher import decode_data_uri
from backend.web_fetcher import WebFetcher, redact_url

MAX_BATCH_IMAGES = 64
BATCH_SIZE_MESSAGE = f"Send 1 to {MAX_BATCH_IMAGES} images"
FETCH_THREAD_COUNT = 8
"""Maximum number of concurrent URL fetches; they have their own threads, so that slow servers do
not delay other requests."""
FORM_FIELD = "data"
MAX_JSON_VALUES = 200_000
"""Maximum number of values in a JSON body. The largest valid body is a correction of 10,000 objects
with a box and a center: 10 commas and brackets each. A value may take 100 bytes of memory."""
COUNT_CHUNK_BYTES = 1 << 20
"""Chunk size for counting values; counting stops at the first chunk over the limit."""
NO_IMAGE_MESSAGE = (
    "The request has no image: send its bytes as the body, as a file in multipart/form-data, or "
    'as JSON {"data": "<base64, data URI or https URL>"}.'
)


@dataclass(frozen=True)
class RequestReader:
    """Read the bodies of requests.

    Attributes:
        max_request_bytes: size limit of a request.
        max_image_bytes: size limit of an image.
        timeout_seconds: time limit for receiving a body or fetching a URL.
        web: fetches URLs; None to reject them.
        fetch_executor: threads that fetch URLs.
    """

    max_request_bytes: int
    max_image_bytes: int
    timeout_seconds: float
    web: WebFetcher | None
    fetch_executor: Executor = field(
        default_factory=lambda: ThreadPoolExecutor(FETCH_THREAD_COUNT, "fetching")
    )

    async def read_image(self, request: Request) -> bytes:
        """Return the image of a request.

        Raises:
            ProblemError: the request has no image or several, or it is too large.
        """
        sources = await self._parse_sources(request, require_list=False)
        if len(sources) != 1:
            raise ProblemError(422, "one-image", "Send one image, or several to …/invoke-batch.")
        return await self._load_source(sources[0])

    async def read_sources(self, request: Request) -> list[str | bytes]:
        """Return the images of a request in order, as bytes or as base64, data URI or URL.

        Raises:
            ProblemError: the request has no image or too many, or it is too large.
        """
        sources = await self._parse_sources(request, require_list=True)
        if not 1 <= len(sources) <= MAX_BATCH_IMAGES:
            raise ProblemError(422, "batch-size", f"{BATCH_SIZE_MESSAGE}, not {len(sources)}.")
        return sources

    async def load_images(self, sources: Sequence[str | bytes]) -> list[bytes | ProblemError]:
        """Return the bytes of each image, or the error why it cannot be loaded."""
        return list(await asyncio.gather(*(self._load_or_problem(source) for source in sources)))

    def stop(self) -> None:
        """Shut down the threads that fetch URLs."""
        self.fetch_executor.shutdown(wait=False, cancel_futures=True)

    async def read_json(self, request: Request) -> object:
        """Return the JSON of a request.

        Raises:
            ProblemError: the body is not JSON, or too large.
        """
        return _parse_json(await self._read_body(request))

    async def load_text(self, text: str) -> bytes:
        """Return the bytes of an image that is given as base64, data URI or URL.

        Raises:
            ProblemError: the image cannot be loaded.
        """
        return await self._load_source(text)

    async def _load_or_problem(self, source: str | bytes) -> bytes | ProblemError:
        try:
            return await self._load_source(source)
        except ProblemError as problem:
            return problem

    async def _parse_sources(self, request: Request, *, require_list: bool) -> list[str | bytes]:
        """Return the images of a body; with ``require_list`` they must be an array in JSON."""
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
        except (MultiPartException, KeyError, ValueError, AttributeError) as error:
            if isinstance(error, MultiPartException) and error.message.startswith("Too many"):
                raise ProblemError(422, "batch-size", f"{BATCH_SIZE_MESSAGE}.") from error
            raise ProblemError(400, "damaged-form", "The multipart body is damaged.") from error
        try:
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            texts = [value for value in form.getlist(FORM_FIELD) if isinstance(value, str)]
            sources: list[str | bytes] = [await file.read() for file in files]
            sources = sources or [text for text in texts if text]
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
        """Yield the body as it arrives, up to the size and time limits."""
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
                f"The request took longer than {self.timeout_seconds:g} seconds: send it again.",
                {"connection": "close"},
            ) from error
        except ClientDisconnect as error:
            raise ProblemError(400, "gone", "The request was incomplete: send it again.") from error

    async def _load_source(self, source: str | bytes) -> bytes:
        try:
            content = source if isinstance(source, bytes) else await self._load_text(source.strip())
            if len(content) > self.max_image_bytes:
                limit = f"over {self.max_image_bytes:,} bytes"
                raise ImageError("image file is too large", limit)
        except ImageError as error:
            raise unreadable_image(error) from error
        return content

    async def _load_text(self, text: str) -> bytes:
        if not text.isascii() and text != text.encode("utf-8", "replace").decode():
            raise ProblemError(422, "no-image", NO_IMAGE_MESSAGE)  # JSON may have lone surrogates
        scheme = text[:8].lower()
        if scheme.startswith("data:"):
            return decode_data_uri(text, self.max_image_bytes)
        if scheme.startswith(("http://", "https://")):
            if self.web is None:
                raise ProblemError(
                    422,
                    "addresses-off",
                    "This endpoint does not fetch URLs: send the image itself, or ask the operator "
                    "to set PRELABEL_FETCH_URLS=1.",
                )
            return await self._fetch_image(self.web, text)
        try:
            return base64.b64decode("".join(text.split()), validate=True)
        except ValueError as error:
            raise ProblemError(422, "no-image", NO_IMAGE_MESSAGE) from error

    async def _fetch_image(self, web: WebFetcher, url: str) -> bytes:
        """Return the image at a URL; the time limit includes the wait for a thread."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.timeout_seconds):
                return await loop.run_in_executor(self.fetch_executor, web.fetch, url)
        except TimeoutError as error:
            raise ImageError("image download timed out", redact_url(url)) from error

    def _too_large(self) -> ProblemError:
        return ProblemError(
            413,
            "too-large",
            f"A request may have at most {self.max_request_bytes:,} bytes: send fewer or smaller "
            "images.",
            {"connection": "close"},
        )


def _parse_json(body: bytes) -> object:
    _check_value_count(body)
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProblemError(400, "no-json", "The body is not valid JSON.") from error
    return value


def _check_value_count(body: bytes) -> None:
    """Check the number of values in JSON without parsing it, by counting commas and brackets.

    Raises:
        ProblemError: it exceeds ``MAX_JSON_VALUES``.
    """
    count = 0
    for start in range(0, len(body), COUNT_CHUNK_BYTES):
        end = start + COUNT_CHUNK_BYTES
        count += sum(body.count(delimiter, start, end) for delimiter in (b",", b"[", b"{"))
        if count > MAX_JSON_VALUES:
            raise ProblemError(
                413,
                "too-many-values",
                f"A JSON body may have at most {MAX_JSON_VALUES:,} values: send images as base64, "
                "not as lists of numbers.",
            )
