"""Read the bodies of requests, up to a size limit."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

FORM_OVERHEAD_BYTES = 10_000
"""Bytes of a form with one file besides the file."""
NO_FILE_MESSAGE = "Choose an image first."


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the body.

    Raises:
        HTTPException: the body is larger than ``max_bytes``.
    """
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > max_bytes:
            raise HTTPException(413, f"The body is larger than {max_bytes // 1_000_000} MB.")
        body += chunk
    return bytes(body)


def is_form(request: Request) -> bool:
    """Return whether the body is a form that a browser sends without JavaScript."""
    return request.headers.get("content-type", "").startswith("multipart/form-data")


async def read_file(request: Request, max_bytes: int) -> bytes:
    """Return the file of a form, or the whole body if it is not a form.

    Raises:
        HTTPException: the file is missing or larger than ``max_bytes``.
    """
    if not is_form(request):
        content = await read_body(request, max_bytes)
    else:
        body = await read_body(request, max_bytes + FORM_OVERHEAD_BYTES)
        content = await _parse_form(request, body)
    if not content:
        raise HTTPException(422, NO_FILE_MESSAGE)
    return content


async def _parse_form(request: Request, body: bytes) -> bytes:
    """Return the first file of a form; empty if there is none."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await MultiPartParser(request.headers, stream(), max_files=1, max_fields=1).parse()
    except (MultiPartException, KeyError, ValueError, AttributeError) as error:
        raise HTTPException(400, "The form is damaged.") from error
    try:
        files = [value for value in form.values() if isinstance(value, UploadFile)]
        return await files[0].read() if files else b""
    finally:
        await form.close()
