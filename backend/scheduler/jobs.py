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
class CleanupJob:
    """Remove predictions of retired versions. Result: number of predictions left.

    Attributes:
        project: id of the project.
        seconds: time limit, so that other jobs get their turn.
    """

    project: str
    seconds: float


@dataclass(frozen=True)
class LabelCheckJob:
    """Search the labels for errors. Result: number of suspects."""

    project: str


@dataclass(frozen=True)
class CaptureImportJob:
    """Import captured images as tasks. Result: number of new tasks; ``seconds`` as above."""

    project: str
    seconds: float


@dataclass(frozen=True)
class PredictJob:
    """Answer the ``/predict`` request in the frame's body. Result: whether a version is ready."""


@dataclass(frozen=True)
class WarmUpJob:
    """Load the models that smart tools need. Result: None."""

    project: str
    version: str


ProjectJob = RoundJob | CleanupJob | LabelCheckJob | CaptureImportJob | WarmUpJob
Job = ProjectJob | PredictJob
JOB_TYPES: dict[str, type[Job]] = {
    "round": RoundJob,
    "cleanup": CleanupJob,
    "label_check": LabelCheckJob,
    "capture_import": CaptureImportJob,
    "predict": PredictJob,
    "warm_up": WarmUpJob,
}
"""By the name that a frame's header carries."""


def job_to_json(job: Job) -> JsonObject:
    """Return a job as part of a frame's header."""
    name = next(name for name, kind in JOB_TYPES.items() if isinstance(job, kind))
    return {"job": name, **to_json(job)}


def job_from_json(header: dict[str, Any]) -> Job:
    """Read the job from a frame's header."""
    return from_json(JOB_TYPES[header["job"]], header)
