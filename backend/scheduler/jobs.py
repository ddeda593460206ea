"""The jobs that the scheduler sends to worker processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backend.json_records import JsonObject, from_json, to_json
from backend.records import RoundRequest


@dataclass(frozen=True)
class RoundJob:
    """Run a round. Result: a :class:`RoundOutcome` as JSON."""

    project: str
    request: RoundRequest


@dataclass(frozen=True)
class PublishJob:
    """Publish the live version while a round trains. Result: None."""

    project: str


@dataclass(frozen=True)
class CleanupJob:
    """Remove predictions of retired versions. Result: number of predictions left.

    Attributes:
        project: id of the project.
        seconds: time limit, so that other jobs are not blocked.
    """

    project: str
    seconds: float


@dataclass(frozen=True)
class LabelCheckJob:
    """Search for label errors. Result: number of suspected errors."""

    project: str


@dataclass(frozen=True)
class CaptureImportJob:
    """Import captured images as tasks, for ``seconds`` at most. Result: number of new tasks."""

    project: str
    seconds: float


@dataclass(frozen=True)
class PredictJob:
    """Process the ``/predict`` request in the frame's body. Result: ``ready``, whether there is a
    version; the frame's body is the response."""


@dataclass(frozen=True)
class WarmUpJob:
    """Load the models that smart tools need. Result: None."""

    project: str
    version: str


@dataclass(frozen=True)
class PreloadJob:
    """Load the live version, so that the first prediction is fast. Result: None."""

    project: str


@dataclass(frozen=True)
class TryJob:
    """Predict the image in the frame's body with the live version. Result: the endpoint's response
    as JSON."""

    project: str


@dataclass(frozen=True)
class ChangeLabelJob:
    """Change a label in Label Studio as a person asked. Result: ids of the changed annotations.

    Attributes:
        project: id of the project.
        task: id of the task.
        control: name of the control.
        given: the annotated label.
        suggested: the new label.
        annotations: ids of the only annotations to change; all of the task if empty.
    """

    project: str
    task: int
    control: str
    given: str
    suggested: str
    annotations: tuple[int, ...] = ()


ProjectJob = (
    RoundJob
    | PublishJob
    | CleanupJob
    | LabelCheckJob
    | CaptureImportJob
    | WarmUpJob
    | PreloadJob
    | TryJob
    | ChangeLabelJob
)
Job = ProjectJob | PredictJob
JOB_TYPES: dict[str, type[Job]] = {
    "round": RoundJob,
    "publish": PublishJob,
    "cleanup": CleanupJob,
    "label_check": LabelCheckJob,
    "capture_import": CaptureImportJob,
    "predict": PredictJob,
    "warm_up": WarmUpJob,
    "preload": PreloadJob,
    "try": TryJob,
    "change_label": ChangeLabelJob,
}
"""Job types by their name in a frame's header."""


def job_to_json(job: Job) -> JsonObject:
    """Return a job as fields of a frame's header."""
    name = next(name for name, kind in JOB_TYPES.items() if isinstance(job, kind))
    return {"job": name, **to_json(job)}


def job_from_json(header: dict[str, Any]) -> Job:
    """Return the job in a frame's header."""
    return from_json(JOB_TYPES[header["job"]], header)
