"""Parse the requests that Label Studio sends to an ML backend, and format responses.

Request bodies are untrusted. A webhook only triggers a check for changes; its content is not used
as data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from backend.errors import UsageError
from backend.label_studio import Json
from backend.label_studio.json_values import read_object, read_objects, read_strings
from backend.server_url import normalize_server_url

ControlLabel = tuple[str, str]
"""Name of a control, and one of its labels."""
START_TRAINING = "START_TRAINING"
LABEL_EVENT_PREFIXES = ("ANNOTATION_", "ANNOTATIONS_")
FIRST_COUNTS = (None, 0, 1)
"""Numbers of annotations of a task, in an event about its first one; None if it is missing."""
CREATION_EVENTS = ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED")
MODEL_CLASS = "Prelabel"
NO_VERSION, SUGGESTION_VERSION = "unready", "suggestion"
"""``model_version`` of answers without a version: empty ones, and those of smart tools."""
PLACEHOLDER_VERSIONS = (NO_VERSION, SUGGESTION_VERSION)
MAX_ID = 2**63 - 1
"""Largest id that Label Studio's databases can hold."""


class SetupRequest(BaseModel):
    """The body of ``/setup``."""

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)

    project: str
    hostname: Annotated[str, AfterValidator(normalize_server_url)] = ""
    access_token: str = Field(default="", pattern=r"^[!-~]*$")
    label_config: str = Field(default="", alias="schema")


class PredictedTask(BaseModel):
    """A task of a ``/predict`` request."""

    model_config = ConfigDict(extra="allow")

    id: int = Field(ge=0, le=MAX_ID, strict=True)
    data: dict[str, object] | None = None


class PredictParams(BaseModel):
    """The parameters of a ``/predict`` request; ``context`` holds what a smart tool drew."""

    model_config = ConfigDict(extra="allow")

    context: dict[str, object] | None = None


class PredictRequest(BaseModel):
    """The body of ``/predict``; other fields are kept."""

    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True)

    tasks: list[PredictedTask] | None = None
    project: str | None = None
    label_config: str | None = None
    params: PredictParams | None = None


@dataclass(frozen=True)
class WebhookEvent:
    """The content of a webhook.

    Attributes:
        project: Label Studio's JSON of the project; None if the body has none.
        is_training_requested: whether somebody pressed Start Training.
        annotation_count: number of annotations that may have changed.
        labeled_tasks: id of each task that got its first annotation → control and label of its
            choices and regions.
    """

    project: dict[str, Any] | None
    is_training_requested: bool
    annotation_count: int
    labeled_tasks: Mapping[int, frozenset[ControlLabel]] = field(default_factory=dict)


def parse_event(body: bytes) -> WebhookEvent:
    """Parse the body of a webhook; an unreadable one is an event of an unknown project."""
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
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
        labeled_tasks=_newly_labeled_tasks(payload) if action in CREATION_EVENTS else {},
    )


def parse_setup(body: bytes) -> SetupRequest:
    """Parse the body of ``/setup``.

    Raises:
        UsageError: it cannot be read, or its server's address is invalid.
    """
    try:
        return SetupRequest.model_validate_json(body)
    except ValidationError as error:
        raise UsageError(f"/setup cannot be read: {_first_message(error)}.") from error


def parse_predict_request(body: bytes) -> dict[str, Any]:
    """Parse the body of ``/predict``; ``tasks`` of the result is a list, which may be empty.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        request: dict[str, Any] = json.loads(body)
        PredictRequest.model_validate(request)
    except ValidationError as error:
        raise UsageError(f"/predict cannot be read: {_first_message(error)}.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"/predict cannot be read: {error}.") from error
    return {**request, "tasks": request.get("tasks") or []}


def _first_message(error: ValidationError) -> str:
    """Return what is wrong with the first invalid field, without its value."""
    first = error.errors()[0]
    path = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{path}: {message}" if path else message


def parse_project(request: dict[str, Any]) -> tuple[int, int]:
    """Return the number of a request's project and when it was created; 0 where unknown.

    Label Studio sends them as ``"<number>.<seconds since 1970>"``.

    Example:
        >>> parse_project({"project": "7.1700000000"})
        (7, 1700000000)
    """
    number, _, created = str(request.get("project") or "").partition(".")
    tasks = request.get("tasks") or [{}]
    return parse_id(number) or parse_id(str(tasks[0].get("project") or "")), parse_id(created)


def parse_id(text: str) -> int:
    """Return an id or another number of Label Studio's; 0 if the text is none.

    Example:
        >>> parse_id("7"), parse_id("²"), parse_id("9" * 5000)
        (7, 0, 0)
    """
    number = int(text) if re.fullmatch("[0-9]{1,19}", text) else 0
    return number if number <= MAX_ID else 0


def empty_response(tasks: Sequence[Any], version: str) -> dict[str, Any]:
    """Return the ``/predict`` response without a model: one empty result per task."""
    result = {"result": [], "score": 0.0, "model_version": version}
    return {"results": [result for _ in tasks], "model_version": version}


def _newly_labeled_tasks(payload: dict[str, Any]) -> dict[int, frozenset[ControlLabel]]:
    """Return the labels of each task to which a person gave its first annotation.

    Skips do not count, nor what a program submitted as another user, such as auto-accept.
    """
    annotations, tasks = (
        read_objects({"rows": rows if isinstance(rows, list) else [rows]}, "rows")
        for rows in (payload.get("annotation"), payload.get("task"))
    )
    labeled_before = [
        task.get("id") for task in tasks if task.get("total_annotations") not in FIRST_COUNTS
    ]
    return {
        id: _annotated_labels(annotation)
        for annotation in annotations
        if not annotation.get("was_cancelled")
        and annotation.get("updated_by") in (None, annotation.get("completed_by"))
        and isinstance(id := annotation.get("task"), int)
        and id not in labeled_before
    }


def _annotated_labels(annotation: Json) -> frozenset[ControlLabel]:
    """Return control and label of each choice and region of an annotation."""
    return frozenset(
        (str(region.get("from_name")), label)
        for region in read_objects(annotation, "result")
        for label in read_strings(read_object(region, "value"), str(region.get("type")))
    )


def _count_annotations(payload: dict[str, Any]) -> int:
    for key in ("annotation", "annotations"):
        if isinstance(payload.get(key), list):
            return len(payload[key])
    return 1
