"""What Label Studio answers when it refuses, as one sentence that says what to do."""

from __future__ import annotations

import json
import re
from typing import Any

from backend.errors import AddressRefused, LabelStudioError, NotAllowed, NotInLabelStudio

ADDRESS = ("URL was not allowed", "reserved network address")
"""What Label Studio says of addresses that it may not call; with the status of a wrong token."""
SWITCHES = "start it with ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false."
TOKEN_PAGE = "Account & Settings → Personal Access Token"  # noqa: S105 - the name of a page


def json_of(response: Any, server: str) -> Any:
    """What a response holds; nothing where it is empty.

    Raises:
        LabelStudioError: it is no JSON, so that something else answered.
    """
    if response.status_code == 204 or not response.content:
        return {}
    try:
        return response.json()
    except ValueError as error:
        raise stranger(server) from error


def stranger(server: str) -> LabelStudioError:
    """Something else is there, or a page of Label Studio was taken for its address."""
    return LabelStudioError(
        f"{server} does not answer like Label Studio: set LABEL_STUDIO_URL to its own address, "
        "such as http://localhost:8080, without the path of a page."
    )


def refused(server: str, what: str, status: int, body: Any) -> LabelStudioError:
    """A refusal."""
    error = _sentence(server, what, status, body)
    error.status = status
    return error


def _sentence(server: str, what: str, status: int, body: Any) -> LabelStudioError:
    """A refusal as one sentence."""
    detail = _detail(body)
    if status == 403 and any(words in detail for words in ADDRESS):
        return AddressRefused(f"{server} calls no private addresses: {SWITCHES}")
    if status in (401, 403):
        return NotAllowed(
            f"{server} refused the token ({detail}): copy one from its page “{TOKEN_PAGE}” "
            "into LABEL_STUDIO_API_KEY; a legacy token must be enabled for the organization."
        )
    if status == 404:
        return NotInLabelStudio(f"{server} has no such thing ({what}: {detail}).")
    return LabelStudioError(f"{server} answered {what} with {status}: {detail}.")


def _detail(body: Any) -> str:
    """The telling part of an error's body, short, on one line."""
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except ValueError:
            body = "not JSON" if "<html" in body.lower() else body
    if isinstance(body, dict):
        body = body.get("validation_errors") or body.get("detail") or body
    told = re.sub(r"<[^<>]*>", " ", _plain(body))  # Label Studio passes pages of others on
    return " ".join(told.split())[:300].rstrip(".")


def _plain(body: Any) -> str:
    """What errors say, without the brackets of JSON; a field's name stays before what is wrong."""
    if isinstance(body, dict):
        rows = ((key, _plain(value)) for key, value in body.items())
        return "; ".join(
            text if key == "non_field_errors" else f"{key}: {text}" for key, text in rows
        )
    return "; ".join(map(_plain, body)) if isinstance(body, list) else str(body)
