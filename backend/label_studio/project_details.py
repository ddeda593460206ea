"""Types of a project, its counters, and its ML backends in Label Studio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict


class ProjectDetails(TypedDict, total=False):
    """The fields of Label Studio's JSON of a project that Prelabel reads."""

    id: int
    title: str
    description: str | None
    created_at: str
    label_config: str
    sampling: str
    model_version: str | None
    show_collab_predictions: bool
    task_number: int
    num_tasks_with_annotations: int


class ProjectCounters(TypedDict, total=False):
    """The counters of a project that Prelabel reads."""

    task_number: int
    total_annotations_number: int
    skipped_annotations_number: int
    total_predictions_number: int


@dataclass(frozen=True)
class BackendConnection:
    """An ML backend that a project is connected to.

    Attributes:
        url: address at which Label Studio calls it; may contain the webhook secret.
        state: result of the last call by Label Studio, such as ``CO`` (connected).
        error: error message of that call.
        id: id of the connection.
        is_interactive: whether smart tools call it.
    """

    url: str
    state: str
    error: str
    id: int = 0
    is_interactive: bool = False
