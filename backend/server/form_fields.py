"""Read the fields of the dashboard's forms."""

from __future__ import annotations

from urllib.parse import parse_qs

from fastapi import Request

from backend.errors import UsageError
from backend.store.label_answers import LabelAnswer

MAX_FORM_BYTES = 65_536
LEAVE_OUT = "leave"
RENAME_PREFIX = "to "
"""Before the label in the field ``new``; a label may be named ``leave``."""


async def read_label_answer(request: Request) -> LabelAnswer:
    """Return the decision about a removed label.

    Raises:
        UsageError: the form is too large, or a field is missing.
    """
    fields = await _read_fields(request)
    control, label, new = (fields.get(name, "") for name in ("control", "label", "new"))
    if not label or not (new == LEAVE_OUT or new.startswith(RENAME_PREFIX)):
        raise UsageError("Choose what happens to the annotations with the label.")
    return LabelAnswer(control, label, "" if new == LEAVE_OUT else new.removeprefix(RENAME_PREFIX))


async def _read_fields(request: Request) -> dict[str, str]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise UsageError("The form is too large.")
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, errors="strict")
    except ValueError as error:
        raise UsageError("The form cannot be read.") from error
    return {name: values[-1] for name, values in fields.items()}
