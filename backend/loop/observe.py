"""What Label Studio holds right now: a cheap pulse, and the whole."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from backend.domain import Control, Task
from backend.label_studio import Json
from backend.label_studio.labeling_config import LabelingConfig, read_config
from backend.label_studio.task_results import parse_task
from backend.learning.audit import is_audit
from backend.runtime.connection import Connection
from backend.store.files import read_json, write_json

RANDOM_CAPTURE = "random"
"""Why the endpoint kept an image that it kept for no other reason."""


@dataclass(frozen=True)
class ProjectFingerprint:
    """A few numbers that are equal as long as nothing changed. Three quick calls.

    Attributes:
        config_hash: hash of the labeling config.
        task_count: how many tasks.
        annotation_count: how many annotations, skipped ones too.
        last_change: when a task or annotation was last touched.
        model_version: the version that the project's queue follows.
        sampling: how the project picks the next task.
        title: the project's.
        skip_count: how many of the annotations say that somebody skipped a task.
    """

    config_hash: str
    task_count: int
    annotation_count: int
    last_change: str
    model_version: str = field(compare=False)
    sampling: str = field(compare=False)
    title: str = field(compare=False)
    config_xml: str = field(compare=False, repr=False)
    skip_count: int = 0


@dataclass(frozen=True)
class Observation:
    """Everything a round needs to know of a project.

    Attributes:
        fingerprint: as the lists show it, so that what changes meanwhile is seen next time.
        identity: tells the project from all others, for ever.
        config: the served controls and the reasons for the others.
        tasks: all tasks.
        left_out: what is not used, counted by reason.
    """

    fingerprint: ProjectFingerprint
    identity: str
    config: LabelingConfig
    tasks: tuple[Task, ...]
    left_out: Counter[str]

    @property
    def controls(self) -> Mapping[str, Control]:
        """The served controls by name."""
        return {control.name: control for control in self.config.controls}

    @property
    def labeled(self) -> tuple[Task, ...]:
        """The tasks that a person answered."""
        return tuple(task for task in self.tasks if task.labeled)

    def is_audit(self, task: Task) -> bool:
        """Whether a task belongs to the audit slice.

        What the endpoint kept because it was hard or rare is no fair sample of anything.
        """
        return task.capture_reason in ("", RANDOM_CAPTURE) and is_audit(self.identity, task.id)


def fetch_fingerprint(connection: Connection) -> ProjectFingerprint:
    """Ask Label Studio for the few numbers that tell whether anything changed."""
    project = connection.client.get_project(connection.project_number)
    counts = connection.client.get_counters(connection.project_number)
    xml = str(project.get("label_config") or "")
    skipped = int(counts.get("skipped_annotations_number") or 0)
    return ProjectFingerprint(
        config_hash=hashlib.sha256(xml.encode()).hexdigest(),
        task_count=int(counts.get("task_number") or 0),
        annotation_count=int(counts.get("total_annotations_number") or 0) + skipped,
        last_change=connection.client.last_updated_at(connection.project_number),
        model_version=str(project.get("model_version") or ""),
        sampling=str(project.get("sampling") or ""),
        title=str(project.get("title") or ""),
        config_xml=xml,
        skip_count=skipped,
    )


def observe(connection: Connection, folder: Path, fingerprint: ProjectFingerprint) -> Observation:
    """List everything.

    Args:
        connection: the project.
        folder: the project's, where it is kept when labels came into the config.
        fingerprint: just taken.

    Raises:
        ConfigError: the labeling config is no XML.
        LabelStudioError: Label Studio refused or went away.
    """
    config = read_config(fingerprint.config_xml)
    label_times = _label_first_seen(folder, config)
    left_out: Counter[str] = Counter(
        f"control {name} ({reason})" for name, reason in config.unserved.items()
    )
    rows = list(connection.client.iter_tasks(connection.project_number))
    annotations = connection.client.annotations_by_task(connection.project_number)
    machine_user = (
        connection.client.find_machine_user()
    )  # by its address: a lost home loses nothing
    tasks = tuple(
        _parse_task(row, annotations, config, label_times, left_out, machine_user) for row in rows
    )
    listed_fingerprint = _fingerprint_from_rows(fingerprint, rows, annotations)
    return Observation(
        listed_fingerprint, connection.record.audit_identity, config, tasks, left_out
    )


def _fingerprint_from_rows(
    fingerprint: ProjectFingerprint, rows: Sequence[Json], annotations: Mapping[int, Sequence[Json]]
) -> ProjectFingerprint:
    """The pulse of what was listed: tasks first, so that a later edit is newer than all of them."""
    return replace(
        fingerprint,
        task_count=len(rows),
        annotation_count=sum(map(len, annotations.values())),
        skip_count=sum(bool(a.get("was_cancelled")) for rows in annotations.values() for a in rows),
        last_change=max((str(row["updated_at"]) for row in rows), default=""),
    )


def _parse_task(
    row: Json,
    annotations: Mapping[int, list[Json]],
    config: LabelingConfig,
    label_times: Mapping[str, Mapping[str, str]],
    left_out: Counter[str],
    machine_user: int,
) -> Task:
    row = {**row, "annotations": annotations.get(row["id"], [])}
    return parse_task(row, config.controls, label_times, left_out, machine_user)


def _label_first_seen(folder: Path, config: LabelingConfig) -> dict[str, dict[str, str]]:
    """When each label was first seen in the config; empty for those of the project's first sight.

    An answer that is older than a label says nothing about that label.
    """
    file = folder / "label_times.json"
    stored: dict[str, dict[str, str]] = read_json(file) or {}
    times = {name: dict(labels) for name, labels in stored.items()}
    now = datetime.now(UTC).isoformat()
    for control in config.controls:
        control_times = times.setdefault(control.name, {})
        default_time = now if stored else ""
        for name in control.label_names:
            control_times.setdefault(name, default_time)
    if times != stored:
        write_json(file, times)
    return times
