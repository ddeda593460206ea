"""Parse the requests that Label Studio sends to an ML backend, and format responses.

Request bodies are untrusted. A webhook only triggers a check for changes; its content is not used
as data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

START_TRAINING = "START_TRAINING"
LABEL_EVENT_PREFIXES = ("ANNOTATION_", "ANNOTATIONS_")
MODEL_CLASS = "Prelabel"


class SetupRequest(BaseModel):
    """The body of ``/setup``."""

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)

    project: str
    hostname: str = ""
    access_token: str = ""
    label_config: str = Field(default="", alias="schema")


@dataclass(frozen=True)
class WebhookEvent:
    """The content of a webhook.

    Attributes:
        project: Label Studio's JSON of the project; None if the body has none.
        is_training_requested: whether somebody pressed Start Training.
        annotation_count: number of annotations that may have changed.
    """

    project: dict[str, Any] | None
    is_training_requested: bool
    annotation_count: int


def parse_event(body: bytes) -> WebhookEvent:
    """Parse the body of a webhook; an unreadable one is an event of an unknown project."""
    try:
        payload = json.loads(body)
    except ValueError:
        payload = None
    if not isinstance(payload, dict):
        return WebhookEvent(None, is_training_requested=False, annotation_count=0)
    action = str(payload.get("action") or "")
    project = payload.get("project")
    return WebhookEvent(
        project if isinstance(project, dict) else None,
        is_training_requested=action == START_TRAINING,
        annotation_count=_count_annotations(payload)
        if action.startswith(LABEL_EVENT_PREFIXES)
        else 0,
    )


def parse_project(request: dict[str, Any]) -> tuple[int, int]:
    """Return the number of a request's project and when it was created; 0 where unknown.

    Label Studio sends them as ``"<number>.<seconds since 1970>"``.

    Example:
        >>> parse_project({"project": "7.1700000000"})
        (7, 1700000000)
    """
    number, _, created = str(request.get("project") or "").partition(".")
    tasks = request.get("tasks") or [{}]
    if not number.isdigit():
        number = str(tasks[0].get("project") or "")
    return (
        int(number) if number.isdigit() else 0,
        int(created) if created.isdigit() else 0,
    )


def empty_response(tasks: Sequence[Any], version: str) -> dict[str, Any]:
    """Return the ``/predict`` response without a model: one empty result per task."""
    result = {"result": [], "score": 0.0, "model_version": version}
    return {"results": [result for _ in tasks], "model_version": version}


def _count_annotations(payload: dict[str, Any]) -> int:
    for key in ("annotation", "annotations"):
        if isinstance(payload.get(key), list):
            return len(payload[key])
    return 1
