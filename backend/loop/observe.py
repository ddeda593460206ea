"""What Label Studio holds right now: a cheap pulse, and the whole."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from backend.domain import Control, Task
from backend.label_studio.labeling_config import ReadConfig, read_config
from backend.label_studio.task_results import Json, read_task
from backend.learning.audit import is_audit
from backend.runtime.connection import Connection
from backend.store.files import read_json, write_json

RANDOM = "random"
"""Why the endpoint kept an image that it kept for no other reason."""


@dataclass(frozen=True)
class Pulse:
    """A few numbers that are equal as long as nothing changed. Three quick calls.

    Attributes:
        config: hash of the labeling config.
        tasks: how many tasks.
        annotations: how many annotations, skipped ones too.
        changed: when a task or annotation was last touched.
        follows: the version that the project's queue follows.
        sampling: how the project picks the next task.
        title: the project's.
        skipped: how many of the annotations say that somebody skipped a task.
    """

    config: str
    tasks: int
    annotations: int
    changed: str
    follows: str = field(compare=False)
    sampling: str = field(compare=False)
    title: str = field(compare=False)
    xml: str = field(compare=False, repr=False)
    skipped: int = 0


@dataclass(frozen=True)
class Observation:
    """Everything a round needs to know of a project.

    Attributes:
        pulse: as the lists show it, so that what changes meanwhile is seen next time.
        identity: tells the project from all others, for ever.
        config: the served controls and the reasons for the others.
        tasks: all tasks.
        left_out: what is not used, counted by reason.
    """

    pulse: Pulse
    identity: str
    config: ReadConfig
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
        return task.captured in ("", RANDOM) and is_audit(self.identity, task.id)


def take_pulse(connection: Connection) -> Pulse:
    """Ask Label Studio for the few numbers that tell whether anything changed."""
    project = connection.client.project(connection.number)
    counts = connection.client.counts(connection.number)
    xml = str(project.get("label_config") or "")
    skipped = int(counts.get("skipped_annotations_number") or 0)
    return Pulse(
        config=hashlib.sha256(xml.encode()).hexdigest(),
        tasks=int(counts.get("task_number") or 0),
        annotations=int(counts.get("total_annotations_number") or 0) + skipped,
        changed=connection.client.last_change(connection.number),
        follows=str(project.get("model_version") or ""),
        sampling=str(project.get("sampling") or ""),
        title=str(project.get("title") or ""),
        xml=xml,
        skipped=skipped,
    )


def observe(connection: Connection, folder: Path, pulse: Pulse) -> Observation:
    """List everything.

    Args:
        connection: the project.
        folder: the project's, where it is kept when labels came into the config.
        pulse: just taken.

    Raises:
        ConfigError: the labeling config is no XML.
        LabelStudioError: Label Studio refused or went away.
    """
    config = read_config(pulse.xml)
    added = _label_times(folder, config)
    left: Counter[str] = Counter(
        f"control {name} ({reason})" for name, reason in config.left_out.items()
    )
    rows = list(connection.client.tasks(connection.number))
    annotations = connection.client.annotations(connection.number)
    machine = connection.client.known_machine()  # by its address: a lost home loses nothing
    tasks = tuple(_task(row, annotations, config, added, left, machine) for row in rows)
    listed = _listed(pulse, rows, annotations)
    return Observation(listed, connection.record.identity, config, tasks, left)


def _listed(pulse: Pulse, rows: Sequence[Json], annotations: Mapping[int, Sequence[Json]]) -> Pulse:
    """The pulse of what was listed: tasks first, so that a later edit is newer than all of them."""
    return replace(
        pulse,
        tasks=len(rows),
        annotations=sum(map(len, annotations.values())),
        skipped=sum(bool(a.get("was_cancelled")) for rows in annotations.values() for a in rows),
        changed=max((str(row["updated_at"]) for row in rows), default=""),
    )


def _task(
    row: Json,
    annotations: Mapping[int, list[Json]],
    config: ReadConfig,
    added: Mapping[str, Mapping[str, str]],
    left: Counter[str],
    machine: int,
) -> Task:
    row = {**row, "annotations": annotations.get(row["id"], [])}
    return read_task(row, config.controls, added, left, machine)


def _label_times(folder: Path, config: ReadConfig) -> dict[str, dict[str, str]]:
    """When each label was first seen in the config; empty for those of the project's first sight.

    An answer that is older than a label says nothing about that label.
    """
    file = folder / "label_times.json"
    known: dict[str, dict[str, str]] = read_json(file) or {}
    times = {name: dict(labels) for name, labels in known.items()}
    now = datetime.now(UTC).isoformat()
    for control in config.controls:
        seen = times.setdefault(control.name, {})
        first = now if known else ""
        for name in control.label_names:
            seen.setdefault(name, first)
    if times != known:
        write_json(file, times)
    return times
