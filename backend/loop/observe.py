"""Observe a project: a cheap fingerprint to detect changes, and a snapshot of tasks and labels."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backend.domain import Control, Regions, Task
from backend.errors import DamagedFileError
from backend.label_studio import Json
from backend.label_studio.annotation_relabeling import count_removed_labels
from backend.label_studio.labeling_config import LabelingConfig, read_config
from backend.label_studio.task_results import parse_task
from backend.learning.audit import is_audit
from backend.records import RemovedLabel
from backend.runtime.connection import Connection
from backend.store.annotation_times import AnnotationTimes
from backend.store.record_files import (
    has_equal_copies,
    log_once,
    read_backed_up,
    write_backed_up,
)
from backend.store.versions import LabelSnapshot

log = logging.getLogger("prelabel")
LABEL_TIMES_FILE = "label_times.json"
RANDOM_CAPTURE = "random"
"""Capture reason of images that the endpoint sampled at random."""


@dataclass(frozen=True)
class ProjectFingerprint:
    """Values that change whenever the project changes, from three fast API calls.

    Attributes:
        config_hash: hash of the labeling config.
        task_count: number of tasks.
        annotation_count: number of annotations, including skips.
        last_change: time of the last update of a task or annotation, ISO 8601.
        model_version: the version by whose scores the project orders its queue.
        sampling: the project's task sampling setting.
        title: title of the project.
        config_xml: the labeling config.
        skip_count: number of skips.
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
    """A snapshot of a project.

    Attributes:
        fingerprint: fingerprint of the listed tasks; later changes give a different one.
        identity: stable id of the project, the seed of its audit set.
        config: the served controls, and the reasons why others are not served.
        tasks: all tasks.
        left_out: number of unused tasks, regions and controls, by reason.
        removed_labels: labels of annotations that the config no longer has.
    """

    fingerprint: ProjectFingerprint
    identity: str
    config: LabelingConfig
    tasks: tuple[Task, ...]
    left_out: Counter[str]
    removed_labels: tuple[RemovedLabel, ...] = ()

    @property
    def controls(self) -> Mapping[str, Control]:
        """The served controls by name."""
        return {control.name: control for control in self.config.controls}

    @property
    def labeled(self) -> tuple[Task, ...]:
        """The tasks that a person labeled."""
        return tuple(task for task in self.tasks if task.labeled)

    def is_audit(self, task: Task) -> bool:
        """Return whether a task belongs to the audit set.

        Images that were captured because they are uncertain or rare would bias it.
        """
        return is_audit_task(self.identity, task)


def is_audit_task(identity: str, task: Task) -> bool:
    """Return whether a task belongs to the audit set of the project with this identity."""
    return task.capture_reason in ("", RANDOM_CAPTURE) and is_audit(identity, task.id)


def fetch_fingerprint(connection: Connection) -> ProjectFingerprint:
    """Fetch the fingerprint of a project."""
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
    """Fetch all tasks and labels of a project.

    Args:
        connection: connection to the project.
        folder: the project's folder, which stores when each label was added to the config, and when
            people changed annotations that were renamed later.
        fingerprint: a fingerprint fetched just before.

    Raises:
        ConfigError: the labeling config is not XML.
        LabelStudioError: Label Studio rejected a request or is unreachable.
    """
    config = read_config(fingerprint.config_xml)
    label_times = _label_first_seen(folder, config)
    left_out: Counter[str] = Counter(
        f"control {name} ({reason})" for name, reason in config.unserved.items()
    )
    rows = list(connection.client.iter_tasks(connection.project_number))
    times = AnnotationTimes(folder)
    annotations = {
        task: times.restore(listed)
        for task, listed in connection.client.annotations_by_task(connection.project_number).items()
    }
    # found by its email address, which works even after the home folder was lost
    machine_user = connection.client.find_machine_user()
    tasks = tuple(
        read_task(
            {**row, "annotations": annotations.get(row["id"], [])},
            config,
            label_times,
            left_out,
            machine_user,
        )
        for row in rows
    )
    listed_fingerprint = _fingerprint_from_rows(fingerprint, rows, annotations)
    removed = count_removed_labels(itertools.chain(*annotations.values()), config.controls)
    return Observation(
        listed_fingerprint,
        connection.record.audit_identity,
        config,
        tasks,
        left_out,
        tuple(RemovedLabel(*name, count) for name, count in sorted(removed.items())),
    )


def _fingerprint_from_rows(
    fingerprint: ProjectFingerprint, rows: Sequence[Json], annotations: Mapping[int, Sequence[Json]]
) -> ProjectFingerprint:
    """Return the fingerprint of the listed rows, so that any later edit changes it."""
    return replace(
        fingerprint,
        task_count=len(rows),
        annotation_count=sum(map(len, annotations.values())),
        skip_count=sum(bool(a.get("was_cancelled")) for rows in annotations.values() for a in rows),
        last_change=max((str(row["updated_at"]) for row in rows), default=""),
    )


def read_task(
    row: Json,
    config: LabelingConfig,
    label_times: Mapping[str, Mapping[str, str]],
    left_out: Counter[str],
    machine_user: int,
) -> Task:
    """Return a task as `parse_task` does, or one without labels where that fails."""
    try:
        return parse_task(row, config.controls, label_times, left_out, machine_user)
    except Exception:  # a bug; it must not stop the project for the sake of one task
        log.exception("Task %s cannot be read; please report this.", row["id"])
        left_out["task that Prelabel cannot read"] += 1
        return Task(row["id"], {}, open=not row.get("is_labeled"))


def load_label_times(folder: Path) -> dict[str, dict[str, str]]:
    """Return when each label came into the config, as the last observation stored it.

    It is empty if both copies of the file are damaged. All labels then count as present from the
    beginning, as in a project that is new here.
    """
    file = folder / LABEL_TIMES_FILE
    try:
        return read_backed_up(file, dict[str, dict[str, str]], check=_check_times) or {}
    except DamagedFileError as error:
        log_once(str(error))
        return {}


def _label_first_seen(folder: Path, config: LabelingConfig) -> dict[str, dict[str, str]]:
    """Return when each label was added to the config; empty for labels of the first observation.

    An annotation from before a label was added is not a negative example of that label.
    """
    stored = load_label_times(folder)
    times = {name: dict(labels) for name, labels in stored.items()}
    now = datetime.now(UTC).isoformat()
    for control in config.controls:
        control_times = times.setdefault(control.name, {})
        default_time = now if stored else ""
        for name in control.label_names:
            control_times.setdefault(name, default_time)
    file = folder / LABEL_TIMES_FILE
    if times != stored or not has_equal_copies(file):
        write_backed_up(file, times)
    return times


def _check_times(times: Mapping[str, Mapping[str, str]]) -> None:
    for labels in times.values():
        for name, time in labels.items():
            try:
                datetime.fromisoformat(time or "2026-01-01")
            except ValueError as error:
                raise TypeError(f"{name[:40]} has no time") from error


def label_table(observation: Observation) -> dict[str, dict[str, list[Any]]]:
    """Return the labels of a project as JSON, by task and control, as versions store them."""
    return {
        str(task.id): {name: sorted(answer) for name, answer in (task.choices or {}).items()}
        | {name: region_rows(regions) for name, regions in (task.regions or {}).items()}
        for task in observation.labeled
    }


def region_rows(regions: Regions) -> list[list[Any]]:
    """Return rows of ``[label, x0, y0, x1, y1]``, sorted so that drawing order does not matter."""
    rows = [[p.label, *(round(v, 6) for v in (p.x0, p.y0, p.x1, p.y1))] for p in regions]
    return sorted(rows)


def count_changes(previous: LabelSnapshot, current: LabelSnapshot) -> int:
    """Count the tasks whose label was added, changed or removed."""
    return sum(previous.get(task) != current.get(task) for task in previous.keys() | current.keys())
