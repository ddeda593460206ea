"""What Label Studio answers when it refuses, as one sentence that says what to do."""

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
"""What Label Studio says of addresses that it may not call; with the status of a wrong token."""
SSRF_SETTINGS_FIX = "start it with ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false."
TOKEN_PAGE = "Account & Settings → Personal Access Token"  # noqa: S105 - the name of a page


def parse_json(response: Any, server: str) -> Any:
    """What a response holds; nothing where it is empty.

    Raises:
        LabelStudioError: it is no JSON, so that something else answered.
    """
    if response.status_code == 204 or not response.content:
        return {}
    try:
        return response.json()
    except ValueError as error:
        raise not_label_studio(server) from error


def not_label_studio(server: str) -> LabelStudioError:
    """Something else is there, or a page of Label Studio was taken for its address."""
    return LabelStudioError(
        f"{server} does not answer like Label Studio: set LABEL_STUDIO_URL to its own address, "
        "such as http://localhost:8080, without the path of a page."
    )


def api_error(server: str, request: str, status: int, body: Any) -> LabelStudioError:
    """A refusal."""
    error = _classify_error(server, request, status, body)
    error.status = status
    return error


def _classify_error(server: str, request: str, status: int, body: Any) -> LabelStudioError:
    """A refusal as one sentence."""
    detail = _error_detail(body)
    if status == 403 and any(phrase in detail for phrase in REFUSED_ADDRESS_PHRASES):
        return PrivateAddressError(
            f"{server} blocks requests to private addresses: {SSRF_SETTINGS_FIX}"
        )
    if status in (401, 403):
        return AccessDeniedError(
            f"{server} refused the token ({detail}): copy one from its page “{TOKEN_PAGE}” "
            "into LABEL_STUDIO_API_KEY; a legacy token must be enabled for the organization."
        )
    if status == 404:
        return LabelStudioNotFoundError(f"{server} has no such thing ({request}: {detail}).")
    return LabelStudioError(f"{server} answered {request} with {status}: {detail}.")


def _error_detail(body: Any) -> str:
    """The telling part of an error's body, short, on one line."""
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except ValueError:
            body = "not JSON" if "<html" in body.lower() else body
    if isinstance(body, dict):
        body = body.get("validation_errors") or body.get("detail") or body
    detail = re.sub(
        r"<[^<>]*>", " ", _flatten_error(body)
    )  # Label Studio passes pages of others on
    return " ".join(detail.split())[:300].rstrip(".")


def _flatten_error(body: Any) -> str:
    """What errors say, without the brackets of JSON; a field's name stays before what is wrong."""
    if isinstance(body, dict):
        rows = ((key, _flatten_error(value)) for key, value in body.items())
        return "; ".join(
            text if key == "non_field_errors" else f"{key}: {text}" for key, text in rows
        )
    return "; ".join(map(_flatten_error, body)) if isinstance(body, list) else str(body)
