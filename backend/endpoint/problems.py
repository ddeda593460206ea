"""Error responses as problem JSON (RFC 9457), without internal details."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

from backend.errors import ImageError, PrelabelError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from pydantic_core import ErrorDetails
    from starlette.requests import Request
    from starlette.responses import Response

log = logging.getLogger("prelabel")
MEDIA_TYPE = "application/problem+json"
STATUS_BY_REASON = {
    "not an image": 415,
    "SVG drawing": 415,
    "too many pixels": 413,
    "image file is too large": 413,
}
"""HTTP status by ``ImageError.reason``; 422 for other reasons."""


class ProblemError(Exception):
    """An error response.

    Attributes:
        status: HTTP status.
        kind: short name of the error, the last part of its ``type``.
        detail: what is wrong and how to fix it, in one sentence.
        headers: additional response headers.
    """

    def __init__(
        self, status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None
    ) -> None:
        detail = detail.encode("utf-8", "replace").decode()  # callers may send lone surrogates
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})

    def to_json(self, request_id: str) -> dict[str, object]:
        """Return the body of the response."""
        return {
            "type": f"urn:prelabel:{self.kind}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "requestId": request_id,
        }


def unreadable_image(error: ImageError) -> ProblemError:
    """Return the error response for an image that cannot be read."""
    status = STATUS_BY_REASON.get(error.reason, 422)
    detail = str(error).removesuffix(".")
    return ProblemError(status, "unreadable-image", f"The image cannot be used: {detail}.")


def invalid_value(error: ErrorDetails, kind: str) -> ProblemError:
    """Return the error response for a parameter or body that pydantic rejects."""
    location = ".".join(str(p) for p in error["loc"] if p not in ("query", "path", "body"))
    return ProblemError(422, kind, f"{location or 'The body'}: {error['msg']}.")


def add_error_handlers(app: FastAPI) -> None:
    """Register handlers that return all errors of an application as problem JSON."""
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    for error_class in (ProblemError, HTTPException, RequestValidationError, PrelabelError):
        app.add_exception_handler(error_class, handle_error)


async def handle_error(request: Request, error: Exception) -> Response:
    """Return the response to a request that raised an error."""
    from starlette.responses import JSONResponse

    request_id = str(request.state.request_id)
    problem = _to_problem(error, request_id)
    body = problem.to_json(request_id)
    return JSONResponse(body, problem.status, headers=problem.headers, media_type=MEDIA_TYPE)


def _to_problem(error: Exception, request_id: str) -> ProblemError:
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    if isinstance(error, ProblemError):
        return error
    if isinstance(error, RequestValidationError):
        return invalid_value(error.errors()[0], "bad-parameter")
    if isinstance(error, HTTPException):
        kinds = {404: "no-such-address", 405: "no-such-method"}
        kind = kinds.get(error.status_code, "bad-request")
        detail = f"{error.detail}: see /openapi.json."
        return ProblemError(error.status_code, kind, detail, error.headers)
    log.error("Request %s failed", request_id, exc_info=error)
    message = f"Internal error: the operator can find it in the log as request {request_id}."
    return ProblemError(500, "failure", message)
