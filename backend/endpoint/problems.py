"""Errors as problem JSON (RFC 9457): one sentence that says what to do, nothing of the inside."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from backend.errors import ImageError

MEDIA_TYPE = "application/problem+json"
STATUS_BY_REASON = {
    "not an image": 415,
    "too many pixels": 413,
    "image file is too large": 413,
}
"""Status by the reason why an image cannot be read; 422 for all others."""


class ProblemError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: of the response.
        kind: short name of the kind of error, the last part of its ``type``.
        detail: one sentence that says what to do.
        headers: of the response.
    """

    def __init__(
        self, status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None
    ) -> None:
        detail = detail.encode("utf-8", "replace").decode()  # callers may send half characters
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})

    def to_json(self, request_id: str) -> dict[str, Any]:
        """As a response's body.

        Args:
            request_id: the request's id.
        """
        return {
            "type": f"urn:prelabel:{self.kind}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "requestId": request_id,
        }


def unreadable_image(error: ImageError) -> ProblemError:
    """An image that cannot be read, as a problem."""
    text = str(error)
    return ProblemError(
        STATUS_BY_REASON.get(error.reason, 422),
        "unreadable-image",
        f"The image cannot be used: {text}{'' if text.endswith('.') else '.'}",
    )
