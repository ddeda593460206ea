"""Convert Label Studio's error responses to exceptions whose message is one sentence with a fix."""

from __future__ import annotations

import json
import re
from typing import Any

from backend.errors import (
    AccessDeniedError,
    LabelStudioError,
    LabelStudioNotFoundError,
    PrivateAddressError,
)

REFUSED_ADDRESS_PHRASES = ("URL was not allowed", "reserved network address")
"""Mark a refusal to call a private address, which has the same status as one of a wrong token."""
SSRF_SWITCHES_OFF = "ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false"
SSRF_SETTINGS_FIX = f"start it with {SSRF_SWITCHES_OFF}."
TOKEN_PAGE = "Account & Settings → Personal Access Token"  # noqa: S105 - the name of a page


def parse_json(response: Any, server: str) -> Any:
    """Return the JSON of a response; ``{}`` for an empty body.

    Raises:
        LabelStudioError: the body is not JSON, so another service answered.
    """
    if response.status_code == 204 or not response.content:
        return {}
    try:
        return response.json()
    except ValueError as error:
        raise not_label_studio(server) from error


def not_label_studio(server: str) -> LabelStudioError:
    """Return the error for an address of another service, or of one page of Label Studio."""
    return LabelStudioError(
        f"{server} does not answer like Label Studio: run `prelabel login` with its base "
        "address, such as http://localhost:8080, without the path of a page, or set "
        "LABEL_STUDIO_URL."
    )


def api_error(server: str, request: str, status: int, body: Any) -> LabelStudioError:
    """Return the exception for an error response."""
    error = _classify_error(server, request, status, body)
    error.status = status
    return error


def _classify_error(server: str, request: str, status: int, body: Any) -> LabelStudioError:
    detail = _error_detail(body)
    if status == 403 and any(phrase in detail for phrase in REFUSED_ADDRESS_PHRASES):
        return PrivateAddressError(
            f"{server} blocks requests to private addresses: {SSRF_SETTINGS_FIX}"
        )
    if status in (401, 403):
        return AccessDeniedError(
            f"{server} refused the token ({detail}): copy one from its page “{TOKEN_PAGE}” and run "
            "`prelabel login`; a running backend then continues. A legacy token works only if the "
            "organization allows it."
        )
    if status == 404:
        return LabelStudioNotFoundError(f"{server} answered {request} with 404: {detail}.")
    return LabelStudioError(f"{server} answered {request} with {status}: {detail}.")


def _error_detail(body: Any) -> str:
    """Return the message of an error response on one line, at most 300 characters."""
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except ValueError:
            body = "not JSON" if "<html" in body.lower() else body
    if isinstance(body, dict):
        body = body.get("validation_errors") or body.get("detail") or body
    # Label Studio forwards error pages of other servers
    detail = re.sub(r"<[^<>]*>", " ", _flatten_error(body))
    return " ".join(detail.split())[:300].rstrip(".")


def _flatten_error(body: Any) -> str:
    """Join nested error messages as ``field: message; …``."""
    if isinstance(body, dict):
        rows = ((key, _flatten_error(value)) for key, value in body.items())
        return "; ".join(
            text if key == "non_field_errors" else f"{key}: {text}" for key, text in rows
        )
    return "; ".join(map(_flatten_error, body)) if isinstance(body, list) else str(body)
